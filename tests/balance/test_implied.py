"""Implied weights: read back from models trained with known weights, and from chains with known answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.balance import (
    GradientLedger,
    MeanConfusion,
    TrainingSetup,
    implied_pos_weight,
    implied_weights,
    mean_confusion,
)
from steelyard.balance.perron import stationary
from steelyard.data import exponential, load_dataset, subsample
from steelyard.losses import SoftmaxLoss
from steelyard.losses.functional import softmax_loss
from steelyard.training import Recipe, SmallCNN, fit, predict
from steelyard.weights.class_weights import class_weights
from tests.balance import generic_losses
from tests.balance.generic_losses import minimise, setups, trained
from tests.helpers import COUNTS, WEIGHTS, assert_positive, fit_logits


def test_trained_models_give_their_weights_back():
    logits, target = fit_logits(lambda z, y: softmax_loss(z, y, class_weights=WEIGHTS))
    P, counts = mean_confusion(logits, target, link="softmax")
    implied = implied_weights(P, counts)
    assert implied.groups == ((0, 1, 2, 3),)
    torch.testing.assert_close(implied.ratio_to(WEIGHTS), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (implied.weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
    assert implied.degrees_of_freedom == 9
    assert (implied.ratio_to(torch.ones(4)) - 1).abs().max() > 0.5


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_stationary_distribution_of_any_chain(size, seed):
    generator = torch.Generator().manual_seed(seed)
    P = torch.rand(size, size, generator=generator, dtype=torch.float64) ** 6 + 1e-5
    P = P / P.sum(1, keepdim=True)
    counts = torch.randint(1, 1000, (size,), generator=generator)
    a = implied_weights(P, counts).weights * counts
    torch.testing.assert_close(a @ P, a, rtol=1e-10, atol=0)


@pytest.mark.parametrize("size", [2, 3, 32, 33, 34, 80])
def test_chains_together_have_the_distributions_that_they_have_alone_however_small(size):
    generator = torch.Generator().manual_seed(size)
    chains = torch.rand(3, size, size, generator=generator, dtype=torch.float64) + 0.1
    chains *= torch.logspace(0, -200, size, dtype=torch.float64)  # each state is far rarer than the one before
    chains /= chains.sum(2, keepdim=True)
    found = stationary(chains)
    torch.testing.assert_close(found, torch.stack([stationary(P) for P in chains]), rtol=1e-13, atol=0)
    torch.testing.assert_close((found[:, None] @ chains)[:, 0], found, rtol=1e-12, atol=0)
    one_by_one = chains[0].clone()  # the elimination as it is written down
    for k in range(size - 1, 0, -1):
        one_by_one[:k, k] /= one_by_one[k, :k].sum()
        one_by_one[:k, :k] += one_by_one[:k, k : k + 1] * one_by_one[k, :k]
    pi = torch.ones(size, dtype=torch.float64)
    for k in range(1, size):
        pi[k] = pi[:k] @ one_by_one[:k, k]
    torch.testing.assert_close(found[0], pi / pi.sum(), rtol=1e-13, atol=0)


def test_replicates_in_parts_are_those_of_all_together(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(5, 4, 4, generator=generator, dtype=torch.float64) + 0.1
    parts /= parts.sum(2, keepdim=True)
    counts = torch.tensor([5, 6, 7, 8])

    def logs():
        return implied_weights(parts[0], counts, replicates=[(part, counts) for part in parts]).replicates

    whole = logs()
    monkeypatch.setattr("steelyard.balance.implied._TOGETHER", 2 * 16)
    torch.testing.assert_close(logs(), whole, rtol=1e-14, atol=0)
    alone = torch.stack([implied_weights(part, counts).weights.log() for part in parts])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-13)


def test_groups_that_never_meet_do_not_compare():
    """Blocks {0, 2} and {1, 3}: each gives its own weights, and weights across them have no effect."""
    P = torch.zeros(4, 4, dtype=torch.float64)
    P[0, 0], P[0, 2], P[2, 0], P[2, 2] = 0.9, 0.1, 0.2, 0.8
    P[1, 1], P[1, 3], P[3, 1], P[3, 3] = 0.7, 0.3, 0.3, 0.7
    implied = implied_weights(P, torch.tensor([100, 10, 50, 10]))
    assert implied.groups == ((0, 2), (1, 3))
    assert implied.leaks == (0, 0)
    assert implied.gaps == pytest.approx((0.3, 0.6))
    torch.testing.assert_close(implied.weights, torch.ones(4, dtype=torch.float64))
    scaled = torch.tensor([5.0, 1.0, 5.0, 1.0])
    torch.testing.assert_close(implied.ratio_to(scaled), torch.ones(4, dtype=torch.float64))


def test_tolerance_parts_groups_and_the_leak_says_what_it_cut():
    P = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8 - 1e-7, 1e-7], [0.0, 1e-7, 1 - 1e-7]], dtype=torch.float64)
    counts = torch.tensor([5, 5, 5])
    parted = implied_weights(P, counts)
    assert parted.groups == ((0, 1), (2,))
    assert parted.leaks == pytest.approx((1e-7, 1e-7))
    assert parted.gaps[1] == 1
    whole = implied_weights(P, counts, tolerance=1e-9)
    assert whole.groups == ((0, 1, 2),)
    assert whole.gaps[0] < 1e-6  # one chain, and next to nothing determined across it
    torch.testing.assert_close(
        whole.weights / whole.weights[0], torch.tensor([1, 0.5, 0.5], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_class_without_samples_is_not_observed():
    P = torch.tensor([[0.9, 0.05, 0.05], [torch.nan] * 3, [0.3, 0.0, 0.7]])
    implied = implied_weights(P, torch.tensor([30, 0, 10]))
    assert implied.groups == ((0, 2),)
    assert implied.weights[1].isnan()
    assert implied.leaks[0] == pytest.approx(0.05)
    assert implied.to_dict()["weights"][1] is None


@pytest.mark.parametrize(
    ("P", "counts", "message"),
    [
        (torch.full((2, 2), 0.6), torch.ones(2), "rows that sum to 1, got 1.2; one-vs-all sigmoids have no"),
        (torch.ones(2, 3), torch.ones(2), r"must have shape \(K, K\) and class_counts \(K,\), got \(2, 3\)"),
        (torch.eye(2), torch.ones(3), r"got \(2, 2\) and \(3,\)"),
    ],
)
def test_bad_input(P, counts, message):
    with pytest.raises(ValueError, match=message):
        implied_weights(P, counts)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_power_of_nominal_weights_at_the_optimum(power):
    logits, target = fit_logits(lambda z, y: softmax_loss(z, y, class_weights=WEIGHTS**power))
    applied = implied_weights(*mean_confusion(logits, target, link="softmax")).power_of(WEIGHTS)
    assert applied.power == pytest.approx(power, abs=1e-4)
    assert applied.standard_error < 1e-4


def test_power_needs_weights_that_tell_something():
    implied = implied_weights(torch.tensor([[0.8, 0.2], [0.2, 0.8]]), torch.tensor([5, 5]))
    with pytest.raises(ValueError, match="must differ within a group of classes"):
        implied.power_of(torch.tensor([2.0, 2.0]))
    assert math.isnan(implied.power_of(torch.tensor([1.0, 2.0])).standard_error)  # no scatter to judge by
    with pytest.raises(ValueError, match=r"must be positive and of shape \(2,\), got"):
        implied.power_of(torch.tensor([1.0, 0.0]))


def test_errors_of_implied_weights_cover_the_truth():
    """Samples drawn from a chain with known weights: errors by the jackknife are those over draws, and cover."""
    P = torch.tensor([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]], dtype=torch.float64)
    counts = torch.tensor([3000, 1000, 300])
    truth = implied_weights(P, counts).weights
    target = torch.repeat_interleave(torch.arange(3), counts)
    generator = torch.Generator().manual_seed(0)
    found, errors = [], []
    for _ in range(60):
        drawn = torch.multinomial(P[target], 1, generator=generator)[:, 0]
        metric = MeanConfusion(3, link="softmax", folds=16)
        for chunk in torch.arange(len(target)).split(700):  # in the order of the classes
            metric.update(50.0 * torch.eye(3)[drawn[chunk]], target[chunk])
        assert metric.fold_counts.amin(0).tolist() == [187, 62, 18]
        implied = implied_weights(metric.compute(), metric.class_counts, replicates=metric.replicates())
        found.append(implied.weights.log())
        errors.append(implied.log_error)
    found, errors = torch.stack(found), torch.stack(errors)
    torch.testing.assert_close(errors.mean(0), found.std(0), rtol=0.3, atol=0)
    assert ((found - truth.log()).abs() < 2.13 * errors).double().mean() > 0.85


def test_two_classes_have_a_power_when_their_weights_have_errors():
    logits, target = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)), torch.arange(400) % 2
    metric = MeanConfusion(2, link="softmax", folds=8)
    metric.update(logits, target)
    implied = implied_weights(metric.compute(), metric.class_counts, replicates=metric.replicates())
    applied = implied.power_of(torch.tensor([1.0, 9.0]))
    assert 0 < applied.standard_error < 1


def _ledger(setup, logits, target, folds=1):
    ledger = GradientLedger(setup, logits.shape[1], folds=folds)
    ledger.update(logits, target)
    return ledger


SETUPS = setups()


@pytest.mark.parametrize("name", SETUPS)
def test_weights_of_any_loss_come_back_at_its_optimum(name):
    setup = SETUPS[name]
    logits, target = trained(setup)
    implied = implied_weights(_ledger(setup, logits, target))
    ratio = implied.ratio_to(setup.class_weights)
    torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    assert (implied.ratio_to(torch.ones(4)) - 1).abs().max() > 0.5
    assert all(math.isnan(value) or abs(value - 1) < 1e-4 for value in implied.eigenvalues)


def test_a_ledger_of_softmax_has_the_stationary_distribution_of_its_confusion():
    generator = torch.Generator().manual_seed(0)
    logits, target = 4 * torch.randn(300, 5, generator=generator, dtype=torch.float64), torch.arange(300) % 5
    from_ledger = implied_weights(_ledger(TrainingSetup("softmax"), logits, target, folds=8))
    metric = MeanConfusion(5, link="softmax", folds=8)
    metric.update(logits, target)
    from_P = implied_weights(metric.compute(), metric.class_counts, replicates=metric.replicates())
    torch.testing.assert_close(from_ledger.weights, from_P.weights, rtol=1e-12, atol=0)
    torch.testing.assert_close(from_ledger.log_error, from_P.log_error, rtol=1e-9, atol=0)
    assert from_ledger.gaps == pytest.approx(from_P.gaps)
    assert from_ledger.groups == from_P.groups
    assert from_ledger.eigenvalues == pytest.approx((1,))


def test_the_eigenvalue_of_one_vs_all_is_one_at_the_optimum_only():
    setup = SETUPS["one-vs-all"]
    logits, target = trained(setup)
    early = implied_weights(_ledger(setup, logits / 3, target))
    assert abs(early.eigenvalues[0] - 1) > 0.05
    assert_positive(early.weights)


def test_weights_inside_a_function_show_as_their_ratio():
    def weighted(z, y):
        return generic_losses.focal(z, y) * WEIGHTS[y]

    setup = TrainingSetup(weighted)
    implied = implied_weights(_ledger(setup, *trained(setup)))
    torch.testing.assert_close(implied.ratio_to(torch.ones(4)), torch.ones(4).double(), rtol=1e-4, atol=0)


def test_groups_of_a_ledger_do_not_compare():
    logits = torch.full((40, 4), -60.0, dtype=torch.float64)
    target = torch.arange(40) % 4
    rows = torch.arange(40)
    logits[rows, target] = 1.0
    logits[rows, target ^ 1] = 0.0
    implied = implied_weights(_ledger(TrainingSetup("softmax"), logits, target))
    assert implied.groups == ((0, 1), (2, 3))
    torch.testing.assert_close(implied.weights, torch.ones(4, dtype=torch.float64))


def test_no_positive_weights_are_nan_with_a_warning():
    setup = TrainingSetup("softmax", label_smoothing=0.5)
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="have no positive implied weights"):
        implied = implied_weights(_ledger(setup, 3 * logits, torch.tensor([0, 1, 2])))
    assert implied.weights.isnan().any()


def test_positive_weights_of_outputs_are_push_over_pull():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    target = (torch.rand(400, 4, generator=generator) < torch.sigmoid(x @ torch.randn(3, 4).double())).double()
    u = torch.tensor([0.5, 1.0, 4.0, 9.0], dtype=torch.float64)
    W = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=u)
    minimise([W, b], lambda: loss(x @ W + b, target))
    logits = (x @ W + b).detach()
    stated = TrainingSetup(loss)
    silent = TrainingSetup(torch.nn.BCEWithLogitsLoss())
    for setup in (stated, silent):
        found = implied_pos_weight(_ledger(setup, logits, target))
        torch.testing.assert_close(found, u, rtol=1e-5, atol=0)
    with pytest.raises(TypeError, match="source must be a ledger of class labels"):
        implied_weights(_ledger(stated, logits, target))
    with pytest.raises(TypeError, match="outputs that stand for themselves"):
        implied_pos_weight(_ledger(TrainingSetup("softmax"), logits, torch.arange(400) % 4))


# A network as stochastic gradient descent leaves it, on real data ------------------------------------------


def _train(tmp_path, *, weight, balanced_sampler):
    """Mean confusion and natural counts of a small network on imbalanced digits, after 40 epochs."""
    data = load_dataset("digits")
    chosen = subsample(data.train_target, exponential(20), seed=0)
    images, target = data.inputs("train", chosen), data.train_target[chosen]
    drawn = torch.arange(len(target))
    if balanced_sampler:  # as many of each class, with repetition
        generator = torch.Generator().manual_seed(0)
        share = 1 / torch.bincount(target)[target].double()
        drawn = torch.multinomial(share, len(target), replacement=True, generator=generator)
    torch.manual_seed(0)
    network = SmallCNN(images, 10)
    loss = SoftmaxLoss(class_weights=weight)
    part = images[drawn], target[drawn]
    fit(network, loss, part, part, Recipe(40, 32, 0.03), seed=0, checkpoint=tmp_path / "last.ckpt")
    return mean_confusion(predict(network, images), target, link="softmax")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighted", "balanced_sampler", "power"),
    [(True, False, 1), (False, False, 0), (True, True, 2)],
    ids=["as stated", "never applied", "twice: sampler and loss"],
)
def test_trained_network_tells_whether_inverse_weights_acted(tmp_path, weighted, balanced_sampler, power):
    counts = torch.tensor(exponential(20).counts(torch.bincount(load_dataset("digits").train_target).tolist()))
    inverse = class_weights(counts)
    P, counts = _train(tmp_path, weight=inverse if weighted else None, balanced_sampler=balanced_sampler)
    applied = implied_weights(P, counts, tolerance=1e-12).power_of(inverse)
    assert abs(applied.power - power) < 0.5
