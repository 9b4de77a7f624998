"""What every floor may use: checks, pieces of text, files, the private names of torch."""
