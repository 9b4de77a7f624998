"""Other libraries' interfaces over the core; each module imports only with its library."""
