"""The command line: parse, call, print."""

from steelyard.cli.main import main

__all__ = ["main"]
