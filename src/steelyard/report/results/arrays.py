"""Arrays that lie beside the results."""

import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from steelyard._common.text import reason_of
from steelyard.report.style import Array


def read_confusions(file: str | PathLike[str], size: int, *names: str) -> dict[str, Array]:
    """Read mean confusions, (K, K) float64 each, from an .npz file.

    Args:
        file: the file.
        size: K.
        names: of the arrays that must be there. Default: all that are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off, or an array is missing or no (K, K) numbers; the sentence names both.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; the folder must be kept whole")
    try:
        with file.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in names or arrays.files}
    except KeyError as error:
        raise ValueError(f"{file}: {error.args[0]}") from None
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not a whole .npz file ({reason_of(error)})") from None
    for name, array in found.items():
        if array.shape != (size, size) or array.dtype.kind not in "fiu":
            raise ValueError(
                f"{file}: {name} must be ({size}, {size}) numbers, got {array.shape} of {array.dtype}"
            )
    return {name: np.asarray(array, dtype=np.float64) for name, array in found.items()}
