"""Per-sample losses that no module of ours has, and setups of many losses: what law, ledger and posterior meet."""

import torch
from torch import nn
from torch.nn import functional as F

from steelyard.balance import TrainingSetup

WEIGHTS = torch.tensor([0.3, 1.0, 4.0, 2.0], dtype=torch.float64)
COUNTS = torch.tensor([400.0, 100.0, 30.0, 60.0], dtype=torch.float64)


def one_hot(z, y):
    return F.one_hot(y, z.shape[1]).to(z)


def cross_entropy(z, y):
    return F.cross_entropy(z, y, reduction="none")


def adjusted(z, y):
    return cross_entropy(z + (COUNTS / COUNTS.sum()).log().to(z), y)


def margins(z, y):
    return cross_entropy(3 * (z - one_hot(z, y) / COUNTS.to(z) ** 0.25), y)


def vector_scaled(z, y):
    return cross_entropy(z * (COUNTS / COUNTS.max()).to(z) ** 0.2 + 0.5 * COUNTS.log().to(z), y)


def smoothed(z, y):
    return F.cross_entropy(z, y, label_smoothing=0.05, reduction="none")


def focal(z, y, gamma=2.0):
    log_p = F.log_softmax(z, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p


def poly(z, y):
    log_p = F.log_softmax(z, 1).gather(1, y[:, None])[:, 0]
    return -log_p + 1.5 * (1 - log_p.exp())


def brier(z, y):
    return (z.softmax(1) - one_hot(z, y)).square().sum(1)


def one_vs_all(z, y):
    return F.binary_cross_entropy_with_logits(z, one_hot(z, y), reduction="none").sum(1)


def sigmoid_focal(z, y, gamma=2.0):
    own = one_hot(z, y)
    each = own * z.sigmoid().neg().add(1) ** gamma * F.logsigmoid(z)
    return -(each + (1 - own) * z.sigmoid() ** gamma * F.logsigmoid(-z)).sum(1)


def asymmetric(z, y, gamma=4.0):
    own = one_hot(z, y)
    return -(own * F.logsigmoid(z) + (1 - own) * z.sigmoid() ** gamma * F.logsigmoid(-z)).sum(1)


FUNCTIONS = {
    "softmax": cross_entropy,
    "adjusted": adjusted,
    "margins (LDAM)": margins,
    "vector scaled (VS)": vector_scaled,
    "smoothed": smoothed,
    "focal": focal,
    "poly": poly,
    "brier": brier,
    "one-vs-all": one_vs_all,
    "sigmoid focal": sigmoid_focal,
    "asymmetric": asymmetric,
}


def setups(weights=WEIGHTS):
    """Setups by name: every function with class weights around it, and losses that hold their own."""
    made = {name: TrainingSetup(loss, class_weights=weights) for name, loss in FUNCTIONS.items()}
    made["torch smoothed"] = TrainingSetup(nn.CrossEntropyLoss(weight=weights, label_smoothing=0.05))
    made["our softmax"] = TrainingSetup("softmax", class_weights=weights, label_smoothing=0.05)
    made["our logistic"] = TrainingSetup("logistic", class_weights=weights, pos_weight=[2.0, 0.5, 3.0, 1.0])
    return made


def weighted_loss(setup, logits, target):
    """The mean loss as trained."""
    weights = setup.class_effect
    each = setup.per_sample(logits, target)
    return (each if weights is None else each * weights.to(each)[target]).mean()


def minimise(parameters, objective, rounds=3):
    """L-BFGS to the last digits."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = objective()
        value.backward()
        return value

    for _ in range(rounds):
        optimiser.step(closure)


def trained(setup, rows=400, features=4, outputs=4):
    """Logits of a linear head at the optimum of a setup's loss, and the labels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(COUNTS, rows, replacement=True, generator=generator)
    x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
    x = x + 0.8 * torch.randn(outputs, features, generator=generator, dtype=torch.float64)[y]
    W = torch.zeros(features, outputs, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    minimise([W, b], lambda: weighted_loss(setup, x @ W + b, y))
    return (x @ W + b).detach(), y
