"""Compiled code that an installation may have, as each folder of kernels finds its own."""

import ctypes
from pathlib import Path


def load(beside: str, name: str, abi: int) -> ctypes.CDLL | None:
    """Return the library `lib<name>.so` beside a file, or None if there is none, or one of another source.

    Args:
        beside: a file in the folder of the library.
        name: of the folder; the library's function `<name>_abi` says which functions it has.
        abi: what that function has to return.
    """
    try:
        found = ctypes.CDLL(str(Path(beside).with_name(f"lib{name}.so")))
        return found if getattr(found, f"{name}_abi")() == abi else None
    except (OSError, AttributeError):  # no library, or one without this function
        return None
