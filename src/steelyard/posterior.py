"""Logits to probabilities: the posterior that a trained model's logits stand for, under what training did."""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import (
    Vector,
    check_choice,
    check_number,
    check_vector,
    compute_dtype,
    values_readable,
)
from steelyard._common.text import listed
from steelyard.balance.perron import stationary
from steelyard.balance.readings import as_rows
from steelyard.balance.setup import TrainingSetup, check_alone
from steelyard.losses.lgl_inr import omega_of
from steelyard.prior import estimate_prior
from steelyard.targets import check_logits

_MOST_STEPS = 100_000
_DOUBLINGS = 20  # where nothing can be read: 2^20 steps
_MOST_NUMBERS = 1 << 24


def log_posterior(
    logits: Tensor,
    setup: TrainingSetup,
    prior: Vector | Literal["estimate"] | None = None,
    *,
    temperature: float = 1.0,
    mean_confusion: Tensor | None = None,
) -> Tensor:
    r"""Return log-probabilities without what training did to them, for training's own class prior or for another.

    With :math:`g(z, k)` the gradient of the loss of a sample of class k and :math:`w` the setup's class effect, a
    model at the optimum of its loss has, at every input,

    .. math:: \sum_k q_k\, w_k\, g_j(z, k) = 0 \quad \text{for every output } j

    and q is solved from that; :math:`q_k\, \pi'_k / \pi_k`, normalised, is then the posterior under the prior
    :math:`\pi'` of use. By kind of loss:

    - Outputs that stand for themselves (one-vs-all): each has its own binary posterior
      :math:`r_j = g_j^- / (g_j^- - g_j^+)` from its gradients as another and as its own class, and
      :math:`q \propto r / w`.
      The K outputs may disagree away from the optimum: normalising over classes is how they are made to agree.
    - Softmax and its relatives: :math:`w_k g(z, k)` has rank K - 1, and q is its null vector, exact and unique.
    - Closed forms where there are some: softmax :math:`z + a - \log w`, with smoothing
      :math:`(p_k - \epsilon / K) / w_k` (torch's, which smooths with the weights of columns:
      :math:`\mathrm{softmax}(z - \log w)_k - \epsilon / K`), focal :math:`p_k / (w_k c(p_k))`, one-vs-all
      :math:`\sigma(z + a - \log u) / w`, sigmoid focal, and LGL-INR with detached weights
      :math:`u_j \rho_j r_j = e^{z_j} \sum_{k \ne j} \omega_{kj} r_k`, :math:`q \propto \pi r`.

    It is exact where the model is flexible enough to reach the optimum of its loss; for any other it is an
    approximation. Where no posterior that is not negative exists, a row is NaN, with a warning where values can be
    looked at.

    Closed forms trace with ``torch.export`` and ONNX; a loss that is read by differentiation traces with
    ``torch.compile`` and ``torch.vmap``, and ``torch.export`` refuses it.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating, as the model gives them in evaluation; (N,) or (N, 1) for one
            output.
        setup: what was done in training.
        prior: (K,), or (2,) for one output: class frequencies where the model is used, sum 1. ``"estimate"``:
            those under which these rows are likeliest (:func:`steelyard.estimate_prior` gives intervals too);
            the rows are then a sample of where the model is used. Both need the setup's ``class_counts``.
            Default: those of training, before any sampler.
        temperature: divides the logits first, > 0.
        mean_confusion: (K, K) mean sigmoids over the training classes, for LGL-INR, which also needs
            ``class_counts``.

    Returns:
        Log-probabilities in the shape of the logits, float32, or float64 for float64 logits: rows sum to 1 in
        probability; for multi-hot targets the log-probability of each output; for one output its logit.

    Raises:
        TypeError, ValueError: an argument that does not fit, a weight of zero, a loss without a posterior.
        ArithmeticError: the fixed point of LGL-INR was not reached.

    Source:
        Prior shift: Saerens, Latinne, Decaestecker, Neural Computation 2002. The rest derived for this project.

    Example:
        >>> from steelyard import TrainingSetup
        >>> z = torch.log(torch.tensor([[0.9, 0.1]]))          # trained with weight 9 on class 0
        >>> log_posterior(z, TrainingSetup("softmax", class_weights=[9.0, 1.0])).exp()
        tensor([[0.5000, 0.5000]])
    """
    flat = logits[:, None] if isinstance(logits, Tensor) and logits.dim() == 1 else logits
    check_logits(flat)
    outputs = flat.shape[1]
    kind = setup.kind(outputs)
    if setup.size is not None and max(outputs, 2) != setup.size:
        raise ValueError(f"logits must have the {setup.size} columns of the setup, got {outputs}")
    if outputs == 1 and setup.reading.link == "softmax":
        raise ValueError("logits must have at least two columns for a softmax loss, got 1")
    if setup.reading.per_sample is None and setup.in_negative is None:
        raise ValueError(f"loss {setup.reading.name} is a function of the whole batch, so it has no posterior")
    if setup.zero is not None:
        raise ValueError(f"{setup.zero} must be positive to be undone, got 0")
    if kind == "multi-hot" and setup.parts:
        raise ValueError(
            f"setup must weigh no classes for multi-hot targets, whose samples have no one class, "
            f"got {listed(list(setup.parts))}"
        )
    if mean_confusion is not None and setup.in_negative is None:
        raise ValueError(f"mean_confusion belongs to LGL-INR, got it with {setup.reading.name}")
    if isinstance(prior, str):
        check_choice("prior", prior, ("estimate",))
        prior = _prior_of(logits, setup, kind, temperature, mean_confusion)
    z = as_rows(flat).to(compute_dtype(logits)) / check_number("temperature", temperature, low=1e-6)
    shift = _prior_shift(setup, prior, z, kind)
    effect = setup.class_effect
    log_w = z.new_zeros(max(outputs, 2)) if effect is None else effect.log().to(z)
    if kind == "binary":
        change = shift - log_w
        rows = _own_logits(setup, z) + (change[1] - change[0])
    elif kind == "multi-hot":
        rows = F.logsigmoid(_own_logits(setup, z))
    else:
        rows = torch.log_softmax(_scores(setup, z, log_w, mean_confusion) + shift, 1)
    bad = rows.isnan().any(1) & ~z.isnan().any(1)
    if values_readable(z, None) and bool(bad.any()):
        warnings.warn(
            f"{int(bad.sum())} of {len(z)} rows have no posterior that is not negative: their logits are no "
            f"optimum of the {setup.text}; they are NaN",
            stacklevel=2,
        )
    return rows.reshape(flat.shape[0], *flat.shape[2:], outputs).movedim(-1, 1).reshape(logits.shape)


def _prior_of(
    logits: Tensor, setup: TrainingSetup, kind: str, temperature: float, mean_confusion: Tensor | None
) -> Tensor:
    """Return the class frequencies under which these rows are likeliest."""
    training = _training_counts(setup, kind)
    if not values_readable(logits, True):
        raise ValueError(
            "prior 'estimate' must look at all rows, which cannot be done in a compiled or vmapped call"
        )
    rows = log_posterior(logits, setup, temperature=temperature, mean_confusion=mean_confusion)
    if rows.dim() > 2:
        rows = rows.movedim(1, -1).reshape(-1, rows.shape[1])
    return estimate_prior(rows, training).prior


def _training_counts(setup: TrainingSetup, kind: str) -> Tensor:
    """Return the class counts of training, without which no other prior can be given."""
    if kind == "multi-hot":
        raise ValueError("prior must be None for multi-hot targets, whose outputs have no common prior")
    if setup.class_counts is None:
        raise ValueError("prior needs the training prior: class_counts of the setup, got None")
    return setup.class_counts


def _prior_shift(setup: TrainingSetup, prior: Vector | None, z: Tensor, kind: str) -> Tensor:
    """Return the log of the prior of use over the training prior, (K,); 0 without one."""
    size = max(z.shape[1], 2)
    if prior is None:
        return z.new_zeros(size)
    training = _training_counts(setup, kind)
    if setup.empty:
        raise ValueError("class_counts must be positive where a prior is given, got a class without samples")
    use = check_vector("prior", prior, size, low=0, device=z.device)
    if values_readable(use, True) and abs(float(use.sum()) - 1) > 1e-4:
        raise ValueError(f"prior must sum to 1, got {float(use.sum()):.6g}")
    counts = training.to(use)
    return (use.log() - (counts / counts.sum()).log()).to(z)


def _scores(setup: TrainingSetup, z: Tensor, log_w: Tensor, mean_confusion: Tensor | None) -> Tensor:
    """Return log q up to a constant in each row, (N, K), for class labels."""
    closed, epsilon = setup.reading.closed, setup.label_smoothing
    if closed is None:
        return _any_loss(setup, z) - log_w
    if closed == "logistic":
        return F.logsigmoid(_own_logits(setup, z)) - log_w
    if setup.logit_adjustment is not None:
        z = z + setup.logit_adjustment.to(z)
    size = z.shape[1]
    if closed == "lgl-inr":
        return _in_negative(setup, z, mean_confusion)
    if closed == "focal":
        return _focal(z, setup.reading.gamma) - log_w
    if closed == "poly1":
        return _poly1(z, setup.reading.epsilon) - log_w
    if closed == "torch softmax" and setup.class_weights is not None:
        own = setup.class_weights.log().to(z)
        return _log_of(torch.softmax(z - own, 1) - epsilon / size) + own - log_w
    return (z if epsilon == 0 else _log_of(torch.softmax(z, 1) - epsilon / size)) - log_w


def _focal(z: Tensor, gamma: float) -> Tensor:
    """Return the log of p / c(p), where g(z, k) = c(p_k) (p - e_k) and
    c(p) = (1 - p)^gamma (1 - gamma p log(p) / (1 - p))."""
    (log_p, log_miss), tiny = _log_p_and_miss(z), torch.finfo(z.dtype).tiny
    p = log_p.exp()
    miss = log_miss.exp().clamp(min=tiny)
    sure = -torch.log1p(-miss.clamp(max=0.5)) / miss
    ratio = torch.where(miss < 0.5, sure, -log_p.clamp(min=-1e30) / miss)  # -log(p) / (1 - p)
    return log_p - gamma * log_miss - torch.log1p(gamma * p * ratio)


def _poly1(z: Tensor, epsilon: float) -> Tensor:
    """Return the log of p / (1 + epsilon p); the denominator is 1 - p + (1 + epsilon) p, two terms >= 0."""
    log_p, log_miss = _log_p_and_miss(z)
    more = math.log1p(epsilon) if epsilon > -1 else -math.inf
    return log_p - torch.logaddexp(log_miss, log_p + more)


def _log_p_and_miss(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 - p) of the softmax, of the largest from the others, as p itself may round to 1."""
    log_p, top = torch.log_softmax(z, 1), z.argmax(1, keepdim=True)
    rest = torch.logsumexp(z.scatter(1, top, -torch.inf), 1, keepdim=True) - torch.logsumexp(z, 1, keepdim=True)
    return log_p, torch.log1p(-log_p.exp().scatter(1, top, 0.0)).scatter(1, top, rest).clamp(min=-1e30)


def _sigmoid_focal(z: Tensor, gamma: float) -> Tensor:
    """Return the log of g0 / -g1, where g0 = p^(gamma + 1) (1 - gamma (1 - p) log(1 - p) / p) and -g1 is the same
    of -z."""
    if gamma == 0:
        return z
    tiny = torch.finfo(z.dtype).tiny

    def rest(z: Tensor) -> Tensor:
        p, log_q = torch.sigmoid(z), F.logsigmoid(-z).clamp(min=-1e30)
        ratio = torch.where(p > tiny, -log_q / p.clamp(min=tiny), 1.0)
        return torch.log1p(gamma * torch.sigmoid(-z) * ratio)

    return (gamma + 1) * z + rest(z) - rest(-z)


def _log_of(q: Tensor) -> Tensor:
    """Return log q; a row with a negative value beyond rounding is NaN."""
    slack = 8 * torch.finfo(q.dtype).eps
    return torch.where((q < -slack).any(1, keepdim=True), torch.nan, q.clamp(min=0).log())


def _own_logits(setup: TrainingSetup, z: Tensor) -> Tensor:
    """Return the logit of each output's own binary posterior, (N, K), under the weights of its positives."""
    if setup.reading.closed == "logistic":
        adjusted = z if setup.logit_adjustment is None else z + setup.logit_adjustment.to(z)
        return _sigmoid_focal(adjusted, setup.reading.gamma) - _log_pos_weight(setup, z)
    _refuse_export(setup)
    rows = z.double()
    if z.shape[1] == 1:
        down, up = (_slope(setup, rows, torch.full((len(z),), own, device=z.device)) for own in (0, 1))
    else:
        down, up = (_slope(setup, rows, target) for target in (torch.zeros_like(rows), torch.ones_like(rows)))
        odd = (torch.arange(z.shape[1], device=z.device) % 2 == 1).expand_as(rows)
        mixed = _slope(setup, rows, odd.to(rows))
        expected = torch.where(odd, up, down)
        apart = ((mixed - expected).abs() <= 1e-9 * (up.abs() + down.abs())).all(1, keepdim=True)
        down = torch.where(apart, down, torch.nan)
    return (_log_of(down) - _log_of(-up)).to(z)


def _any_loss(setup: TrainingSetup, z: Tensor) -> Tensor:
    """Return the log of q w by differentiation, (N, K)."""
    _refuse_export(setup)
    rows, size = z.double(), z.shape[1]
    if values_readable(z, None):
        _refuse_kinks(setup, size)
        check_alone(setup, rows, torch.zeros(len(rows), dtype=torch.long, device=z.device))
    else:
        return _null_vector(_class_gradients(setup, rows)).to(z)
    parts = torch.split(rows, max(1, _MOST_NUMBERS // size**2))
    return torch.cat([_null_vector(_class_gradients(setup, part)) for part in parts]).to(z)


def _refuse_export(setup: TrainingSetup) -> None:
    if torch.compiler.is_exporting():
        raise RuntimeError(
            f"loss {setup.reading.name} has no closed posterior here, and torch.export cannot trace its gradient"
        )


def _refuse_kinks(setup: TrainingSetup, size: int) -> None:
    """Refuse a loss of straight pieces, whose optimum is at a kink for a whole range of posteriors."""
    here = torch.linspace(-0.3, 0.4, size, dtype=torch.float64)
    moved = here + 1e-3 * torch.arange(1, size + 1).sin()
    G = _class_gradients(setup, torch.stack([here, moved]))
    if bool((G[0] - G[1]).abs().amax() <= 1e-12 * G.abs().amax()):
        raise ValueError(
            f"loss {setup.reading.name} has no posterior: its gradient does not change with the logits, "
            "so they do not say how probable a class is"
        )


def _class_gradients(setup: TrainingSetup, rows: Tensor) -> Tensor:
    """Return the gradient in the logits of each row if it were of class k, (N, K, K)."""
    number, size = rows.shape
    stacked = rows[:, None].expand(number, size, size).reshape(-1, size)
    target = torch.arange(size, device=rows.device).expand(number, size).reshape(-1)
    return _slope(setup, stacked, target).reshape(number, size, size)


def _slope(setup: TrainingSetup, rows: Tensor, target: Tensor) -> Tensor:
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():  # torch 2.9 finds gradients of 0
        with torch.inference_mode(False):
            return _slope(setup, rows.clone(), target.clone())
    gradient: Tensor = torch.func.grad(lambda x: setup.per_sample(x, target).sum())(rows)
    return gradient


def _null_vector(G: Tensor) -> Tensor:
    """Return log v with v G = 0 for matrices (N, K, K); NaN where v is not unique or not positive."""
    size = G.shape[1]
    eye = torch.eye(size, dtype=torch.bool, device=G.device)
    own, scale = G.diagonal(dim1=1, dim2=2), G.abs().amax((1, 2))[:, None]
    others = G.masked_fill(eye, 0.0)
    # Outputs that stand for themselves: what other classes do to a column does not depend on which they are.
    mean = others.sum(1) / (size - 1)
    apart = (others - mean[:, None]).masked_fill(eye, 0.0).abs()
    alone = (apart <= 1e-10 * others.abs().amax(1, keepdim=True)).all((1, 2))
    column = _log_of(mean) - (mean - own).log()
    # Null vector: K - 1 equations, and a sum of 1; the equation left out tells whether there is one.
    v = _null_solution(G / scale[..., None])
    chain = _of_chain(others, own, eye)
    pulled = (others >= 0).all((1, 2)) & (own <= 0).all(1)
    return torch.where(alone[:, None], column, torch.where(pulled[:, None], chain, _log_of(v)))


def _null_solution(G: Tensor) -> Tensor:
    """Return v of sum 1 with v G = 0 for matrices (N, K, K) of size 1; NaN where there is none."""
    system = torch.cat([G[:, :, :-1], torch.ones_like(G[:, :, :1])], 2)
    right = torch.cat([torch.zeros_like(G[:, 1:, 0]), torch.ones_like(G[:, :1, 0])], 1)
    v = torch.linalg.solve_ex(system.mT, right[..., None])[0][..., 0]
    residual = (v[:, None] @ G)[:, 0].abs()
    solved = (residual <= 1e-9 * v.abs().sum(1, keepdim=True)).all(1, keepdim=True)
    return torch.where(solved, v, torch.nan)


def _of_chain(others: Tensor, own: Tensor, eye: Tensor) -> Tensor:
    r"""Return log v with v G = 0 where only the label's own logit is pulled up, right to relative precision.

    With :math:`u > 0` for which :math:`G u = 0`, :math:`G_{kj} u_j` off the diagonal are the rates of a Markov
    chain, and its stationary distribution is found without subtractions. Rows may differ by any factor, as they do
    where a class is nearly certain: each is divided by its own pull first.

    Args:
        others: (N, K, K) not negative, 0 on the diagonal.
        own: (N, K) the diagonal, not positive.
        eye: (K, K) whether an entry lies on the diagonal.
    """
    pull = -own[..., None]
    jumps = others / pull.clamp(min=torch.finfo(own.dtype).tiny)
    known = own < -1e-290  # what is less has lost digits
    even = (((jumps.sum(2) - 1).abs() <= 1e-9) | ~known).all(1, keepdim=True)  # all logits may shift: u = 1
    solved = _null_solution((jumps - eye.to(jumps)).mT)
    positive = (solved > 0).all(1, keepdim=True)
    u = torch.where(even, 1.0, torch.where(positive, solved, torch.nan))
    leaving = (others * u[:, None]).sum(2)
    chain = others * u[:, None] / leaving[..., None]
    log_v = stationary(torch.where(chain.isnan(), eye.to(chain), chain)).log() - leaving.log()
    sure = leaving == 0  # beyond the range of float64: nothing leaves this class
    alone = torch.where(sure, 0.0, -torch.inf).to(log_v)
    once = sure.sum(1, keepdim=True)
    found = torch.where(once == 0, log_v, torch.where(once == 1, alone, torch.nan))
    return torch.where(u.isnan().any(1, keepdim=True), torch.nan, found)


def _log_pos_weight(setup: TrainingSetup, z: Tensor) -> Tensor:
    return z.new_zeros(z.shape[1]) if setup.pos_weight is None else setup.pos_weight.log().to(z)


def _in_negative(setup: TrainingSetup, z: Tensor, mean_confusion: Tensor | None) -> Tensor:
    """Return the log of pi r for LGL-INR up to a constant, (N, K)."""
    inner, counts = setup.in_negative, setup.class_counts
    assert inner is not None
    if not inner.detached:
        raise ValueError("loss lgl-inr has a posterior for detached weights only, got detach_weights=False")
    if mean_confusion is None or counts is None or setup.empty:
        raise ValueError(
            "mean_confusion and class_counts, all positive, are needed for the posterior of LGL-INR, "
            f"got {'none' if mean_confusion is None else 'a mean_confusion'} and "
            f"{'none' if counts is None else counts.tolist()}"
        )
    size = z.shape[1]
    if mean_confusion.shape != (size, size):
        raise ValueError(f"mean_confusion must have K = {size}, got {tuple(mean_confusion.shape)}")
    beta = inner.strength(size)
    omega = omega_of(mean_confusion.detach().to(z.device, torch.float64), beta)
    shifted = z - _log_pos_weight(setup, z)
    if setup.presence is not None:
        rho = setup.presence.to(omega)
        omega = omega * rho[:, None]
        omega = omega / omega.sum(0)
        shifted = shifted - rho.log().to(z)
    p = torch.sigmoid(shifted.double())
    steps = _until_settled if values_readable(z, None) else _by_doubling
    return steps(p, omega).to(z) + counts.log().to(z)


def _until_settled(p: Tensor, omega: Tensor) -> Tensor:
    """Return log r, (N, K), with odds_j = r_j / sum of omega[k, j] r_k.

    For each row r is the Perron vector of a matrix that is not negative, reached by r <- p (r + r omega), whose
    positive diagonal keeps it from swinging.
    """
    r = p / p.sum(1, keepdim=True)
    for _ in range(_MOST_STEPS):
        step = p * (r + r @ omega)
        step = step / step.sum(1, keepdim=True)
        change = (step - r).abs().amax() if len(r) else r.new_zeros(())
        r = step
        if bool(change <= 1e-14):
            return r.log()
    raise ArithmeticError(
        f"the posterior of LGL-INR has not settled after {_MOST_STEPS} steps (last {float(change):.1g})"
    )


def _by_doubling(p: Tensor, omega: Tensor) -> Tensor:
    """Return the same by squaring each row's matrix: a fixed number of products, where values cannot be read."""
    size = p.shape[1]
    step = (torch.eye(size).to(p) + omega) * p[:, None, :]  # r <- r step
    for _ in range(_DOUBLINGS):
        step = step / step.sum((1, 2), keepdim=True)
        step = step @ step
    r = step.sum(1)
    return (r / r.sum(1, keepdim=True)).log()
