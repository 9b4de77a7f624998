"""A data set by its name: built in, a folder, or a name on the hub."""

from os import PathLike
from os.path import abspath
from typing import Literal

from steelyard._common.checks import check_choice
from steelyard.data.builtin import TASKS
from steelyard.data.dataset import Dataset
from steelyard.data.hub import from_hugging_face


def load_dataset(
    name: str | PathLike[str], *, image_mode: Literal["L", "RGB"] | None = None, image_size: int | None = None
) -> Dataset:
    """Open a data set by name.

    Args:
        name: built in, without a download: ``digits`` (scikit-learn's, 8 x 8; a fixed stratified quarter is the
            test split), ``digits-rotated`` (40 classes), ``digit-pairs`` (100), ``stdlib-text`` (150) or
            ``gaussians`` (200), see `steelyard.data.builtin`; a folder in the layout of a hub snapshot,
            as a path object always is; or a hub name. For a folder nothing is fetched, and no file outside it is
            read, whatever its README, links or records say. The image and label columns are found by their feature
            types (of several label columns, ``label`` or ``fine_label``); the test split is ``test``, or else
            ``validation``.
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
        >>> import torch
        >>> data = load_dataset("digits")
        >>> data.inputs("train", torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """
    name = name if isinstance(name, str) else abspath(name)
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
    return from_hugging_face(name, image_mode, image_size)


def _built_in(name: str) -> Dataset:
    try:
        names, train, test = TASKS[name]()
    except ImportError:
        raise ImportError(f"dataset {name!r} needs scikit-learn: pip install 'steelyard[sklearn]'") from None
    inputs = {"train": train[0], "test": test[0]}
    return Dataset(name, names, train[1], test[1], lambda split, indices: inputs[split][indices])
