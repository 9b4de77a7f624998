"""The miss of a label under softmax, 1 - p, without cancellation: several losses are functions of it."""

import torch
from torch import Tensor


def log_odds_of_miss(z: Tensor, labels: Tensor) -> Tensor:
    r"""Return :math:`\log((1 - p_y) / p_y)` of the softmax of rows, (M,) of (M, K) logits and (M,) labels.

    With :math:`o` this, :math:`-\log p_y = \log(1 + e^o)` and :math:`1 - p_y = \sigma(o)`, each to full relative
    precision.
    """
    label = labels[:, None]
    info = torch.finfo(z.dtype)
    others = z.scatter(1, label, info.min)
    top = others.amax(1, keepdim=True).detach().clamp(max=info.max)
    return torch.logsumexp(others - top, 1) + (top - z.gather(1, label))[:, 0]
