"""How much of the weights is in a model's probabilities of new rows; no estimator is known here."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Power:
    """How much of the weights is in the probabilities.

    Attributes:
        power: 1, all of them, as they were stated; 0, nothing, or nothing that the rows show; below 0, their
            contrary.
        standard_error: of the power, from the rows' scatter. 1 where there are no rows.
    """

    power: float
    standard_error: float


def power_of(log_p: Array, codes: Array, log_effect: Array) -> Power:
    r"""Return the power g of the weights that, taken out, gives these rows their largest likelihood.

    .. math:: g = \arg\min_g \; -\sum_i \log \mathrm{softmax}(\log p_i - g \log a_i)_{y_i} + \tfrac12 (g - 1)^2

    It is convex, so there is one g. There, but for the last term, the mean of :math:`\log a` over the corrected
    probabilities is that over the labels. The last term is the claim that weights act as stated, worth about as
    much as a handful of rows of a rare class. Where the likelihood gains less than two of its own
    standard errors, over the rows, g is 0: a correction that the rows do not ask for would be noise. Without rows
    it is 1.

    Args:
        log_p: (N, K) logarithms of probabilities of rows that the model was not fitted on. A row whose own class
            has none, -inf, is left out: no g changes its likelihood.
        codes: (N,) classes of the rows, 0 to K - 1.
        log_effect: (N, K) :math:`\log a`, what weighed the classes of the model that gave the row.

    Source:
        Derived for this project.

    Example:
        >>> p = np.array([[0.5, 0.5]] * 1000)          # trained with weight 9 on class 1
        >>> codes = np.arange(1000) % 10 == 0           # which is a tenth
        >>> found = power_of(np.log(p), codes.astype(int), np.log([[1.0, 9.0]] * 1000))
        >>> round(found.power, 2), round(found.standard_error, 2)
        (1.0, 0.05)
    """
    rows = np.arange(len(codes))
    kept = np.isfinite(log_p[rows, codes])
    log_p, codes, log_effect = log_p[kept], codes[kept], log_effect[kept]
    own = log_effect[np.arange(len(codes)), codes]

    def surprise(g: float) -> tuple[Array, Array]:
        z = log_p - g * log_effect
        q = np.exp(z - logsumexp(z, axis=1, keepdims=True))
        mean = (q * log_effect).sum(1)
        return own - mean, (q * log_effect**2).sum(1) - mean**2

    def slope(g: float) -> float:
        return float(surprise(g)[0].sum()) + g - 1

    reach = 1 + float(np.abs(log_effect).max(initial=0.0)) * 2 * len(codes)
    g = brentq(slope, 1 - reach, 1 + reach, xtol=1e-10)
    residual, variance = surprise(g)
    curvature = float(variance.sum()) + 1
    gain = _log_likelihood(log_p - g * log_effect, codes) - _log_likelihood(log_p, codes)
    helps = len(gain) == 0 or float(gain.sum()) > 2 * math.sqrt(len(gain)) * float(gain.std()) + 1e-9
    return Power(g if helps else 0.0, math.sqrt(float(residual @ residual) + 1) / curvature)


def _log_likelihood(z: Array, codes: Array) -> Array:
    """Return the (N,) log-likelihood of each row under unnormalised log-probabilities."""
    return np.asarray(z[np.arange(len(codes)), codes] - logsumexp(z, axis=1), dtype=np.float64)
