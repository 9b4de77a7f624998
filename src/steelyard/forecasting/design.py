"""The other way round: from what is wanted to the weights, or the shift of the logits, that give it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard._common.checks import check_number, check_vector
from steelyard.targets import check_target, layout_of

_MOST_SWEEPS = 20_000


@dataclass(frozen=True)
class Design:
    """A shift of the logits that gives what was asked for, and the same as class weights.

    Attributes:
        logit_shift: (K,) float64 with mean 0, to be added to the logits: it meets the wish on these samples.
        class_weights: (K,) float64 with mean 1, the weights used so far times the exponential of the shift. A
            model flexible enough to reach the optimum of its loss gives the shifted probabilities when it is
            trained with them; any other roughly, which :func:`forecast` tells in advance.
        recall: (K,) of each class with the shift; NaN for a class without samples.
        prior: (K,) mean probability of each class with the shift.
    """

    logit_shift: Tensor
    class_weights: Tensor
    recall: Tensor
    prior: Tensor

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return plain lists for JSON, None for NaN."""
        return {name: [None if v != v else v for v in values.tolist()] for name, values in vars(self).items()}


def design_weights(
    logits: Tensor,
    target: Tensor,
    *,
    prior: Tensor | None = None,
    min_recall: float | Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Design:
    r"""Return the shift of softmax logits, and the class weights, for a wanted prior or recall of each class.

    A prior :math:`\pi'`: the shift :math:`s` with which the mean probabilities are as wanted; it is the minimum of
    a convex function, and the only one up to a constant:

    .. math:: \min_s \; \frac1N \sum_i \log \sum_k e^{z_{ik} + s_k} - \sum_k \pi'_k s_k

    A recall :math:`r_k`: the smallest shifts with which every class is the strict maximum of
    :math:`z + s` in at least that share of its own samples. How far a class must be raised grows with how far the
    others are and moves along with all of them, so raising in turn ends at the least shift there is, or passes a
    bound that no shift needs to pass. So an answer that the recall cannot be met is as certain as a shift that
    meets it.

    Args:
        logits: (N, K) of held-out samples, with what was used in training still in them; (N,) or (N, 1) for one
            output, whose classes 0 and 1 then have K = 2: its shift is the difference of the two.
        target: (N,) labels.
        prior: (K,) wanted mean probabilities, positive, summing to 1.
        min_recall: wanted recall, one number or (K,), in [0, 1]. Exactly one of the two is given.
        class_weights: (K,) used in training so far. Default: all 1.

    Returns:
        The design.

    Raises:
        TypeError, ValueError: arguments of another type, shape or value than described, or a recall that no
            shift of these logits gives.
        ArithmeticError: the search has not settled.

    Source:
        Derived for this project.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.5, 0.0], [0.2, 0.0]])
        >>> target = torch.tensor([0, 0, 0, 1, 1])
        >>> design_weights(logits, target, min_recall=torch.tensor([0.3, 1.0])).recall
        tensor([0.6667, 1.0000], dtype=torch.float64)
    """
    layout_of(logits, binary=True)
    if logits.dim() > 2 or len(logits) == 0:
        raise ValueError(
            f"logits must have shape (N, K), or (N,) for one output, N >= 1, got {tuple(logits.shape)}"
        )
    if logits.dim() == 1 or logits.shape[1] == 1:
        one = logits.reshape(-1)
        logits = torch.stack([torch.zeros_like(one), one], 1)
    size = logits.shape[1]
    check_target(logits, target, num_labels=size, ignore_index=-100, validate=True)
    z, y = logits.detach().cpu().double(), target.detach().cpu().long()
    z, y = z[y >= 0], y[y >= 0]
    if not bool(torch.isfinite(z).all()):
        raise ValueError(f"logits must be finite, got row {int((~torch.isfinite(z).all(1)).nonzero()[0])}")
    if (prior is None) == (min_recall is None):
        raise ValueError("exactly one of prior and min_recall must be given")
    used = torch.ones(size, dtype=torch.float64)
    if class_weights is not None:
        used = check_vector("class_weights", class_weights, size, low=0)
    shift = _shift_to_prior(z, prior) if prior is not None else _shift_to_recall(z, y, min_recall)
    shift = shift - shift.mean()
    weights = used * (shift - shift.max()).exp()
    shifted = z + shift
    return Design(shift, weights / weights.mean(), _strict_recall(shifted, y), torch.softmax(shifted, 1).mean(0))


def _shift_to_prior(z: Tensor, prior: Tensor) -> Tensor:
    wanted = check_vector("prior", prior, z.shape[1], low=0)
    if abs(float(wanted.sum()) - 1) > 1e-4 or bool((wanted == 0).any()):
        raise ValueError(f"prior must be positive and sum to 1, got {wanted.tolist()}")
    wanted = wanted / wanted.sum()
    s = wanted.log() - torch.softmax(z, 1).mean(0).clamp(min=1e-300).log()

    def objective(shift: Tensor) -> float:
        return float(torch.logsumexp(z + shift, 1).mean() - wanted @ shift)

    for _ in range(200):
        p = torch.softmax(z + s, 1)
        gradient = p.mean(0) - wanted
        if float(gradient.abs().max()) <= 1e-12:
            return s
        hessian = torch.diag(p.mean(0)) - p.T @ p / len(p) + 1.0 / len(wanted)  # the constant shift is tied to 0
        direction = torch.linalg.solve(hessian + 1e-14 * torch.eye(len(s)), gradient)
        step, now, slope = 1.0, objective(s), float(gradient @ direction)
        while step > 1e-12 and objective(s - step * direction) > now - 1e-4 * step * slope + 1e-15 * abs(now):
            step /= 2
        s = s - step * direction
    if float(gradient.abs().max()) <= 1e-9:
        return s
    raise ArithmeticError(f"the shift to the prior has not settled: off by {float(gradient.abs().max()):.2g}")


def _shift_to_recall(z: Tensor, y: Tensor, min_recall: float | Tensor | None) -> Tensor:
    size = z.shape[1]
    if isinstance(min_recall, Tensor):
        wanted = check_vector("min_recall", min_recall, size, low=0)
        if bool((wanted > 1).any()):
            raise ValueError(f"min_recall must lie in [0, 1], got {float(wanted.max()):g}")
    else:
        wanted = torch.full((size,), check_number("min_recall", min_recall, low=0, high=1), dtype=torch.float64)  # type: ignore[arg-type]
    counts = torch.bincount(y, minlength=size)
    needed = torch.ceil((wanted - 1e-6) * counts).long()  # of each class so many samples must be recalled
    own = {k: z[y == k] for k in range(size) if int(needed[k]) > 0}
    reach = float(z.amax(1).sub(z.amin(1)).max()) + 1
    least = 1e-9 * reach
    # Where two neighbouring classes of a shift lie further apart than `reach`, the gap can be closed and nothing
    # changes: where there is a shift at all, there is one whose classes lie within this bound of each other.
    bound = (size - 1) * (reach + least) + least
    s = torch.zeros(size, dtype=torch.float64)
    for _ in range(_MOST_SWEEPS):
        changed = False
        for k, rows in own.items():
            others = rows + s
            others[:, k] = -torch.inf
            missing = others.amax(1) - rows[:, k]  # a sample is recalled when s_k is above this
            level = float(missing.kthvalue(int(needed[k])).values)
            if s[k] <= level:
                s[k] = level + least
                changed = True
        if not changed:
            return s
        if float(s.max()) > bound:
            recall = _strict_recall(z + s, y)
            short = int((wanted - recall).nan_to_num(-1.0).argmax())
            raise ValueError(
                "min_recall cannot be met by any shift of these logits: where the search ended "
                f"class {short} had a recall of {float(recall[short]):.3f}, not {float(wanted[short]):g}"
            )
    raise ArithmeticError(f"the shift to the recall has not settled after {_MOST_SWEEPS} sweeps")


def _strict_recall(z: Tensor, y: Tensor) -> Tensor:
    """Return the (K,) share of samples whose own class is the strict maximum."""
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    size = z.shape[1]
    return torch.bincount(y, (own > others).double(), minlength=size) / torch.bincount(y, minlength=size)
