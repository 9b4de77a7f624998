"""Corrected probabilities against exact posteriors: discrete inputs with free logits, and Gaussian classes."""

import pytest
import torch

from steelyard import correct_logits
from steelyard.balance import lgl_inr_law, mean_confusion
from steelyard.losses.functional import lgl_inr_loss, logistic_loss, softmax_loss
from steelyard.targets import class_means
from steelyard.weights.adjustments import batch_presence

WEIGHTS = torch.tensor([1.0, 10.0, 100.0, 0.5], dtype=torch.float64)
POSITIVE = torch.tensor([3.0, 1.0, 0.2, 7.0], dtype=torch.float64)


def _discrete(classes=4, cells=6, rows=4000):
    """Inputs of six values: every row's cell, its label, and the exact posterior of each cell."""
    generator = torch.Generator().manual_seed(0)
    joint = torch.rand(cells, classes, generator=generator, dtype=torch.float64) ** 3 + 0.02
    counts = (joint / joint.sum() * rows).round().long().clamp(min=1)
    cell = torch.arange(cells)[:, None].expand(cells, classes)
    label = torch.arange(classes).expand(cells, classes)
    repeats = counts.reshape(-1)
    return (
        cell.reshape(-1).repeat_interleave(repeats),
        label.reshape(-1).repeat_interleave(repeats),
        counts.double() / counts.sum(1, keepdim=True),
        counts.sum(0).double() / counts.sum(),
    )


def _optimum(loss, cells, outputs, start=None):
    """Free logits of each cell at the optimum of a loss."""
    table = torch.zeros(cells, outputs, dtype=torch.float64) if start is None else start.clone()
    table.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [table], max_iter=2000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimizer.step(closure)
    return table.detach()


def test_softmax_weights_are_undone():
    cell, label, posterior, _ = _discrete()
    table = _optimum(lambda t: softmax_loss(t[cell], label, class_weights=WEIGHTS), 6, 4)
    assert (table.softmax(1) - posterior).abs().max() > 0.3
    torch.testing.assert_close(
        correct_logits(table, "softmax", class_weights=WEIGHTS).exp(), posterior, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"pos_weight": POSITIVE}, {"class_weights": WEIGHTS}, {"class_weights": WEIGHTS, "pos_weight": POSITIVE}],
    ids=["plain", "per output", "per sample", "both"],
)
def test_one_vs_all_weights_are_undone(options):
    cell, label, posterior, _ = _discrete()
    table = _optimum(lambda t: logistic_loss(t[cell], label, **options), 6, 4)
    torch.testing.assert_close(correct_logits(table, "logistic", **options).exp(), posterior, rtol=1e-4, atol=1e-7)


def test_binary_weights_are_undone():
    cell, label, posterior, _ = _discrete(classes=2)
    options = {"class_weights": torch.tensor([2.0, 30.0]), "pos_weight": torch.tensor([5.0])}
    table = _optimum(lambda t: logistic_loss(t[cell], label, **options), 6, 1)
    corrected = correct_logits(table, "logistic", **options)
    torch.testing.assert_close(corrected.sigmoid()[:, 0], posterior[:, 1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("beta", [0.0, 3.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_lgl_inr_is_undone(beta, classes):
    """Detached weights have no potential: fit under constant weights, update them, until both agree."""
    cell, label, posterior, prior = _discrete(classes)
    P, table = torch.full((classes, classes), 0.5, dtype=torch.float64), None
    for _ in range(40):
        table = _optimum(
            lambda t, P=P: lgl_inr_loss(t[cell], label, mean_confusion=P, beta=beta, reduction="sum"),
            6,
            classes,
            table,
        )
        P, _ = class_means(torch.sigmoid(table[cell]), label)
    assert lgl_inr_law(P, beta=beta).relative_residual.abs().max() < 1e-6
    corrected = correct_logits(table, "logistic", mean_confusion=P, beta=beta, train_prior=prior).exp()
    torch.testing.assert_close(corrected, posterior, rtol=0, atol=2e-5)
    naive = torch.sigmoid(table) / torch.sigmoid(table).sum(1, keepdim=True)
    assert (naive - posterior).abs().max() > 0.01


def test_new_prior_is_bayes_rule():
    _, _, posterior, prior = _discrete()
    new = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = posterior * new / prior
    expected = expected / expected.sum(1, keepdim=True)
    for link, logits in (("softmax", posterior.log()), ("logistic", torch.logit(posterior))):
        corrected = correct_logits(logits, link, train_prior=prior, test_prior=new).exp()
        torch.testing.assert_close(corrected, expected, rtol=1e-10, atol=0)
    one = torch.logit(posterior[:, :1])
    two = torch.stack([prior[0], 1 - prior[0]])
    corrected = correct_logits(one, "logistic", train_prior=1 - two, test_prior=torch.tensor([0.5, 0.5]))
    odds = posterior[:, 0] / (1 - posterior[:, 0]) * (1 - prior[0]) / prior[0]
    torch.testing.assert_close(corrected[:, 0].exp(), odds, rtol=1e-6, atol=0)


@pytest.mark.parametrize("heavy", [1.0, 10.0, 100.0])
def test_gaussian_classes_come_out_within_sampling_error(heavy):
    """Three unit Gaussians: logits are linear, the posterior is known; the fit has 20,000 samples."""
    generator = torch.Generator().manual_seed(1)
    means = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]], dtype=torch.float64)
    prior = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)
    label = torch.multinomial(prior, 20_000, replacement=True, generator=generator)
    x = torch.randn(20_000, 2, generator=generator, dtype=torch.float64) + means[label]
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    weights = torch.tensor([1.0, heavy, heavy], dtype=torch.float64)
    linear = _optimum(lambda t: softmax_loss(design @ t, label, class_weights=weights), 3, 3)
    exact = (prior.log() - 0.5 * torch.cdist(x, means).square()).softmax(1)
    corrected = correct_logits(design @ linear, "softmax", class_weights=weights).exp()
    assert (corrected - exact).abs().mean() < 0.01
    if heavy > 1:
        assert ((design @ linear).softmax(1) - exact).abs().mean() > 0.1
    P, counts = mean_confusion(corrected.log(), label, link="softmax")
    assert (P * counts[:, None]).sum(0).div(counts).sub(1).abs().max() < 0.05  # as many expected as there are


def test_temperature_comes_first_and_low_precision_is_float32():
    logits = torch.randn(5, 3)
    corrected = correct_logits(logits, "softmax", temperature=2.0, class_weights=torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(corrected.exp(), ((logits / 2) - torch.tensor([1.0, 2.0, 4.0]).log()).softmax(1))
    assert correct_logits(logits.half(), "logistic").dtype == torch.float32


def test_extreme_logits_stay_probabilities():
    logits = torch.tensor([[800.0, -900.0, 3.0], [-700.0, -701.0, -702.0]], dtype=torch.float64)
    P = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for options in ({}, {"mean_confusion": P, "train_prior": torch.full((3,), 1 / 3, dtype=torch.float64)}):
        q = correct_logits(logits, "logistic", **options).exp()
        torch.testing.assert_close(q.sum(1), torch.ones(2, dtype=torch.float64))


GOOD = torch.zeros(2, 3)
THIRD = torch.full((3,), 1 / 3)


@pytest.mark.parametrize(
    ("logits", "link", "options", "message"),
    [
        (GOOD, "probit", {}, "link must be one of 'softmax', 'logistic', got 'probit'"),
        (torch.zeros(2, 3, 4), "softmax", {}, r"logits must have shape \(N, K\), got \(2, 3, 4\)"),
        (torch.zeros(2, 1), "softmax", {}, 'at least two columns for link "softmax", got 1'),
        (GOOD, "softmax", {"class_weights": torch.ones(2)}, r"class_weights must have shape \(3,\), got \(2,\)"),
        (
            GOOD,
            "softmax",
            {"class_weights": torch.tensor([1.0, 0.0, 1.0])},
            "class_weights must be positive to be undone, got 0 at position 1",
        ),
        (GOOD, "softmax", {"pos_weight": torch.ones(3)}, 'pos_weight belongs to link "logistic"'),
        (GOOD, "softmax", {"test_prior": THIRD}, "test_prior needs train_prior"),
        (GOOD, "softmax", {"train_prior": torch.ones(3)}, "train_prior must sum to 1, got 3"),
        (
            GOOD,
            "softmax",
            {"train_prior": torch.tensor([0.0, 0.5, 0.5])},
            "train_prior must be positive, got 0 at position 0",
        ),
        (GOOD, "softmax", {"temperature": 0.0}, "temperature must be a finite number"),
        (GOOD, "logistic", {"mean_confusion": torch.ones(3, 3)}, "mean_confusion says that the loss was LGL-INR"),
        (
            GOOD,
            "logistic",
            {"mean_confusion": torch.ones(2, 2), "train_prior": THIRD},
            r"mean_confusion must have K = 3, got \(2, 2\)",
        ),
    ],
)
def test_bad_input_gets_one_sentence(logits, link, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        correct_logits(logits, link, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=[0.0, 2.0])
def trained_in_batches(request):
    """A table of logits trained by LGL-INR in batches of 16 that often lack the rarer classes."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([1500, 600, 150, 45])
    label = torch.arange(4).repeat_interleave(counts)
    likelihood = torch.tensor([[6, 2, 1, 1, 1], [1, 6, 2, 1, 1], [1, 1, 3, 1, 2], [1, 2, 1, 6, 3]])
    cell = torch.cat(
        [
            torch.multinomial(p.double(), n, True, generator=generator)
            for p, n in zip(likelihood, counts.tolist(), strict=True)
        ]
    )
    joint = torch.zeros(5, 4, dtype=torch.float64).index_put(
        (cell, label), torch.ones((), dtype=torch.float64), accumulate=True
    )
    table = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    average, steps = torch.zeros(5, 4, dtype=torch.float64), 3000
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        rows = torch.randint(len(label), (16,), generator=generator)
        loss = lgl_inr_loss(
            table[cell[rows]], label[rows], beta=request.param, detach_weights=True, reduction="sum"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= steps // 2:
            average += table.detach() / (steps - steps // 2)
    P, _ = class_means(torch.sigmoid(average[cell]), label)
    return average, P, request.param, counts, joint / joint.sum(1, keepdim=True)


def test_lgl_inr_law_of_batches_counts_classes_by_their_presence(trained_in_batches):
    _, P, beta, counts, _ = trained_in_batches
    presence = batch_presence(counts, 16)
    assert presence[3] < 0.3
    assert lgl_inr_law(P, beta=beta, presence=presence).residual.abs().max() < 0.05
    assert lgl_inr_law(P, beta=beta).residual.abs().max() > 0.3


def test_lgl_inr_of_batches_is_undone(trained_in_batches):
    table, P, beta, counts, posterior = trained_in_batches
    options = {"mean_confusion": P, "beta": beta, "train_prior": counts / counts.sum()}
    presence = batch_presence(counts, 16)
    errors = [
        (correct_logits(table, "logistic", **options, **more).exp() - posterior).abs().max()
        for more in ({}, {"presence": presence})
    ]
    assert errors[1] < 0.05
    assert errors[0] > 2 * errors[1]


def test_presence_belongs_to_lgl_inr():
    with pytest.raises(ValueError, match="presence belongs to LGL-INR, got it without the mean_confusion"):
        correct_logits(GOOD, "logistic", presence=torch.ones(3))
