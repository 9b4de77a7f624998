"""95% intervals: how many standard errors wide they are, and that of a share."""

import torch
from torch import Tensor

NORMAL = 1.959963984540054  # 95% of a normal distribution lie within so many standard deviations
QUANTILE = 2.131  # 97.5% point of Student's t with 15 degrees of freedom, for the 16 folds of an audit


def wilson(share: Tensor, rows: Tensor | int, doubt: Tensor | float = 0.0) -> Tensor:
    r"""Return Wilson's 95% interval of shares, (..., 2) float64 in [0, 1]; NaN of no rows.

    Its ends solve :math:`(s - t)^2 = z^2 (v + t (1 - t) / N)` for t.

    Args:
        share: (...) float64.
        rows: of which it is a share.
        doubt: v, variance beside that of rows drawn at random.
    """
    z2 = NORMAL**2
    a, b, c = 1 + z2 / rows, share + z2 / (2 * rows), share**2 - z2 * doubt
    half = (b**2 - a * c).clamp(min=0).sqrt()
    return (torch.stack([b - half, b + half], -1) / torch.as_tensor(a)[..., None]).clamp(0, 1)
