"""Arrays of predictions: NPY and NPZ, streamed, never unpickled."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from steelyard.data.predictions.source import Array, Source, check_file, check_magic, label_name, list_names, short

# Arrays


@dataclass(frozen=True)
class _Header:
    """The header of a stored array; `offset` is where its data begin."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int


def open_npy(path: Path, target: str | None, values: str) -> Source:
    if target is None:
        raise ValueError(f"{path} holds no labels: give target, the .npy file of them")
    paths = (path, Path(target))
    check_file(paths[1])
    headers = []
    for each in paths:
        check_magic(each, "an NPY file", b"\x93NUMPY")
        with each.open("rb") as file:
            headers.append(_header(str(each), file, each.stat().st_size))
    _check_arrays((str(paths[0]), str(paths[1])), headers)

    def read(rows: int, missing: bool) -> Iterator[tuple[Array, Array]]:
        numbers, labels = (
            np.memmap(each, h.dtype, "r", h.offset, h.shape, "F" if h.is_fortran else "C")
            for each, h in zip(paths, headers, strict=True)
        )
        for first in range(0, len(labels), rows):
            yield numbers[first : first + rows], labels[first : first + rows]

    return Source(headers[0].shape[1], str(paths[1]), headers[1].dtype.kind == "U", read)


def open_npz(path: Path, target: str | None, values: str) -> Source:
    check_magic(path, "an NPZ file", b"PK")
    with _unzipping(path), zipfile.ZipFile(path) as archive:
        files = archive.namelist()
        arrays = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
        if values not in arrays:
            raise ValueError(
                f"{path} must have an array {values!r}, its arrays are {list_names(arrays) or 'none'}"
            )
        names = (values, label_name(path, "array", arrays, target))
        if len(set(arrays)) < len(arrays):
            raise ValueError(f"{path} must have arrays of different names, got {list_names(arrays)}")
        where = (f"{path}, array {names[0]!r}", f"{path}, array {names[1]!r}")
        headers = []
        for name, each in zip(names, where, strict=True):
            with archive.open(f"{name}.npy") as member:
                headers.append(_header(each, member, archive.getinfo(f"{name}.npy").file_size))
    _check_arrays(where, headers)
    if headers[0].is_fortran and 1 not in headers[0].shape:
        raise ValueError(f"{where[0]} is stored by columns, which is no stream of rows: save np.ascontiguousarray")

    def read(rows: int, missing: bool) -> Iterator[tuple[Array, Array]]:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            members = [stack.enter_context(archive.open(f"{name}.npy")) for name in names]
            for member, header in zip(members, headers, strict=True):
                member.read(header.offset)
            for first in range(0, headers[0].shape[0], rows):
                count = min(rows, headers[0].shape[0] - first)
                with _unzipping(path):
                    numbers, labels = (_take(m, h, count) for m, h in zip(members, headers, strict=True))
                yield numbers, labels

    return Source(headers[0].shape[1], where[1], headers[1].dtype.kind == "U", read)


@contextlib.contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read, it may be damaged: {short(error)}") from error


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


def _check_arrays(where: tuple[str, str], headers: Sequence[_Header]) -> None:
    for each, header, rank, kinds in zip(where, headers, (2, 1), ("iuf", "iufU"), strict=True):
        if header.dtype.kind not in kinds or (header.dtype.kind == "f" and header.dtype.itemsize > 8):
            accepted = "floating or integer numbers" if rank == 2 else "integers or class names"
            raise TypeError(f"{each} must hold {accepted}, got {header.dtype}")
        if len(header.shape) != rank:
            raise ValueError(f"{each} must have shape {'(N, K)' if rank == 2 else '(N,)'}, got {header.shape}")
        if min(header.shape) < 1:
            raise ValueError(f"{each} has no rows, its shape is {header.shape}")
    if headers[0].shape[0] != headers[1].shape[0]:
        raise ValueError(f"{where[0]} has {headers[0].shape[0]} rows, but {where[1]} has {headers[1].shape[0]}")
