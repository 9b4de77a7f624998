"""Class weights for a file of labels: every scheme, what it does and cannot do for these counts, code to paste."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from steelyard._common.checks import check_choice
from steelyard._common.text import listed
from steelyard.data.predictions import count_classes
from steelyard.weights.adjustments import batch_presence
from steelyard.weights.class_weights import Scheme, class_weights

_BATCH = 64
_FEW = 10
_STRONG = 100.0  # times the mean weight of a sample
_SHOWN = 5


@dataclass(frozen=True)
class SchemeRow:
    """One scheme of class weights for some counts.

    Attributes:
        scheme: its name.
        weights: (K,).
        same_as: the first scheme of which these weights are a multiple, or None.
        shares: (K,) of the weighted samples: what a model that knows nothing but the classes predicts.
        effective: (sum of weights)^2 / (sum of squared weights) over the samples, as a share of the samples: how
            many samples of equal weight would give a gradient as noisy.
        largest: the weight of a sample of the heaviest class over the mean weight of a sample.
        ratio: of two classes, what P0 / (1 - P1) will be: the mean probability of class 1 over samples of class 0,
            and that of class 0 over samples of class 1; None for more classes.
    """

    scheme: str
    weights: tuple[float, ...]
    same_as: str | None
    shares: tuple[float, ...]
    effective: float
    largest: float
    ratio: float | None


def weights_of_file(
    path: str | os.PathLike[str], *, target: str | None = None, scheme: Scheme = "inverse"
) -> dict[str, Any]:
    """Return every scheme of class weights for the labels of a file, what it does and cannot do, and code.

    Args:
        path: as :func:`steelyard.data.open_predictions` takes it; only the label column is read.
        target: name of the label column. Default: by its name.
        scheme: of the weights in the code.

    Returns:
        What ``steelyard weights --json`` prints.

    Raises:
        ValueError: one class alone, or a file that cannot be read.
    """
    check_choice("scheme", scheme, get_args(Scheme))
    found = count_classes(path, target=target)
    names = [one if isinstance(one, str) else f"class {one}" for one in found.classes]
    if len(names) < 2:
        raise ValueError(f"{path} must have at least two classes, got {names[0]} alone: there is nothing to weigh")
    rows = scheme_rows(found.counts)
    chosen = next(row for row in rows if row.scheme == scheme)
    return {
        "file": os.fspath(path),
        "label": found.label,
        "rows_without_label": found.without,
        "classes": list(found.classes),
        "counts": list(found.counts),
        "schemes": [asdict(row) | {"says": says(row, names, found.counts)} for row in rows],
        "notes": notes(names, found.counts),
        "code_scheme": scheme,
        "code": code(found.classes, chosen.weights),
    }


def scheme_rows(counts: Sequence[int]) -> list[SchemeRow]:
    """Return every scheme for these counts, all positive, with the defaults of its options."""
    n = np.array(counts, dtype=float)
    rows: list[SchemeRow] = []
    for scheme in get_args(Scheme):
        w = class_weights(list(counts), scheme).double().numpy()
        a = w * n
        same = next((row.scheme for row in rows if _proportional(np.array(row.weights), w)), None)
        rows.append(
            SchemeRow(
                scheme,
                tuple(w.tolist()),
                same,
                tuple((a / a.sum()).tolist()),
                float(a.sum() ** 2 / (w**2 * n).sum() / n.sum()),
                float(w.max() / (a.sum() / n.sum())),
                float(a[1] / a[0]) if len(counts) == 2 else None,
            )
        )
    return rows


def says(row: SchemeRow, names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return what a scheme does and cannot do for these counts, a sentence each."""
    if row.same_as is not None:
        return [
            f"The weights of {row.same_as} times a constant: the same optimum under a loss that divides by the "
            "weights, another learning rate elsewhere."
        ]
    if row.scheme == "none":
        told = ["Every sample counts the same."]
        if row.ratio is not None:
            told.append(_of_two(row.ratio, names))
        return told
    heavy, rare = int(np.argmax(row.weights)), int(np.argmin(counts))
    total = sum(counts)
    told = [
        f"{names[rare]} has {row.shares[rare]:.2g} of the weighted samples, {counts[rare] / total:.2g} of the "
        "samples: a model that cannot tell the classes apart predicts the former."
    ]
    if row.ratio is not None:
        told.append(_of_two(row.ratio, names))
    if row.effective < 0.5:
        told.append(f"The gradient is as noisy as from {row.effective:.2g} of the samples.")
    if row.largest > _STRONG:
        told.append(
            f"A sample of {names[heavy]} weighs {row.largest:.3g} times the mean sample: a batch with one is a "
            "step for it alone; max_weight caps that."
        )
    return told


def notes(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return what holds under any scheme for these counts, a sentence each."""
    size = len(counts)
    told = ["Raising the weight of a class never raises its mean loss at the global optimum."]
    if size > 2:
        told.append(
            f"Under softmax the weights give {size - 1} equations for {size * (size - 1)} mean probabilities: "
            "they fix the probability of no class."
        )
    told.append(
        "Classes that the model never confuses do not feel each other's weights, and a model that separates all "
        "training samples feels none. Counts do not tell: `steelyard forecast` does before a training, "
        "`steelyard audit` after it."
    )
    single = [names[k] for k, n in enumerate(counts) if n == 1]
    if single:
        told.append(
            f"{_some(single)} {'has' if len(single) == 1 else 'have'} one sample: no split can both learn and "
            "judge that, and a weight repeats the sample, it adds no other."
        )
    few = [names[k] for k, n in enumerate(counts) if 1 < n < _FEW]
    if few:
        told.append(
            f"{_some(few)} {'has' if len(few) == 1 else 'have'} fewer than {_FEW} samples: a large weight makes a "
            "model remember them."
        )
    presence = batch_presence(list(counts), _BATCH)
    rare = int(presence.argmin())
    if float(presence[rare]) < 0.5:
        told.append(
            f"{float(presence[rare]):.2g} of the batches of {_BATCH} have a sample of {names[rare]}; the mean of "
            "torch divides by the weights of the batch, so that the weight means something else in each batch."
        )
    return told


def code(classes: Sequence[str | int], weights: Sequence[float]) -> dict[str, str]:
    """Return code to paste, by library; labels of torch, XGBoost, keras and transformers are positions."""
    listed_weights = "[" + ", ".join(f"{w:.6g}" for w in weights) + "]"
    by_class = "{" + ", ".join(f"{c!r}: {w:.6g}" for c, w in zip(classes, weights, strict=True)) + "}"
    by_position = "{" + ", ".join(f"{k}: {w:.6g}" for k, w in enumerate(weights)) + "}"
    order = f"# y from 0 to {len(classes) - 1}: {', '.join(map(repr, classes))}"  # a name may hold a line break
    return {
        "torch": f"{order}\nloss = torch.nn.CrossEntropyLoss(weight=torch.tensor({listed_weights}))",
        "scikit-learn": f"model = LogisticRegression(class_weight={by_class})",
        "xgboost": f"{order}\nmodel = XGBClassifier().fit(X, y, sample_weight=np.array({listed_weights})[y])",
        "keras": f"{order}\nmodel.fit(X, y, class_weight={by_position})",
        "transformers": f"{order}\n"
        f'loss_func = steelyard.integrations.huggingface.loss_func("softmax", class_weights={listed_weights})\n'
        "trainer = Trainer(..., compute_loss_func=loss_func)",
    }


def _of_two(ratio: float, names: Sequence[str]) -> str:
    return (
        f"At the optimum of a logistic or softmax loss the mean probability of {names[1]} over the samples of "
        f"{names[0]} will be {ratio:.3g} times that of {names[0]} over those of {names[1]}, whatever the model."
    )


def _proportional(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> bool:
    ratio = one / other
    return bool(ratio.max() - ratio.min() <= 1e-5 * ratio.max())


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return listed([*names[:_SHOWN], *more])
