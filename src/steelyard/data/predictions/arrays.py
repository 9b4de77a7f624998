"""Arrays of predictions: NPY and NPZ, streamed, never unpickled."""

import contextlib
import json
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy

from steelyard.data.predictions.source import (
    Array,
    Chunks,
    Field,
    Kind,
    Missing,
    Opened,
    check_file,
    check_magic,
    list_names,
    short,
)

METADATA = "steelyard"  # name of the array in an NPZ that says what was done
_MOST_METADATA = 1 << 22  # bytes


@dataclass(frozen=True)
class _Header:
    """The header of a stored array; `offset` is where its data begin."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def by_columns(self) -> bool:
        return self.is_fortran and len(self.shape) > 1 and 1 not in self.shape


def open_npy(path: Path, target: str | None) -> Opened:
    """Return a file of numbers and, if there is one, its file of labels as arrays, called as the files are."""
    headers: dict[str, _Header | Exception] = {}
    files = [path] if target is None else [path, Path(target)]
    for each in files:
        check_file(each)
        check_magic(each, "an NPY file", b"\x93NUMPY")
        with each.open("rb") as file:
            headers[str(each)] = _header(str(each), file, each.stat().st_size)
    if len(headers) < len(files):
        raise ValueError(f"target must be another file than that of the numbers, got {target} for both")

    def read(columns: Sequence[str], labels: Sequence[str], rows: int, missing: Missing) -> Chunks:
        arrays = []
        for name in (*columns[:1], labels[0]):
            header = headers[name]
            assert isinstance(header, _Header)
            arrays.append(_mapped(name, header))
        for first in range(0, len(arrays[-1]), rows):
            yield _pair([array[first : first + rows] for array in arrays])

    return _opened(path, "", headers, read, {})


def open_npz(path: Path, target: str | None) -> Opened:
    check_magic(path, "an NPZ file", b"PK")
    headers: dict[str, _Header | Exception] = {}
    with _unzipping(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if len(set(names)) < len(names):
            raise ValueError(f"{path} must have arrays of different names, got {list_names(names)}")
        for name in names:
            with archive.open(f"{name}.npy") as member:
                size = archive.getinfo(f"{name}.npy").file_size
                try:
                    headers[name] = _header(f"{path}, array {name!r}", member, size)
                except (ValueError, TypeError) as error:  # of an array that is not asked for it does not matter
                    headers[name] = error

    def read(columns: Sequence[str], labels: Sequence[str], rows: int, missing: Missing) -> Chunks:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            takes = [_taker(path, archive, name, headers[name], stack) for name in (*columns[:1], labels[0])]
            length = _length(headers[labels[0]])
            for first in range(0, length, rows):
                with _unzipping(path):
                    yield _pair([take(first, min(rows, length - first)) for take in takes])

    return _opened(path, "array", headers, read, _metadata(path, headers.get(METADATA)))


def load_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of an NPZ by their names; their headers are checked first, and nothing is unpickled."""
    opened = open_npz(path, None)
    unreadable = next((f.name for f in opened.fields if f.type == "unreadable"), None)
    if unreadable is not None:
        raise ValueError(f"{opened.where(unreadable)} cannot be read: it is damaged, or holds Python objects")
    with _unzipping(path), np.load(path, allow_pickle=False) as archive:
        return {f.name: archive[f.name] for f in opened.fields}


def _opened(
    path: Path,
    what: str,
    headers: dict[str, _Header | Exception],
    read: Callable[[Sequence[str], Sequence[str], int, Missing], Chunks],
    metadata: dict[str, str],
) -> Opened:
    def check(columns: Sequence[str], labels: Sequence[str]) -> None:
        for names in (columns, labels):
            if len(names) > 1:
                raise ValueError(f"{path} must have one array of all classes, got {list_names(names)}")
        found = []
        for name in (columns[0], *labels):
            header = headers[name]
            if isinstance(header, Exception):
                raise header
            found.append(header)
        _check_arrays([opened.where(name) for name in (columns[0], *labels)], found)

    def texts(name: str) -> set[str]:
        return {str(text) for _, labels in read([name], [name], 8192, Missing()) for text in labels}

    def records(columns: Sequence[str], rows: int, missing: Missing) -> Iterator[tuple[Array, Any]]:
        for _, numbers in read([], columns, rows, missing):
            yield (numbers[:, None] if numbers.ndim == 1 else numbers), None

    fields = tuple(_field(name, header) for name, header in headers.items())
    opened = Opened(path, what, fields, read, texts, check, records, metadata=metadata)
    return opened


def _metadata(path: Path, header: "_Header | Exception | None") -> dict[str, str]:
    """Return what Steelyard wrote beside the arrays: texts by name, as JSON; nothing where it is anything else."""
    if not isinstance(header, _Header) or header.dtype.kind != "U" or header.shape != ():
        return {}
    if header.dtype.itemsize > _MOST_METADATA:
        return {}
    with _unzipping(path), zipfile.ZipFile(path) as archive, archive.open(f"{METADATA}.npy") as member:
        member.read(header.offset)
        text = str(_take(member, header, 1)[0]) if header.dtype.itemsize else ""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
            return found
    return {}


def _field(name: str, header: _Header | Exception) -> Field:
    if isinstance(header, Exception):
        return Field(name, "other", "unreadable")
    kinds: dict[str, Kind] = {"i": "integer", "u": "integer", "f": "number", "b": "bool", "U": "text"}
    kind = kinds.get(header.dtype.kind, "other")
    told = f"{header.dtype} {header.shape}"
    if len(header.shape) == 2:
        return Field(name, "list", told, header.shape[1])
    return Field(name, kind if len(header.shape) == 1 else "other", told)


def _length(header: _Header | Exception) -> int:
    assert isinstance(header, _Header)
    return header.shape[0]


def _pair(found: list[Array]) -> tuple[Array, Array]:
    """Return the numbers as rows, none where no columns were asked for, and the labels, which come last."""
    numbers, labels = (found[0], found[1]) if len(found) == 2 else (np.empty((len(found[0]), 0)), found[0])
    return (numbers[:, None] if numbers.ndim == 1 else numbers), labels


@contextlib.contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read, it may be damaged: {short(error)}") from error


def _taker(
    path: Path, archive: zipfile.ZipFile, name: str, header: _Header | Exception, stack: contextlib.ExitStack
) -> Callable[[int, int], Array]:
    """Return a function of (first row, rows) that is called for one run of rows after the other."""
    assert isinstance(header, _Header)
    member = stack.enter_context(archive.open(f"{name}.npy"))
    if header.by_columns:  # which are no stream of rows: unpacked beside, and read from there
        aside = tempfile.TemporaryFile()  # noqa: SIM115  the stack closes it
        stack.callback(aside.close)
        with _unzipping(path):
            shutil.copyfileobj(member, aside)
        aside.flush()
        whole = _mapped(aside, header)
        return lambda first, rows: whole[first : first + rows]
    member.read(header.offset)
    return lambda first, rows: _take(member, header, rows)


def _mapped(file: Any, header: _Header) -> Array:
    order: Literal["C", "F"] = "F" if header.is_fortran else "C"
    return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)


def _take(member: IO[bytes], header: _Header, rows: int) -> Array:
    shape = (rows, *header.shape[1:])
    data = member.read(math.prod(shape) * header.dtype.itemsize)
    if len(data) < math.prod(shape) * header.dtype.itemsize:
        raise EOFError("an array ends early")
    return np.frombuffer(data, header.dtype).reshape(shape)


def _header(where: str, stream: IO[bytes], size: int) -> _Header:
    """Read a header alone, so that nothing is unpickled and no memory is taken on its word."""
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
        header = _Header(*read(stream), offset=stream.tell())
    except Exception as error:
        raise ValueError(f"{where} is not an array in NPY format 1 or 2: {short(error)}") from error
    if header.dtype.hasobject:
        raise TypeError(f"{where} must hold numbers, got Python objects, which are never unpickled")
    expected = math.prod(header.shape) * header.dtype.itemsize
    if size - header.offset != expected:
        raise ValueError(
            f"{where} must hold {expected} bytes of data, got {size - header.offset}; is it truncated?"
        )
    return header


def _check_arrays(where: Sequence[str], headers: Sequence[_Header]) -> None:
    labels = "iufbU" if len(headers[-1].shape) == 1 else "iufb"
    for k, (each, header, kinds) in enumerate(zip(where, headers, ("iuf", labels), strict=False)):
        if header.dtype.kind not in kinds or (header.dtype.kind == "f" and header.dtype.itemsize > 8):
            accepted = ("floating or integer numbers", "integers or class names")[k]
            raise TypeError(f"{each} must hold {accepted}, got {header.dtype}")
        if len(header.shape) not in (1, 2) or (k == 1 and header.shape[1:] == (1,)):
            accepted = ("(N, K), or (N,) for one output", "(N,), or (N, K) of 0 and 1 for K outputs")[k]
            raise ValueError(f"{each} must have shape {accepted}, got {header.shape}")
        if min(header.shape) < 1:
            raise ValueError(f"{each} has no rows, its shape is {header.shape}")
    if headers[0].shape[0] != headers[-1].shape[0]:
        raise ValueError(f"{where[0]} has {headers[0].shape[0]} rows, but {where[-1]} has {headers[-1].shape[0]}")
