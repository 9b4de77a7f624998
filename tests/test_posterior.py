"""Corrected probabilities against exact posteriors: discrete inputs with free logits, and Gaussian classes."""

import dataclasses
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steelyard import TrainingSetup, log_posterior, posterior
from steelyard.balance import lgl_inr_law, mean_confusion
from steelyard.losses import LogisticLoss
from steelyard.losses.functional import lgl_inr_loss, logistic_loss, softmax_loss
from steelyard.losses.lgl_inr import in_negative_weights
from steelyard.posterior import _by_doubling, _until_settled
from steelyard.targets import class_means
from steelyard.weights.adjustments import batch_presence
from tests.balance.generic_losses import COUNTS, cross_entropy, focal, minimise, setups
from tests.balance.generic_losses import WEIGHTS as W
from tests.helpers import assert_finite, assert_nan

WEIGHTS = torch.tensor([1.0, 10.0, 100.0, 0.5], dtype=torch.float64)
POSITIVE = torch.tensor([3.0, 1.0, 0.2, 7.0], dtype=torch.float64)


def _in_negative(beta, **more):
    return TrainingSetup("lgl-inr", options={"beta": beta, "detach_weights": True}, **more)


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
        log_posterior(table, TrainingSetup("softmax", class_weights=WEIGHTS)).exp(),
        posterior,
        rtol=1e-5,
        atol=1e-8,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"pos_weight": POSITIVE}, {"class_weights": WEIGHTS}, {"class_weights": WEIGHTS, "pos_weight": POSITIVE}],
    ids=["plain", "per output", "per sample", "both"],
)
def test_one_vs_all_weights_are_undone(options):
    cell, label, posterior, _ = _discrete()
    table = _optimum(lambda t: logistic_loss(t[cell], label, **options), 6, 4)
    torch.testing.assert_close(
        log_posterior(table, TrainingSetup("logistic", **options)).exp(), posterior, rtol=1e-4, atol=1e-7
    )


def test_binary_weights_are_undone():
    cell, label, posterior, _ = _discrete(classes=2)
    options = {"class_weights": torch.tensor([2.0, 30.0]), "pos_weight": torch.tensor([5.0])}
    table = _optimum(lambda t: logistic_loss(t[cell], label, **options), 6, 1)
    corrected = log_posterior(table, TrainingSetup("logistic", **options))
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
    corrected = log_posterior(table, _in_negative(beta, class_counts=prior), mean_confusion=P).exp()
    torch.testing.assert_close(corrected, posterior, rtol=0, atol=2e-5)
    naive = torch.sigmoid(table) / torch.sigmoid(table).sum(1, keepdim=True)
    assert (naive - posterior).abs().max() > 0.01


def test_new_prior_is_bayes_rule():
    _, _, posterior, prior = _discrete()
    new = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = posterior * new / prior
    expected = expected / expected.sum(1, keepdim=True)
    for link, logits in (("softmax", posterior.log()), ("logistic", torch.logit(posterior))):
        corrected = log_posterior(logits, TrainingSetup(link, class_counts=prior), new).exp()
        torch.testing.assert_close(corrected, expected, rtol=1e-10, atol=0)
    one = torch.logit(posterior[:, :1])
    two = torch.stack([prior[0], 1 - prior[0]])
    corrected = log_posterior(one, TrainingSetup("logistic", class_counts=1 - two), [0.5, 0.5])
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
    corrected = log_posterior(design @ linear, TrainingSetup("softmax", class_weights=weights)).exp()
    assert (corrected - exact).abs().mean() < 0.01
    if heavy > 1:
        assert ((design @ linear).softmax(1) - exact).abs().mean() > 0.1
    P, counts = mean_confusion(corrected.log(), label, link="softmax")
    assert (P * counts[:, None]).sum(0).div(counts).sub(1).abs().max() < 0.05  # as many expected as there are


def test_temperature_comes_first_and_low_precision_is_float32():
    logits = torch.randn(5, 3)
    corrected = log_posterior(logits, TrainingSetup("softmax", class_weights=[1.0, 2.0, 4.0]), temperature=2.0)
    torch.testing.assert_close(corrected.exp(), ((logits / 2) - torch.tensor([1.0, 2.0, 4.0]).log()).softmax(1))
    assert log_posterior(logits.half(), TrainingSetup("logistic")).dtype == torch.float32


def test_extreme_logits_stay_probabilities():
    logits = torch.tensor([[800.0, -900.0, 3.0], [-700.0, -701.0, -702.0]], dtype=torch.float64)
    P = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for setup, options in (
        (TrainingSetup("logistic"), {}),
        (_in_negative(1.0, class_counts=[1, 1, 1]), {"mean_confusion": P}),
    ):
        q = log_posterior(logits, setup, **options).exp()
        torch.testing.assert_close(q.sum(1), torch.ones(2, dtype=torch.float64))


class Columns(LogisticLoss):
    """A loss of one's own that balances the batch."""

    separable_over = "columns"


GOOD = torch.zeros(2, 3)
PLAIN = TrainingSetup("softmax")
COUNTED = TrainingSetup("softmax", class_counts=[5, 5, 10])


@pytest.mark.parametrize(
    ("logits", "setup", "options", "message"),
    [
        (torch.zeros(2, 1), PLAIN, {}, "at least two columns for a softmax loss, got 1"),
        (
            GOOD,
            TrainingSetup("softmax", class_weights=[1, 2]),
            {},
            "logits must have the 2 columns of the setup, got 3",
        ),
        (
            GOOD,
            TrainingSetup("softmax", class_weights=[1, 0, 1]),
            {},
            "class_weights must be positive to be undone, got 0",
        ),
        (GOOD, PLAIN, {"prior": [0.2, 0.3, 0.5]}, "prior needs the training prior: class_counts of the setup"),
        (GOOD, COUNTED, {"prior": [1.0, 1.0, 1.0]}, "prior must sum to 1, got 3"),
        (GOOD, COUNTED, {"prior": [0.5, 0.5]}, r"prior must have shape \(3,\), got \(2,\)"),
        (
            GOOD,
            COUNTED,
            {"prior": [1.5, -0.25, -0.25]},
            "prior must be finite and not negative, got -0.25 at position 1",
        ),
        (
            GOOD,
            TrainingSetup("softmax", class_counts=[0, 5, 5]),
            {"prior": [0.2, 0.3, 0.5]},
            "class_counts must be positive where a prior is given",
        ),
        (GOOD, PLAIN, {"temperature": 0.0}, "temperature must be a finite number"),
        (GOOD, PLAIN, {"mean_confusion": torch.eye(3)}, "mean_confusion belongs to LGL-INR, got it with softmax"),
        (
            GOOD,
            _in_negative(1.0, class_counts=[1, 1, 1]),
            {},
            "mean_confusion and class_counts, all positive, are n",
        ),
        (
            GOOD,
            _in_negative(1.0),
            {"mean_confusion": torch.eye(3)},
            "mean_confusion and class_counts, all positive",
        ),
        (
            GOOD,
            _in_negative(1.0, class_counts=[1, 1, 1]),
            {"mean_confusion": torch.ones(2, 2)},
            r"mean_confusion must have K = 3, got \(2, 2\)",
        ),
        (
            GOOD,
            TrainingSetup("lgl-inr"),
            {},
            "has a posterior for detached weights only, got detach_weights=False",
        ),
        (GOOD, TrainingSetup(F.cross_entropy), {}, "loss must give one value for each sample"),
        (GOOD, COUNTED, {"prior": [0.2, 0.2, 0.2]}, "prior must sum to 1, got 0.6"),
        (GOOD, COUNTED, {"prior": [0.4, 0.4, 0.4]}, "prior must sum to 1, got 1.2"),
        (GOOD, TrainingSetup(Columns()), {}, "is a function of the whole batch, so it has no posterior"),
        (
            GOOD,
            TrainingSetup("logistic", targets="multi-hot", class_weights=[1, 2, 3]),
            {},
            "setup must weigh no classes for multi-hot targets, .* got class weights",
        ),
        (
            GOOD,
            _in_negative(1.0, class_counts=[1, 0, 1]),
            {"mean_confusion": torch.eye(3)},
            r"all positive, .* got a mean_confusion and \[1.0, 0.0, 1.0\]",
        ),
        (
            GOOD,
            TrainingSetup(lambda z, y: (z - z.gather(1, y[:, None]) + 1).clamp(min=0).sum(1)),
            {},
            "has no posterior: its gradient does not change with the logits",
        ),
        (
            torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
            TrainingSetup(lambda z, y: F.cross_entropy(z - z.mean(0), y, reduction="none")),
            {},
            "must be a sum over samples, but its value for a sample depends on",
        ),
        (
            GOOD,
            TrainingSetup(nn.BCEWithLogitsLoss(), class_counts=[1, 2, 3]),
            {"prior": [0.2, 0.3, 0.5]},
            "prior must be None for multi-hot targets",
        ),
    ],
)
def test_bad_input_gets_one_sentence(logits, setup, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        log_posterior(logits, setup, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=[pytest.param(0.0, marks=pytest.mark.slow), 2.0])
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
    average, steps = torch.zeros(5, 4, dtype=torch.float64), 1500
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
    errors = [
        (log_posterior(table, setup, mean_confusion=P).exp() - posterior).abs().max()
        for setup in (
            _in_negative(beta, class_counts=counts),
            _in_negative(beta, class_counts=counts, batch_size=16),
        )
    ]
    assert errors[1] < 0.05
    assert errors[0] > 2 * errors[1]


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lgl_inr_solves_its_equation(batch_size, dtype):
    """Logits made of posteriors q = pi r: u_j rho_j r_j = e^z_j times the mean of r over others, by omega."""
    generator = torch.Generator().manual_seed(0)
    P = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    q = torch.rand(6, 4, generator=generator, dtype=torch.float64) ** 3 + 1e-3
    q = q / q.sum(1, keepdim=True)
    shift, counts = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([60.0, 20.0, 4.0, 2.0], dtype=torch.float64)
    rho = torch.ones(4, dtype=torch.float64) if batch_size is None else batch_presence(counts, batch_size)
    omega = torch.exp(2.0 * P) * rho[:, None] * (1 - torch.eye(4))
    r = q / counts
    z = ((POSITIVE * rho * r).log() - (r @ (omega / omega.sum(0))).log() - shift).to(dtype)
    options = {"pos_weight": POSITIVE, "logit_adjustment": shift, "batch_size": batch_size}
    setup = _in_negative(2.0, class_counts=counts, **options)

    def read(rows):
        return log_posterior(rows, setup, mean_confusion=P)

    close = {"rtol": 1e-9 if dtype == torch.float64 else 1e-5, "atol": 0}
    torch.testing.assert_close(read(z).exp(), q.to(dtype), **close)
    mapped = torch.vmap(read)(z.reshape(2, 3, 4))  # where no value can be looked at
    torch.testing.assert_close(mapped.reshape(6, 4).exp(), q.to(dtype), **close)


def test_lgl_inr_that_does_not_settle_is_no_answer(monkeypatch):
    monkeypatch.setattr(posterior, "_MOST_STEPS", 2)
    setup = _in_negative(1.0, class_counts=[1, 1, 1])
    with pytest.raises(ArithmeticError, match="has not settled after 2 steps"):
        log_posterior(torch.tensor([[3.0, -1.0, 0.0]]), setup, mean_confusion=torch.full((3, 3), 0.5))


# Any loss ----------------------------------------------------------------------------------------------------

SETUPS = setups()


@pytest.mark.parametrize("name", SETUPS)
def test_posterior_of_any_loss_is_the_truth_at_free_logits(name):
    """Free logits at five inputs, at the optimum of the weighted expected loss under known posteriors."""
    setup = SETUPS[name]
    generator = torch.Generator().manual_seed(1)
    q = torch.rand(5, 4, generator=generator, dtype=torch.float64) + 0.05
    q = q / q.sum(1, keepdim=True)
    z = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)

    def expected_loss():
        each = [setup.per_sample(z, torch.full((5,), k)) * q[:, k] * setup.class_effect[k] for k in range(4)]
        return torch.stack(each).sum()

    minimise([z], expected_loss)
    found = log_posterior(z.detach(), setup).exp()
    torch.testing.assert_close(found, q, rtol=0, atol=1e-6)
    assert (z.softmax(1) - q).abs().max() > 0.1


def slow_posterior(setup, logits):
    """Row by row: the left null vector of weighted gradients, or each output's own and then normalised."""
    rows = []
    w = torch.ones(logits.shape[1]).double() if setup.class_effect is None else setup.class_effect
    for z in logits:
        G = torch.stack(
            [
                torch.autograd.functional.jacobian(
                    lambda t, k=k: setup.per_sample(t[None], torch.tensor([k]))[0], z
                )
                for k in range(len(z))
            ]
        )
        if setup.link == "softmax":
            v = torch.linalg.svd(G).U[:, -1] / w
        else:
            down = torch.stack([G[(j + 1) % len(z), j] for j in range(len(z))])
            v = down / (down - G.diagonal()) / w
        rows.append(v / v.sum())
    return torch.stack(rows)


@pytest.mark.parametrize("name", SETUPS)
def test_posterior_equals_the_slow_answer_at_any_logits(name):
    setup = dataclasses.replace(SETUPS[name], class_counts=COUNTS)
    logits = 0.7 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        log_posterior(logits, setup).exp(), slow_posterior(setup, logits), rtol=0, atol=1e-12
    )


CLOSED = {
    "softmax": TrainingSetup("softmax", class_weights=W, logit_adjustment=[0.1, -1.0, 0.3, 0.0]),
    "smoothed": TrainingSetup("softmax", class_weights=W, label_smoothing=0.05),
    "torch smoothed": TrainingSetup(
        nn.CrossEntropyLoss(weight=W, label_smoothing=0.05), sampler_weights=[1, 2, 3, 4]
    ),
    "focal": TrainingSetup("focal", class_weights=W, options={"gamma": 2.0}),
    "focal, flat": TrainingSetup("focal", class_weights=W, options={"gamma": 0.5}),
    "logistic": TrainingSetup(
        "logistic", class_weights=W, pos_weight=[2.0, 0.5, 3.0, 1.0], logit_adjustment=[0.1, -1.0, 0.3, 0.0]
    ),
    "sigmoid focal": TrainingSetup(
        "focal",
        class_weights=W,
        pos_weight=[2.0, 0.5, 3.0, 1.0],
        logit_adjustment=[0.1, -1.0, 0.3, 0.0],
        options={"link": "logistic", "gamma": 2.0},
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_the_generic_answer(name):
    setup = CLOSED[name]
    plain = TrainingSetup(setup.per_sample, class_weights=setup.class_effect)
    assert setup.reading.closed is not None
    assert plain.reading.closed is None
    logits = 0.3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    closed, generic = log_posterior(logits, setup), log_posterior(logits, plain)
    torch.testing.assert_close(closed.exp(), generic.exp(), rtol=0, atol=1e-12)


FAR = torch.tensor([[200.0, 0.0, -5.0, 100.0], [0.0, -150.0, -180.0, -170.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", ["softmax", "focal", "focal, flat", "logistic", "sigmoid focal"])
def test_logits_far_apart_are_as_right_in_float32(name):
    """In float64 none of these probabilities rounds to 0; in float32 many do."""
    expected = log_posterior(FAR, CLOSED[name])
    torch.testing.assert_close(log_posterior(FAR.float(), CLOSED[name]).double(), expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "focal", "focal, flat"])
def test_a_class_that_is_ruled_out_has_no_probability(name):
    logits = torch.tensor([[1.0, -torch.inf, 0.5, -torch.inf], [-torch.inf, 3.0, -torch.inf, -torch.inf]]).double()
    nearly = log_posterior(logits.clamp(min=-600), CLOSED[name]).exp()
    torch.testing.assert_close(log_posterior(logits, CLOSED[name]).exp(), nearly)
    assert nearly[1].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-90)


def test_an_output_that_is_certain_has_the_probability_1():
    logits = torch.tensor([[torch.inf, -torch.inf, 0.0]])
    for gamma in (0.0, 2.0):
        setup = TrainingSetup("focal", targets="multi-hot", options={"link": "logistic", "gamma": gamma})
        assert log_posterior(logits, setup).exp().tolist() == [[1.0, 0.0, 0.5]]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_have_their_gradient(name):
    logits = 0.3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if "smoothed" not in name:
        logits[0] += torch.tensor([40.0, 0.0, -40.0, 0.0])  # probabilities that round to 1
        logits[1] += torch.tensor([0.0, 800.0, 0.0, -800.0])  # and to 0
    assert torch.autograd.gradcheck(lambda z: log_posterior(z, CLOSED[name]), logits.requires_grad_())


SMALL = {2: [0.7, -1.0], 3: [0.0, 0.7, -30.0], 4: [0.0, 0.7, -35.0, -50.0]}


@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(
    ("loss", "closed"),
    [(cross_entropy, TrainingSetup("softmax")), (focal, TrainingSetup("focal", options={"gamma": 2.0}))],
)
def test_any_loss_has_small_probabilities_to_relative_precision(size, scale, loss, closed):
    """Whatever the unit of the logits, in which the gradient may hardly change from place to place."""
    read = TrainingSetup(lambda z, y: loss(z / scale, y))
    z = torch.tensor(list(itertools.permutations(SMALL[size])), dtype=torch.float64)
    torch.testing.assert_close(log_posterior(scale * z, read), log_posterior(z, closed), rtol=0, atol=1e-11)
    sure = -3 * z  # a gradient that rounds to 0
    found = log_posterior(scale * sure, read).exp()
    torch.testing.assert_close(found, log_posterior(sure, closed).exp(), rtol=0, atol=1e-14)


def test_any_loss_is_read_in_parts_where_its_gradients_take_much_memory(monkeypatch):
    logits, setup = _some(7, torch.float64), SETUPS["margins (LDAM)"]
    whole, sizes = log_posterior(logits, setup), []
    of_part = posterior._null_vector
    monkeypatch.setattr(posterior, "_null_vector", lambda G: sizes.append(len(G)) or of_part(G))
    for most, expected in ((3 * 16, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr(posterior, "_MOST_NUMBERS", most)
        torch.testing.assert_close(log_posterior(logits, setup), whole, rtol=1e-12, atol=0)
        assert sizes == expected
        sizes.clear()


def test_sampler_and_shift_are_undone_like_class_weights():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = log_posterior(logits, TrainingSetup("softmax", class_weights=W))
    for setup in (
        TrainingSetup("softmax", sampler_weights=W),
        TrainingSetup("softmax", class_weights=W.sqrt(), sampler_weights=W.sqrt()),
    ):
        torch.testing.assert_close(log_posterior(logits, setup), expected)
    undone = TrainingSetup("softmax", class_weights=W, logit_shift=-W.log())
    torch.testing.assert_close(log_posterior(logits - W.log(), undone), expected)


def test_multi_hot_outputs_have_their_own_posteriors():
    u = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.logsigmoid(logits - u.log())

    def foreign(z, t):
        return F.binary_cross_entropy_with_logits(z, t, pos_weight=u.to(z), reduction="none").sum(1)

    for setup in (
        TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=u)),
        TrainingSetup("logistic", pos_weight=u, targets="multi-hot"),
        TrainingSetup(foreign, targets="multi-hot"),
        TrainingSetup("focal", pos_weight=u, targets="multi-hot", options={"gamma": 0.0, "link": "logistic"}),
    ):
        torch.testing.assert_close(log_posterior(logits, setup), expected, rtol=0, atol=1e-12)

    def joint(z, t):
        return -(t * F.log_softmax(z, 1)).sum(1)

    far = torch.tensor([[20.0, -20.0, 0.0]])
    found = log_posterior(far, TrainingSetup(foreign, targets="multi-hot"))
    torch.testing.assert_close(found, F.logsigmoid(far - u.log()).float(), rtol=1e-5, atol=0)

    def brier(z, t):
        return (z.sigmoid() - t).square().sum(1)

    found = log_posterior(far / 2, TrainingSetup(brier, targets="multi-hot"))
    torch.testing.assert_close(found, F.logsigmoid(far / 2), rtol=1e-5, atol=0)

    def by_number(z, t):  # what one output costs depends on how many classes the sample has
        return F.binary_cross_entropy_with_logits(z, t, reduction="none").sum(1) * (1 + t.sum(1))

    for loss in (joint, by_number):
        with pytest.warns(UserWarning, match="have no posterior that is not negative"):
            assert_nan(log_posterior(logits, TrainingSetup(loss, targets="multi-hot")))


def test_one_output_gives_a_logit_in_the_shape_that_came():
    z = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = z - torch.tensor(3.0).double().log() - torch.tensor(4.0).double().log()

    def foreign(t, y):
        return F.binary_cross_entropy_with_logits(t, y.to(t), pos_weight=torch.tensor(3.0).to(t), reduction="none")

    for setup in (
        TrainingSetup("logistic", pos_weight=[3.0], class_weights=[0.5, 2.0]),
        TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), class_weights=[0.5, 2.0]),
        TrainingSetup(foreign, class_weights=[0.5, 2.0], targets="binary"),
    ):
        torch.testing.assert_close(log_posterior(z, setup), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_posterior(z[:, None], setup), expected[:, None], rtol=0, atol=1e-12)
        far = torch.tensor([20.0, -20.0])
        torch.testing.assert_close(log_posterior(far, setup), far - torch.tensor(12.0).log())


def test_no_posterior_is_nan_with_a_warning_and_never_a_guess():
    """Under smoothing no optimum has a probability below its share of the smoothing mass."""
    logits = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for setup in (SETUPS["smoothed"], SETUPS["torch smoothed"], SETUPS["our softmax"]):
        with pytest.warns(UserWarning, match="1 of 2 rows have no posterior that is not negative"):
            found = log_posterior(logits, setup)
        assert_nan(found[0])
        assert_finite(found[1])
    unknown = torch.full((1, 4), torch.nan).double()  # no optimum is claimed of these: no warning
    assert_nan(log_posterior(unknown, SETUPS["smoothed"]))
    with pytest.warns(UserWarning, match="1 of 3 rows") as caught:
        log_posterior(torch.cat([logits, unknown]), SETUPS["our softmax"])
    assert caught[0].filename == __file__
    weigh = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="2 of 2 rows have no posterior"):
        assert_nan(log_posterior(logits + 1, TrainingSetup(lambda z, y: (weigh[y] * z.square()).sum(1))))


# Shapes, dtypes and graphs -----------------------------------------------------------------------------------


def _binary(z, t):
    return F.binary_cross_entropy_with_logits(z, t, pos_weight=W.to(z), reduction="none").sum(1)


P4 = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRAPHS = {
    "softmax": (CLOSED["softmax"], {}),
    "softmax, prior": (TrainingSetup("softmax", class_counts=COUNTS, class_weights=W), {"prior": [0.25] * 4}),
    "torch smoothed": (CLOSED["torch smoothed"], {}),
    "focal": (CLOSED["focal"], {}),
    "logistic": (CLOSED["logistic"], {}),
    "multi-hot": (TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=W)), {}),
    "lgl-inr": (_in_negative(2.0, class_counts=COUNTS, batch_size=64), {"mean_confusion": P4}),
    "any loss": (SETUPS["margins (LDAM)"], {}),
    "any multi-hot loss": (TrainingSetup(_binary, targets="multi-hot"), {}),
    "sigmoid focal": (TrainingSetup("focal", options={"link": "logistic"}, class_weights=W), {}),
}


class _Head(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.setup, self.options = GRAPHS[name]

    def forward(self, logits):
        return log_posterior(logits, self.setup, **self.options)


def _some(rows=7, dtype=torch.float32):
    return (0.3 * torch.randn(rows, 4, generator=torch.Generator().manual_seed(5))).to(dtype)


@pytest.mark.parametrize("name", GRAPHS)
def test_layouts_empty_batches_half_precision_and_vmap(name):
    head, logits = _Head(name), _some(12)
    expected = head(logits)
    dense = logits.reshape(2, 3, 2, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(head(dense), expected.reshape(2, 3, 2, 4).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert head(logits[:0]).shape == (0, 4)
    for dtype in (torch.float16, torch.bfloat16):
        low = logits.to(dtype)
        assert head(low).dtype == torch.float32
        torch.testing.assert_close(head(low), head(low.float()))
    mapped = torch.vmap(head)(logits.reshape(3, 4, 4)).reshape(12, 4)
    torch.testing.assert_close(mapped, expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(head(logits), expected, rtol=1e-5, atol=1e-6)


CLOSED_GRAPHS = [name for name in GRAPHS if "any" not in name]


@pytest.mark.parametrize("name", CLOSED_GRAPHS)
def test_export_to_a_graph(name):
    head = _Head(name)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(head, (_some(),), dynamic_shapes={"logits": {0: batch}})
    torch.testing.assert_close(program.module()(_some(5)), head(_some(5)), rtol=1e-4, atol=1e-5)


def test_a_loss_without_a_closed_form_is_not_exported():
    with pytest.raises(RuntimeError, match="loss margins has no closed posterior here"):
        torch.export.export(_Head("any loss"), (_some(),))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_compile_in_one_graph(name):
    torch.compiler.reset()
    head = _Head(name)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(_some()), head(_some()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("focal", "lgl-inr"))) for name in CLOSED_GRAPHS],
)
def test_onnx_runs_in_onnxruntime(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    head, path = _Head(name), tmp_path / "head.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        torch.onnx.export(head, (_some(),), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path))
    found = session.run(None, {session.get_inputs()[0].name: _some().numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), head(_some()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_fixed_number_of_doublings_settles_lgl_inr(beta, scale):
    generator = torch.Generator().manual_seed(0)
    p = torch.sigmoid(scale * torch.randn(50, 6, generator=generator, dtype=torch.float64))
    omega = in_negative_weights(torch.rand(6, 6, generator=generator, dtype=torch.float64), beta=beta)
    torch.testing.assert_close(_by_doubling(p, omega).exp(), _until_settled(p, omega).exp(), rtol=0, atol=1e-9)
