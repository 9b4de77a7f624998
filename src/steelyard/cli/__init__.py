"""The command line: parse, call, print."""

import sys

try:
    from steelyard.cli.main import main
except KeyboardInterrupt:  # before its own handlers are there
    print("steelyard: stopped", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["main"]
