"""Commands: file in, folder out. The command line parses and prints."""
