"""A data set by its name: built in, a file, a folder, a function, or a name on the hub."""

from os import PathLike
from os.path import abspath
from pathlib import Path
from typing import Literal

from steelyard._common.checks import check_choice
from steelyard._common.text import listed
from steelyard.data.builtin import TASKS
from steelyard.data.dataset import Dataset
from steelyard.data.files import KINDS, from_file
from steelyard.data.hub import from_hugging_face
from steelyard.data.own import from_function, is_code
from steelyard.data.predictions.shards import suffix_of
from steelyard.data.tabular import Asked


def load_dataset(
    name: str | PathLike[str],
    *,
    target: str | None = None,
    features: str | None = None,
    group: str | None = None,
    time: str | None = None,
    image_mode: Literal["L", "RGB"] | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Open a data set by name.

    Args:
        name: one of

            * built in, without a download: ``digits`` (scikit-learn's, 8 x 8; a fixed stratified quarter is the
              test split), ``digits-rotated`` (40 classes), ``digit-pairs`` (100), ``stdlib-text`` (150) or
              ``gaussians`` (200), see `steelyard.data.builtin`;
            * a table, ``.csv``, ``.parquet``, ``.arrow`` and others, of numbers, categories and texts; or a
              ``.npz`` of arrays ``X`` and ``y``;
            * a folder in the layout of a hub snapshot, of images in a folder for each class, or of
              ``save_to_disk``, as a path object always is. Nothing is fetched for it, and no file outside it is
              read, whatever its README, links or records say;
            * a function of yours, ``module:function``, which returns ``(X, y)`` (and is run);
            * or a hub name.

            Images and labels are found by their feature types (of several label columns, ``label`` or
            ``fine_label``); the test split is ``test``, or else ``validation``. Without one, a stratified quarter
            of the rows is set aside, always the same.
        target: name of the label column. Default: the one of ``target``, ``label``, ``labels``, ``y``, ``y_true``
            and ``label_ids`` that there is.
        features: names or patterns of the columns that are inputs, with commas between. Default: all others but
            those that are like an id.
        group: name of a column; rows with the same value stay on one side of every split.
        time: name of a column of numbers, dates or times: test rows are later than training rows, and validation
            rows are the latest of these. Rows of one time stay on one side. Not together with `group`.
        image_mode: convert every image to grey (``"L"``) or ``"RGB"``. Default: as stored, all of one mode.
        image_size: resize every image to this height and width. Default: as stored, all of one size.

    Returns:
        The data set; inputs are made when asked for.

    Raises:
        FileNotFoundError: a file or folder that does not exist.
        ImportError: the library that reads it is not installed.
        ConnectionError: a hub name, and the hub cannot be reached.
        ValueError: no data set of inputs with labels in at least two classes.

    Example:
        >>> import torch
        >>> data = load_dataset("digits")
        >>> data.inputs("train", torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """
    name = name if isinstance(name, str) else abspath(name)
    if not name:
        raise ValueError("dataset name must be built in, a file, a folder, a function or a hub name, got ''")
    if image_mode is not None:
        check_choice("image_mode", image_mode, ("L", "RGB"))
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int)):
        raise TypeError(f"image_size must be an int, got {type(image_size).__name__}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    asked = Asked(target, features, group, time)
    converts = image_mode is not None or image_size is not None
    if name in TASKS:
        if converts or asked.given():
            options = asked.given() or ["image_mode", "image_size"]
            raise ValueError(
                f"dataset {name!r} is built in; {listed(options)} do{'es' * (len(options) == 1)} not apply"
            )
        return _built_in(name)
    file = Path(name).expanduser() if name.startswith("~/") else Path(name)
    own = is_code(name)
    if file.is_dir() or not (own or file.is_file() or suffix_of(file) in KINDS):
        return from_hugging_face(name, asked, image_mode, image_size)
    if converts:
        raise ValueError(f"dataset {name!r} is no folder of images; image_mode and image_size do not apply")
    return from_function(name, asked) if own else from_file(file, asked)


def _built_in(name: str) -> Dataset:
    try:
        names, train, test = TASKS[name]()
    except ImportError:
        raise ImportError(f"dataset {name!r} needs scikit-learn: pip install 'steelyard[sklearn]'") from None
    inputs = {"train": train[0], "test": test[0]}
    return Dataset(name, names, train[1], test[1], lambda split, indices: inputs[split][indices])
