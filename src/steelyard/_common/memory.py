"""What memory there is, and a sentence before anything that needs more."""

import contextlib
import os
from pathlib import Path


def check_memory(what: str, num_classes: int, squares: float) -> float:
    """Return the gigabytes that so many numbers a pair of classes take; refuse more than there are.

    Args:
        what: needs them, for the error.
        num_classes: K.
        squares: how many arrays of (K, K) float64.

    Raises:
        ValueError: more than is available.
    """
    needed, available = 8.0 * squares * num_classes**2, available_memory()
    if available is not None and needed > available:
        fit = int((available / 8 / squares) ** 0.5)
        raise ValueError(
            f"{what} of {num_classes} classes needs about {needed / 1e9:,.0f} GB of memory, which grows with the "
            f"square of the classes, and there are {available / 1e9:,.1f} GB: at most about {fit} classes fit"
        )
    return needed / 1e9


def available_memory() -> float | None:
    """Return the bytes that can be had without swapping, or None where the system does not tell."""
    found: list[float] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        found.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)
