"""Images of any mode and size, decoded to one tensor."""

import io
import math
import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.files import check_inside, file_digest

_SHOWN = 10
_LARGEST_IN_MEMORY = 4 << 30  # bytes of decoded ones


def decode_images(
    where: str,
    rows: list[int],
    records: Iterable[dict[str, Any]],
    mode: str | None,
    size: int | None,
    places: list[Path],
) -> Tensor:
    """Return the images in one tensor; every one must come out in one mode and size.

    Args:
        where: what to call the column in an error.
        rows: numbers of the rows, for errors.
        records: of each row the bytes of an image, or the path of its file.
        mode, size: to convert to.
        places: folders that such a file must lie in, once links are followed.
    """
    from PIL import Image

    result: Tensor | None = None
    first_mode, first_size, corrupt = mode, None, []
    for position, (row, record) in enumerate(zip(rows, records, strict=True)):
        try:
            source = _source(record, places)
        except ValueError as error:
            raise ValueError(f"{where}, row {row}: {error}") from None
        try:
            with Image.open(source) as image:
                image.load()
                deep = image.mode if image.mode == "F" or image.mode.startswith("I") else None
                picture: Image.Image = image.convert(mode) if mode is not None else image.copy()
        except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError):
            corrupt.append(row)
            continue
        if deep is not None:
            raise ValueError(
                f"{where}, row {row} is of mode {deep}, more than 8 bits a pixel, which conversion would cut off; "
                "scale it to 8 bits"
            )
        if mode is None and picture.mode not in ("L", "RGB"):
            raise ValueError(f"{where}, row {row} is of mode {picture.mode}; say image_mode L or RGB to convert")
        if size is not None:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        first_mode, first_size = first_mode or picture.mode, first_size or picture.size
        if picture.mode != first_mode:
            raise ValueError(
                f"{where}, row {row} is of mode {picture.mode}, others are {first_mode}; say image_mode L or RGB"
            )
        if picture.size != first_size:
            raise ValueError(
                f"{where}, row {row} is {picture.size[0]} x {picture.size[1]} pixels, others are "
                f"{first_size[0]} x {first_size[1]}; say image_size"
            )
        pixels = torch.from_numpy(np.array(picture))
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        if result is None:
            result = _pixels((len(rows), *pixels.shape))
        result[position] = pixels
    if corrupt or result is None:
        shown = ", ".join(map(str, corrupt[:_SHOWN])) + (", ..." if len(corrupt) > _SHOWN else "")
        raise ValueError(
            f"{where} has {len(corrupt)} image{'s' * (len(corrupt) != 1)} that cannot be decoded, in rows {shown}"
        )
    return result


def image_digests(records: Iterable[dict[str, Any]], places: list[Path]) -> list[str | None]:
    """Return the SHA-256 of each image as it is stored, without decoding it; None where it cannot be read.

    Args:
        records, places: as :func:`decode_images` takes them.
    """

    def digest(record: dict[str, Any]) -> str | None:
        try:
            source = _source(record, places)
            return file_digest(source) if isinstance(source, Path) else sha256(source.getbuffer()).hexdigest()
        except (OSError, ValueError):
            return None  # decoding says why

    return [digest(record) for record in records]


def _source(record: dict[str, Any], places: list[Path]) -> Path | io.BytesIO:
    """Return what to decode; nothing, which is no image, where there is neither bytes nor a regular file."""
    if record["bytes"] is not None or record["path"] is None:
        return io.BytesIO(record["bytes"] or b"")
    path = Path(record["path"])
    check_inside([path], places)
    return path if path.is_file() else io.BytesIO()  # a pipe would be waited for


def _pixels(shape: tuple[int, ...]) -> Tensor:
    """Return a uint8 tensor to be filled; a large one lies in a temporary file, which goes when the tensor
    does."""
    size = math.prod(shape)
    if size <= _LARGEST_IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(prefix="steelyard-") as file:  # its pages stay mapped without the name
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash later
            except OSError as error:
                error.filename = file.name
                raise
        # numpy's map: other processes get a copy in shared memory, where torch's own is an error
        return torch.from_numpy(np.memmap(file.name, dtype=np.uint8, mode="r+", shape=shape))
