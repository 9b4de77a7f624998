"""Positive vectors of matrices that are not negative: groups, stationary distributions, Perron vectors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 32  # states that are eliminated together


@dataclass(frozen=True)
class Found:
    """Weights of one group of classes: (n,) up to a factor, NaN where none are positive."""

    weights: Tensor
    eigenvalue: float
    gap: float


def gradient_weights(G: Tensor, masses: Tensor) -> Found:
    """Return weights with w G = 0 for the ledger (n, n) of one group: the left Perron vector of push over pull.

    With its right vector u, push u = lambda pull u, the matrix becomes a Markov chain, whose stationary
    distribution is found without subtractions; so weights are right to relative precision, however far apart.
    """
    if len(G) == 1:
        return Found(torch.ones(1, dtype=G.dtype), 1.0, 1.0)
    pull = -G.diagonal()
    push = G.masked_fill(torch.eye(len(G), dtype=torch.bool), 0.0)
    if bool((push < 0).any()) or bool((pull <= 0).any()):
        return _null_weights(G)
    sums = push.sum(1)
    if bool(((sums - pull).abs() <= 1e-9 * pull).all()):  # all logits may shift: u = 1, lambda = 1
        value, u = 1.0, torch.ones_like(pull)
    else:
        values, vectors = torch.linalg.eig(push / pull[:, None])
        top = int(values.real.argmax())
        value, u = float(values[top].real), vectors[:, top].real.abs()
        for _ in range(100):  # small entries to relative precision
            u = u + (push @ u) / (value * pull)
            u = u / u.sum()
    chain = push * u
    chain = chain / chain.sum(1, keepdim=True)
    weights = stationary(chain) / (pull * u)
    rate = pull / masses
    rate = rate / rate.max().clamp(min=1)
    gap = spectral_gap(torch.diag(1 - rate) + rate[:, None] * chain)
    return Found(weights, value, gap)


def _null_weights(G: Tensor) -> Found:
    """Return the left null vector of G where push may be negative; NaN where it is not positive."""
    scale = G.abs().sum(0).clamp(min=torch.finfo(G.dtype).tiny)
    left = torch.linalg.svd(G / scale).U
    w = left[:, -1]
    w = w / w[w.abs().argmax()]
    if bool((w <= 0).any()):
        w = torch.full_like(w, torch.nan)
    return Found(w, math.nan, math.nan)


def communicating(P: Tensor, observed: Tensor, tolerance: float) -> list[Tensor]:
    """Return the classes that reach each other through entries above the tolerance, largest group first."""
    confused = P.gt(tolerance) & observed[:, None] & observed
    reach = (confused | torch.eye(len(P), dtype=torch.bool)).float()
    for _ in range(max(1, math.ceil(math.log2(len(P))))):
        farther = ((reach @ reach) > 0).float()
        if torch.equal(farther, reach):
            break
        reach = farther
    mutual = (reach * reach.T) > 0
    first = mutual.int().argmax(1)  # the lowest class of each class's group names the group
    groups = [(first == k).nonzero()[:, 0] for k in range(len(P)) if bool(observed[k]) and int(first[k]) == k]
    return sorted(groups, key=len, reverse=True)


def stationary(chains: Tensor) -> Tensor:
    """Return the (..., n) stationary distributions of (..., n, n) chains, by the elimination of Grassmann, Taksar
    and Heyman: no subtraction, so every probability is right to relative precision, however small.

    The last states are eliminated a block at a time. The elimination is done on the block alone, beside the sum of
    what its states give to all before it, and on two unit matrices, which tell what it does to rows and columns of
    the block elsewhere: products of matrices do the rest.
    """
    size = chains.shape[-1]
    A = chains.reshape(-1, size, size).clone()
    for end in range(size, 1, -_BLOCK):
        start = max(end - _BLOCK, 1)
        inner, before = A[:, start:end, start:end], A[:, start:end, :start]
        unit = torch.eye(end - start, dtype=A.dtype, device=A.device) + torch.zeros_like(inner)
        rows, of_columns = torch.cat([inner, before.sum(2, keepdim=True), unit], 2), unit.clone()
        for k in range(end - start - 1, -1, -1):
            given = rows[:, k, :k].sum(1) + rows[:, k, end - start]  # to all states before this one
            rows[:, :k, k] /= given[:, None]
            of_columns[:, :, k] /= given[:, None]
            of_columns[:, :, :k] += of_columns[:, :, k, None] * rows[:, k, None, :k]
            column = rows[:, :k, k, None]
            rows[:, :k, :k] += column * rows[:, k, None, :k]
            rows[:, :k, end - start :] += column * rows[:, k, None, end - start :]
        A[:, start:end, start:end] = rows[:, :, : end - start]
        A[:, start:end, :start] = rows[:, :, end - start + 1 :] @ before
        A[:, :start, start:end] = A[:, :start, start:end] @ of_columns
        A[:, :start, :start] += A[:, :start, start:end] @ A[:, start:end, :start]
    pi = torch.zeros_like(A[:, :1])
    pi[:, 0, 0] = 1.0
    for start in range(1, size, _BLOCK):
        end = min(start + _BLOCK, size)
        pi[:, :, start:end] = pi[:, :, :start] @ A[:, :start, start:end]
        for k in range(start + 1, end):
            pi[:, :, k] += (pi[:, 0, start:k] * A[:, start:k, k]).sum(1, keepdim=True)
    return (pi / pi.sum(2, keepdim=True)).reshape(chains.shape[:-1])


def spectral_gap(chain: Tensor) -> float:
    """Return 1 less the second largest modulus of the eigenvalues."""
    if len(chain) == 1:
        return 1.0
    moduli = torch.linalg.eigvals(chain).abs().sort(descending=True).values
    return float((1 - moduli[1]).clamp(0, 1))
