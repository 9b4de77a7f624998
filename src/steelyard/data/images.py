"""Images of any mode and size, decoded to one tensor."""

import io
import math
import os
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SHOWN = 10
_LARGEST_IN_MEMORY = 4 << 30  # bytes of decoded ones


def decode_images(
    where: str, rows: list[int], records: Iterable[dict[str, Any]], mode: str | None, size: int | None
) -> Tensor:
    """Decode into one tensor; every image must come out in one mode and size."""
    from PIL import Image

    result: Tensor | None = None
    first_mode, first_size, corrupt = mode, None, []
    for position, (row, record) in enumerate(zip(rows, records, strict=True)):
        try:
            source = io.BytesIO(record["bytes"]) if record["bytes"] is not None else os.fspath(record["path"])
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
