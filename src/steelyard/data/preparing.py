"""What is fitted on training rows to make features: scales, categories, words. scikit-learn does the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard._common.memory import available_memory

MOST_CATEGORIES = 100  # of a column; the rarest share one
MOST_WORDS = 4096  # of a column
Transform = Callable[[Any], Tensor]
Fit = Callable[[Any], Transform]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are inputs, and as what.

    Attributes:
        numbers: the median takes the place of missing ones; scaled to mean 0 and standard deviation 1.
        categories: an input for each category, 1 or 0; a missing one is a category, an unknown one is none.
        texts: TF-IDF of the most frequent words.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def fit(self, frame: Any) -> Transform:
        """Return what makes features (n, D), float32, of a frame with these columns, fitted on this one."""
        from sklearn.compose import ColumnTransformer

        made = ColumnTransformer(
            [
                ("numbers", _numbers(), list(self.numbers)),
                ("categories", _categories(), list(self.categories)),
                *((f"words of {name}", _words(), name) for name in self.texts),
            ],
            sparse_threshold=0.0,
        )
        try:
            made.fit(frame)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            raise ValueError(f"texts in {', '.join(self.texts)} have no words of two letters or more") from None
        return _applied(made, len(made.get_feature_names_out()))


def fit_matrix(rows: NDArray[Any]) -> Transform:
    """Return what scales features (n, D) as these ones need it; the median takes the place of NaN."""
    return _applied(_numbers().fit(rows), rows.shape[1])


def _numbers() -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())


def _categories() -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore", max_categories=MOST_CATEGORIES, sparse_output=False)


def _words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, max_features=MOST_WORDS)


def _applied(made: Any, width: int) -> Transform:
    def transform(rows: Any) -> Tensor:
        needed, available = 12.0 * len(rows) * width, available_memory()  # as float64 and as float32
        if available is not None and needed > available:
            raise ValueError(
                f"{len(rows):,} rows of {width:,} features take about {needed / 1e9:,.1f} GB of memory, and there "
                f"are {available / 1e9:,.1f} GB; name fewer columns or take fewer rows"
            )
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(made.transform(rows), dtype=np.float32)
        if not np.isfinite(found).all():
            row, column = (int(at) for at in np.argwhere(~np.isfinite(found))[0])
            raise ValueError(
                f"features must be finite in float32 once scaled, got none in row {row}, input {column}"
            )
        return torch.from_numpy(found)

    return transform
