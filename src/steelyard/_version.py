"""The version, which files name: apart from the package itself, so that any floor may read it."""

__version__ = "0.1.0"
