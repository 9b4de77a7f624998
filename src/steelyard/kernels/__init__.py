"""Fast paths that the losses dispatch to; not for users, who call `steelyard.losses`."""
