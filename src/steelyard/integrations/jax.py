"""JAX: the softmax, logistic and LGL-INR losses and the balance law as pure functions, for jit, vmap and grad."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from steelyard._common.checks import (
    REDUCTIONS,
    Beta,
    Reduction,
    check_beta,
    check_choice,
    check_integer,
    check_number,
)
from steelyard.losses.options import NORMALIZATIONS, Normalization

try:
    import jax
    import jax.numpy as jnp
    from jax import Array
except ImportError as error:
    raise ImportError(f"steelyard.integrations.jax needs jax ({error}): pip install 'steelyard[jax]'") from None

ArrayLike = Any
"""A JAX or NumPy array, or a sequence of numbers."""


class Balance(NamedTuple):
    """Both sides of a balance law, (K,) each; they are equal where the bias of the head has no gradient."""

    pull_up: Array
    push_down: Array


def softmax(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    logit_adjustment: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalization: Normalization = "weights",
) -> Array:
    r"""Return the softmax loss, as :class:`~steelyard.SoftmaxLoss` does.

    .. math:: \ell_i = w_{y_i} \Big[-(1-\epsilon) \log p_{i y_i} - \tfrac{\epsilon}{K} \sum_j \log p_{ij}\Big]

    Args:
        logits: (..., K), floating, classes last. float64 is computed in float64, any other in float32.
        target: (...) labels from 0 to K - 1. A label out of range is an error, under ``jit`` a loss of NaN (where
            ``jax_enable_x64`` is off, JAX itself wraps labels of 64 bits that are given to a jitted function).
        class_weights, logit_adjustment: (K,). Default: none.
        label_smoothing: epsilon in [0, 1].
        ignore_index: label of positions that count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, which gives (...).
        normalization: what the mean divides by: ``"weights"``, ``"count"`` or ``"none"``.

    Raises:
        TypeError, ValueError: dtypes, shapes, labels or options other than described.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> softmax(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])).round(4)
        Array(0.41, dtype=float32)
    """
    rows = _read(logits, target, ignore_index)
    z, size = _adjusted(rows, logit_adjustment), rows.z.shape[1]
    if size < 2:
        raise ValueError(f"logits must have at least two classes for the softmax loss, got {size}")
    epsilon = check_number("label_smoothing", label_smoothing, low=0, high=1)
    log_p = jax.nn.log_softmax(z, axis=1)
    losses = -_own(log_p, rows.y)
    if epsilon:
        losses = (1 - epsilon) * losses - epsilon * log_p.mean(1)
    return _reduced(rows, losses, jnp.shape(target), class_weights, reduction, normalization)


def logistic(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    output_weights: ArrayLike | None = None,
    logit_adjustment: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalization: Normalization = "count",
) -> Array:
    r"""Return the logistic loss of class labels, one-vs-all or of one output, as :class:`~steelyard.LogisticLoss`.

    .. math:: \ell_i = c_{y_i} \Big[v_{y_i} u_{y_i}\, s(-z_{i y_i}) + \sum_{j \ne y_i} v_j\, s(z_{ij})\Big],
        \qquad s(z) = \log(1 + e^z)

    Args:
        logits: (..., K), floating, classes last; (..., 1) for one output, whose labels are 0 and 1.
        target: (...) labels, as for :func:`softmax`.
        class_weights: (K,), (2,) for one output. Default: none.
        pos_weight, output_weights, logit_adjustment: (K,) :math:`u`, :math:`v` and what is added. Default: none.
        label_smoothing, ignore_index, reduction, normalization: as for :func:`softmax`.

    Raises:
        TypeError, ValueError: dtypes, shapes, labels or options other than described.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> logistic(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])).round(4)
        Array(1.1032, dtype=float32)
    """
    rows = _read(logits, target, ignore_index)
    z, size = _adjusted(rows, logit_adjustment), rows.z.shape[1]
    epsilon = check_number("label_smoothing", label_smoothing, low=0, high=1)
    own = (rows.y == 1)[:, None] if size == 1 else rows.y[:, None] == jnp.arange(size)
    T = (1 - epsilon) * own + epsilon / max(size, 2)
    up = T * jax.nn.softplus(-z)
    if pos_weight is not None:
        up = up * _vector("pos_weight", pos_weight, size, z)
    each = up + (1 - T) * jax.nn.softplus(z)
    if output_weights is not None:
        each = each * _vector("output_weights", output_weights, size, z)
    return _reduced(rows, each.sum(1), jnp.shape(target), class_weights, reduction, normalization)


def lgl_inr(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    beta: Beta = 1.0,
    detach_weights: bool = False,
    output_weights: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    logit_adjustment: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Array:
    r"""Return the in-negative reweighted logistic loss of a batch, as :class:`~steelyard.LGLINRLoss` does.

    .. math:: \ell_j = v_j \Big[u_j\, [j \in C]\, \tfrac{1}{n_j} \sum_{i \in j} s(-z_{ij})
               + \sum_{k \in C, k \ne j} \omega_{kj} A_{kj}\Big]

    It is a function of the whole batch: under ``vmap`` each slice is a batch, and under ``pmap`` or sharded data
    a device's part would be one, so gather the logits first.

    Args:
        logits: (..., K), floating, classes last.
        target: (...) labels, as for :func:`softmax`.
        beta: stress on hard classes, or ``"auto"``.
        detach_weights: treat :math:`\omega` as a constant in the gradient.
        output_weights, pos_weight, logit_adjustment: (K,) :math:`v`, :math:`u` and what is added. Default: none.
        ignore_index: label of positions that count for nothing.
        reduction: ``"mean"`` or ``"sum"`` over the K columns, or ``"none"``, which gives (K,).

    Raises:
        TypeError, ValueError: dtypes, shapes, labels or options other than described.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
        >>> lgl_inr(logits, jnp.array([0, 1, 1])).round(4)
        Array(0.894, dtype=float32)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    rows = _read(logits, target, ignore_index)
    z, size = _adjusted(rows, logit_adjustment), rows.z.shape[1]
    u = None if pos_weight is None else _vector("pos_weight", pos_weight, size, z)
    columns = _lgl_inr_columns(z, rows, u, check_beta(beta, size), detach_weights=bool(detach_weights))
    if output_weights is not None:
        columns = columns * _vector("output_weights", output_weights, size, z)
    return columns if reduction == "none" else columns.sum() if reduction == "sum" else columns.mean()


@functools.partial(jax.jit, static_argnames="detach_weights")
def _lgl_inr_columns(z: Array, rows: "_Rows", u: Array | None, beta: float, *, detach_weights: bool) -> Array:
    """Return the loss of each column without the weights of outputs, (K,) of (M, K) logits."""
    size = z.shape[1]
    weight = (~rows.ignored).astype(z.dtype)
    counts = jnp.zeros(size, z.dtype).at[rows.y].add(weight)
    share = (weight / jnp.maximum(counts, 1)[rows.y])[:, None]

    def means(values: Array) -> Array:
        return jnp.zeros((size, size), z.dtype).at[rows.y].add(values * share)

    P, A = means(jax.nn.sigmoid(z)), means(jax.nn.softplus(z))
    there = (counts > 0)[:, None] & ~jnp.eye(size, dtype=bool)
    scores = jnp.where(there, beta * P, -jnp.inf)
    highest = jax.lax.stop_gradient(scores.max(0))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    e = jnp.where(there, jnp.exp(jnp.where(there, beta * P, 0.0) - highest), 0.0)
    total = e.sum(0)
    omega = e / jnp.where(total > 0, total, 1.0)
    if detach_weights:
        omega = jax.lax.stop_gradient(omega)
    pull = jnp.zeros(size, z.dtype).at[rows.y].add(jax.nn.softplus(-_own(z, rows.y)) * share[:, 0])
    columns = (pull if u is None else pull * u) + (omega * A).sum(0)
    return jnp.where(rows.bad.any(), jnp.nan, columns)


def law(
    loss: Callable[[Array, Array], Array],
    logits: ArrayLike,
    target: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    ignore_index: int = -100,
) -> Balance:
    r"""Return pull and push of each output, as :func:`steelyard.balance.law` does, of any loss in JAX.

    .. math:: \text{pull}_j = -\tfrac{1}{S} \sum_{i: y_i = j} w_j\, g_{ij}, \qquad
        \text{push}_j = \tfrac{1}{S} \sum_{i: y_i \ne j} w_{y_i}\, g_{ij}, \qquad g = \partial \ell / \partial z

    Args:
        loss: a function of logits (N, K) and labels (N,): the (N,) losses of the samples without class weights,
            such as ``functools.partial(softmax, reduction="none")``, with :math:`S = \sum_i w_{y_i}`; or the loss
            of the batch, a number, such as ``functools.partial(lgl_inr, reduction="sum")``, with S = 1.
        logits: (..., K), K >= 2, classes last.
        target: (...) labels.
        class_weights: (K,) of a loss of samples. Default: all 1.
        ignore_index: label of positions that are left out.

    Raises:
        TypeError, ValueError: dtypes, shapes or labels other than described; weights of a loss of a batch.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, for softmax and logistic; for any other loss derived for this project.

    Example:
        >>> from functools import partial
        >>> pull, push = law(partial(softmax, reduction="none"), jnp.eye(2), jnp.array([0, 1]))
        >>> bool(jnp.abs(pull - push).max() < 1e-6)
        True
    """
    rows = _read(logits, target, ignore_index)
    size = rows.z.shape[1]
    if size < 2:
        raise ValueError(f"logits must have at least two classes for a law, got {size}")
    labels = jnp.where(rows.ignored, ignore_index, rows.y)
    shape = jax.eval_shape(loss, rows.z, labels).shape
    if shape not in ((), rows.y.shape):
        raise ValueError(f"loss must give a number or one loss a sample, {rows.y.shape}, got shape {shape}")
    if shape == (size,) and len(rows.y) == size and _is_of_outputs(loss, rows.z, labels):
        raise ValueError(
            f"loss must give a number or one loss a sample, ({size},), got one loss for each of {size} outputs"
        )
    if class_weights is not None and shape == ():
        raise ValueError("class_weights must be None for the loss of a batch, which has no loss of a sample")
    weights, mass = jnp.ones(len(rows.y), rows.z.dtype), jnp.ones((), rows.z.dtype)
    if shape != ():
        weights = (~rows.ignored).astype(rows.z.dtype)
        if class_weights is not None:
            weights = weights * _vector("class_weights", class_weights, size, rows.z)[rows.y]
        mass = weights.sum()
    g = jax.grad(lambda z: loss(z, labels).sum())(rows.z) * weights[:, None]
    own = (rows.y[:, None] == jnp.arange(size)) & ~rows.ignored[:, None]
    mass = jnp.where(mass > 0, mass, 1.0)
    bad = rows.bad.any()
    pull, push = -jnp.where(own, g, 0.0).sum(0) / mass, jnp.where(own, 0.0, g).sum(0) / mass
    return Balance(jnp.where(bad, jnp.nan, pull), jnp.where(bad, jnp.nan, push))


def _is_of_outputs(loss: Callable[[Array, Array], Array], z: Array, y: Array) -> bool:
    """Return whether one sample more leaves the shape of the losses as it is."""
    more = [jax.ShapeDtypeStruct((len(x) + 1, *x.shape[1:]), x.dtype) for x in (z, y)]
    return bool(jax.eval_shape(loss, *more).shape == y.shape)


class _Rows(NamedTuple):
    """Logits (M, K), 0 where ignored; labels (M,), 0 where ignored or `bad`, which is out of range."""

    z: Array
    y: Array
    ignored: Array
    bad: Array


def _read(logits: ArrayLike, target: ArrayLike, ignore_index: int) -> _Rows:
    z = jnp.asarray(logits)
    known = not isinstance(target, jax.core.Tracer)
    y = np.asarray(target) if known else target  # JAX would wrap labels of 64 bits
    if not -(2**31) <= check_integer("ignore_index", ignore_index) < 2**31:
        raise ValueError(f"ignore_index must be an int of 32 bits, got {ignore_index}")
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {z.dtype}")
    if not (jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == bool):
        raise TypeError(f"target must hold class labels, one a sample, of an integer dtype, got {y.dtype}")
    if z.ndim < 2 or z.shape[-1] == 0 or y.shape != z.shape[:-1]:
        raise ValueError(f"logits must have shape (..., K) and target (...), got {z.shape} and {y.shape}")
    if known:  # in NumPy: under jit JAX traces constants too
        given, classes = y.reshape(-1), max(z.shape[-1], 2)
        odd = (given != ignore_index) & ((given < 0) | (given >= classes))
        if odd.any():
            raise ValueError(
                f"target must hold labels from 0 to {classes - 1} or ignore_index {ignore_index}, "
                f"got {given[odd.argmax()]} at position {odd.argmax()}"
            )
        y = jnp.asarray(y.astype(np.int32))
    return _Rows(*_rows_of(z, y, ignore_index))


@functools.partial(jax.jit, static_argnames="ignore_index")
def _rows_of(z: Array, y: Array, ignore_index: int) -> tuple[Array, Array, Array, Array]:
    size = z.shape[-1]
    z = z.reshape(-1, size).astype(jnp.float64 if z.dtype == jnp.float64 else jnp.float32)
    y = y.reshape(-1)
    y = y.astype(jnp.int32) if y.dtype.itemsize < 4 else y  # wider ones only once they are known to fit
    limits = jnp.iinfo(y.dtype)
    ignored = y == ignore_index if limits.min <= ignore_index <= limits.max else jnp.zeros(y.shape, bool)
    bad = ~ignored & ((y < 0) | (y >= max(size, 2)))
    return jnp.where(ignored[:, None], 0.0, z), jnp.where(ignored | bad, 0, y).astype(jnp.int32), ignored, bad


def _vector(name: str, values: ArrayLike, size: int, beside: Array) -> Array:
    found = jnp.asarray(values, dtype=beside.dtype)
    if found.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {found.shape}")
    if not isinstance(values, jax.core.Tracer):
        given, low = np.asarray(values), -math.inf if name == "logit_adjustment" else 0.0
        if not (np.isfinite(given) & (given >= low)).all():
            raise ValueError(f"{name} must be finite{'' if low else ' and not negative'}, got {given.tolist()}")
    return found


def _adjusted(rows: _Rows, adjustment: ArrayLike | None) -> Array:
    if adjustment is None:
        return rows.z
    return rows.z + _vector("logit_adjustment", adjustment, rows.z.shape[1], rows.z)


def _own(values: Array, y: Array) -> Array:
    return jnp.take_along_axis(values, y[:, None], axis=1)[:, 0]


def _reduced(
    rows: _Rows,
    losses: Array,
    shape: tuple[int, ...],
    class_weights: ArrayLike | None,
    reduction: Reduction,
    normalization: Normalization,
) -> Array:
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("normalization", normalization, NORMALIZATIONS)
    weights = (~rows.ignored).astype(losses.dtype)
    count = weights.sum()
    if class_weights is not None:
        weights = weights * _vector("class_weights", class_weights, max(rows.z.shape[1], 2), losses)[rows.y]
    losses = jnp.where(rows.bad, jnp.nan, jnp.where(rows.ignored, 0.0, losses * weights))
    if reduction == "none":
        return losses.reshape(shape)
    if reduction == "sum" or normalization == "none":
        return losses.sum()
    total = weights.sum() if normalization == "weights" else count
    return losses.sum() / jnp.where(total > 0, total, 1.0)
