"""Image data sets: those that need no download, and any folder or hub name that Hugging Face `datasets` reads."""

import difflib
import io
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._validation import check_choice
from steelyard.data.tasks import TASKS

_TEST_SPLITS = ("test", "validation", "valid")
_INTEGERS = ("int", "uint")
_SHOWN = 10
_DECODED_TOGETHER = 1024  # encoded images that are in memory at a time
_LARGEST_IN_MEMORY = 4 << 30  # bytes of decoded ones


@dataclass(frozen=True)
class ImageDataset:
    """Labels in memory, images decoded on demand.

    Attributes:
        name: as it was asked for.
        class_names: K names.
        train_target, test_target: labels from 0 to K - 1, int64.
    """

    name: str
    class_names: tuple[str, ...]
    train_target: Tensor
    test_target: Tensor
    _decode: Callable[[str, Tensor], Tensor] = field(repr=False)

    def images(self, split: Literal["train", "test"], indices: Tensor) -> Tensor:
        """Images (n, C, H, W), uint8, of these rows of a split.

        More than 4 GiB of decoded images are mapped from a temporary file (in ``TMPDIR``), not held in memory.

        Raises:
            TypeError: indices that are no integers.
            IndexError: a row that the split does not have.
            ValueError: rows that cannot be decoded (they are listed), mixed modes, or mixed sizes.
        """
        check_choice("split", split, ("train", "test"))
        rows = len(self.train_target if split == "train" else self.test_target)
        if indices.dim() != 1 or indices.dtype not in (torch.int64, torch.int32):
            dtype = str(indices.dtype).removeprefix("torch.")
            raise TypeError(f"indices must be integers (n,), got {dtype} of shape {tuple(indices.shape)}")
        if len(indices) == 0:  # the first row tells C, H and W
            return self._decode(split, torch.tensor([0]))[:0]
        for row in (int(indices.min()), int(indices.max())):
            if not 0 <= row < rows:
                raise IndexError(f"indices must be from 0 to {rows - 1} in split {split}, got {row}")
        return self._decode(split, indices)


def load_dataset(
    name: str, *, image_mode: Literal["L", "RGB"] | None = None, image_size: int | None = None
) -> ImageDataset:
    """Open a data set by name.

    Args:
        name: built in, without a download: ``digits`` (scikit-learn's, 8 x 8; a fixed stratified quarter is the
            test split), ``digits-rotated`` (40 classes), ``digit-pairs`` (100), ``stdlib-text`` (150) or
            ``gaussians`` (200), see `steelyard.data.tasks`; a folder in the layout of a Hugging Face hub snapshot;
            or a hub name. The image and label columns are found by their feature types (of several label columns,
            ``label`` or ``fine_label``); the test split is ``test``, or else ``validation``.
        image_mode: convert every image to grey (``"L"``) or ``"RGB"``. Default: as stored, all of one mode.
        image_size: resize every image to this height and width. Default: as stored, all of one size.

    Returns:
        The data set; images are decoded when asked for.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ImportError: the library that reads it is not installed.
        ConnectionError: a hub name, and the hub cannot be reached.
        ValueError: no data set of images with labels in at least two classes.

    Example:
        >>> data = load_dataset("digits")
        >>> data.images("train", torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """
    if not name:
        raise ValueError("dataset name must be built in, a folder or a hub name, got ''")
    if image_mode is not None:
        check_choice("image_mode", image_mode, ("L", "RGB"))
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int)):
        raise TypeError(f"image_size must be an int, got {type(image_size).__name__}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if name in TASKS:
        if image_mode is not None or image_size is not None:
            raise ValueError(f"dataset {name!r} is built in; image_mode and image_size do not apply")
        return _built_in(name)
    return _from_hugging_face(name, image_mode, image_size)


def _built_in(name: str) -> ImageDataset:
    try:
        names, train, test = TASKS[name]()
    except ImportError:
        raise ImportError(f"dataset {name!r} needs scikit-learn: pip install 'steelyard[sklearn]'") from None
    images = {"train": train[0], "test": test[0]}
    return ImageDataset(name, names, train[1], test[1], lambda split, indices: images[split][indices])


def _from_hugging_face(name: str, image_mode: str | None, image_size: int | None) -> ImageDataset:
    try:
        import datasets
    except ImportError:
        raise ImportError(f"dataset {name!r} needs Hugging Face datasets: pip install 'steelyard[hf]'") from None
    splits = _open(name)
    if "train" not in splits:
        raise ValueError(f"dataset {name!r} has no train split, only {', '.join(splits)}")
    test_name = next((s for s in _TEST_SPLITS if s in splits), None)
    if test_name is None:
        raise ValueError(
            f"dataset {name!r} has no test split (one of {', '.join(_TEST_SPLITS)}), only {', '.join(splits)}"
        )
    features = splits["train"].features
    image_column = _only_column(
        name, "image", [c for c, f in features.items() if isinstance(f, datasets.Image)], features
    )
    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if not labels:  # plain integers, where the name says what they are
        labels = [
            c for c, f in features.items() if c == "label" and str(getattr(f, "dtype", "")).startswith(_INTEGERS)
        ]
    if len(labels) > 1:  # CIFAR-100 has its classes and groups of them
        labels = [c for c in labels if c in ("label", "fine_label")] or labels
    label_column = _only_column(name, "label", labels, features)

    parts = {"train": splits["train"], "test": splits[test_name]}
    feature = features[label_column]
    named = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    targets = {
        split: _labels(name, split_name, label_column, parts[split][label_column], named)
        for split, split_name in (("train", "train"), ("test", test_name))
    }
    size = int(max(t.max() for t in targets.values())) + 1
    names = named or tuple(map(str, range(size)))
    counts = torch.bincount(targets["train"], minlength=len(names))
    if int((counts > 0).sum()) < 2:
        raise ValueError(f"dataset {name!r}, split train, column {label_column!r} must hold at least two classes")
    if bool((counts == 0).any()):
        missing = names[int((counts == 0).nonzero()[0])]
        raise ValueError(
            f"dataset {name!r}, split train, column {label_column!r} has no sample of class {missing!r}"
        )
    raw = {s: part.cast_column(image_column, datasets.Image(decode=False)) for s, part in parts.items()}

    def decode(split: str, indices: Tensor) -> Tensor:
        where = f"dataset {name!r}, split {split if split == 'train' else test_name}, column {image_column!r}"
        rows = indices.tolist()
        parts = (rows[start : start + _DECODED_TOGETHER] for start in range(0, len(rows), _DECODED_TOGETHER))
        records = (record for part in parts for record in raw[split].select(part)[image_column])
        return _decode_images(where, rows, records, image_mode, image_size)

    return ImageDataset(name, names, targets["train"], targets["test"], decode)


def _open(name: str) -> Any:
    """The splits of a folder or a hub name."""
    import datasets

    path = Path(name).expanduser()
    local = path.is_dir()
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()):
        raise FileNotFoundError(f"dataset folder {name} does not exist or is not a folder")
    if not local and "/" not in name:
        near = difflib.get_close_matches(name, list(TASKS), n=1)
        if near:
            raise ValueError(f"unknown dataset {name!r}; did you mean {near[0]!r}?")
    progress_was_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    hub = logging.getLogger("huggingface_hub")  # tells of every retry; the sentence below is enough
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(str(path) if local else name)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if local:
            raise ValueError(f"dataset folder {name} cannot be read: {reason}") from error
        raise ConnectionError(
            f"dataset {name!r} is neither built in ({', '.join(TASKS)}) nor a folder here, and the Hugging "
            f"Face hub did not give it ({reason}); name a local folder as ./folder"
        ) from error
    finally:
        hub.setLevel(level)
        if not progress_was_off:
            datasets.enable_progress_bars()


def _only_column(name: str, kind: str, found: list[str], features: Any) -> str:
    if len(found) != 1:
        number = f"several {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
        raise ValueError(
            f"dataset {name!r}, split train must have one {kind} column, got {number} among {', '.join(features)}"
        )
    return found[0]


def _labels(
    name: str, split: str, column: str, values: Sequence[int | None], names: Sequence[str] | None
) -> Tensor:
    labels = list(values)
    for row, value in enumerate(labels):
        if value is None or value < 0:
            raise ValueError(
                f"dataset {name!r}, split {split}, column {column!r} has no label in row {row}, got {value}"
            )
        if names is not None and value >= len(names):
            raise ValueError(
                f"dataset {name!r}, split {split}, column {column!r} has label {value} in row {row}, "
                f"but only {len(names)} class names"
            )
    if not labels:
        raise ValueError(f"dataset {name!r}, split {split} has no rows")
    return torch.tensor(labels)


def _decode_images(
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
    """A uint8 tensor to be filled; a large one lies in a temporary file, which goes when the tensor does."""
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
