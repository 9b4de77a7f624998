"""Each law against the gradient that it says is zero, on models trained to a critical point and on ones not."""

import json

import pytest
import torch

from steelyard.balance import (
    Balance,
    MeanConfusion,
    binary_law,
    feature_law,
    lgl_inr_law,
    logistic_statistics,
    mean_confusion,
    one_vs_all_law,
    softmax_law,
)
from steelyard.losses.functional import lgl_inr_loss, logistic_loss, softmax_loss
from steelyard.losses.lgl_inr import in_negative_weights
from tests.helpers import (
    COUNTS,
    WEIGHTS,
    assert_at_least,
    assert_finite,
    assert_nan,
    assert_positive,
    fit_linear,
    fit_logits,
    linear_data,
)

LAWS = {
    "softmax": (
        lambda z, y: softmax_loss(z, y),
        lambda z, y: softmax_law(*mean_confusion(z, y, link="softmax")),
    ),
    "softmax weighted": (
        lambda z, y: softmax_loss(z, y, class_weights=WEIGHTS),
        lambda z, y: softmax_law(*mean_confusion(z, y, link="softmax"), WEIGHTS),
    ),
    "softmax weighted and smoothed": (
        lambda z, y: softmax_loss(z, y, class_weights=WEIGHTS, label_smoothing=0.1),
        lambda z, y: softmax_law(*mean_confusion(z, y, link="softmax"), WEIGHTS, label_smoothing=0.1),
    ),
    "logistic": (
        lambda z, y: logistic_loss(z, y),
        lambda z, y: one_vs_all_law(*mean_confusion(z, y, link="logistic")),
    ),
    "logistic weighted every way": (
        lambda z, y: logistic_loss(z, y, output_weights=WEIGHTS, pos_weight=WEIGHTS, class_weights=WEIGHTS),
        lambda z, y: one_vs_all_law(*mean_confusion(z, y, link="logistic"), WEIGHTS, pos_weight=WEIGHTS),
    ),
    "lgl-inr": (
        lambda z, y: lgl_inr_loss(z, y, beta=2.0, pos_weight=WEIGHTS),
        lambda z, y: lgl_inr_law(
            mean_confusion(z, y, link="logistic")[0],
            beta=2.0,
            pos_weight=WEIGHTS,
            statistics=logistic_statistics(z, y),
        ),
    ),
    "lgl-inr of beta 0": (
        lambda z, y: lgl_inr_loss(z, y, beta=0.0, output_weights=WEIGHTS),
        lambda z, y: lgl_inr_law(mean_confusion(z, y, link="logistic")[0], beta=0.0),
    ),
}


@pytest.mark.parametrize("case", LAWS)
def test_law_holds_at_the_optimum(case):
    loss, law = LAWS[case]
    logits, target = fit_logits(loss)
    assert law(logits, target).relative_residual.abs().max() < 1e-8


@pytest.mark.parametrize("case", LAWS)
def test_residual_is_the_bias_gradient_anywhere(case):
    loss, law = LAWS[case]
    features, target = linear_data()
    logits = features[:, :4] * 2
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits + bias, target), bias)
    residual = law(logits, target).residual
    if "lgl-inr of beta 0" in case or "every way" in case:
        gradient = gradient / WEIGHTS  # a weight of the whole output cancels in the law
    ratio = gradient / residual
    torch.testing.assert_close(ratio, ratio[:1].expand(4), rtol=1e-10, atol=0)
    assert ratio[0] < 0  # a positive residual is an output that training would raise


def test_law_of_other_weights_does_not_hold():
    logits, target = fit_logits(LAWS["softmax weighted"][0])
    unweighted = softmax_law(*mean_confusion(logits, target, link="softmax"))
    assert unweighted.relative_residual.abs().max() > 0.1


def test_detached_lgl_inr_law_holds_where_its_own_gradient_is_zero():
    """No function has that gradient: descend it by plain steps."""
    features, target = linear_data()
    features = torch.cat([features, torch.ones(100, 1, dtype=torch.float64)], 1)
    weight = torch.zeros(4, 7, dtype=torch.float64, requires_grad=True)
    for _ in range(3000):
        loss = lgl_inr_loss(features @ weight.T, target, beta=3.0, detach_weights=True, reduction="sum")
        (grad,) = torch.autograd.grad(loss, weight)
        weight.data -= 0.3 * grad
    P, _ = mean_confusion((features @ weight.T).detach(), target, link="logistic")
    assert lgl_inr_law(P, beta=3.0).relative_residual.abs().max() < 1e-3


@pytest.mark.parametrize("w1", [0.01, 1.0, 100.0])
def test_binary_law_fixes_the_ratio_of_probabilities(w1):
    logits, target = fit_logits(lambda z, y: logistic_loss(z, y, class_weights=torch.tensor([1.0, w1])), outputs=1)
    p = torch.sigmoid(logits[:, 0])
    P1, P0 = p[target == 1].mean().item(), p[target == 0].mean().item()
    counts = tuple(torch.bincount(target).tolist())
    assert abs(P0 / (1 - P1) / (w1 * counts[1] / counts[0]) - 1) < 1e-6
    assert binary_law(P1, P0, counts, (1.0, w1)).relative_residual.abs().max() < 1e-6


def test_weighted_counts_are_the_stationary_distribution():
    logits, target = fit_logits(LAWS["softmax weighted"][0])
    P, counts = mean_confusion(logits, target, link="softmax")
    a = WEIGHTS * counts / (WEIGHTS * counts).sum()
    torch.testing.assert_close(a @ P, a, rtol=1e-7, atol=0)


def test_class_without_samples_is_not_observed_and_pulls_nothing():
    logits, target = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    for link in ("softmax", "logistic"):
        P, counts = mean_confusion(logits, target, link=link)
        assert_nan(P[3])
        assert counts.tolist() == [7, 7, 6, 0]
        law = softmax_law(P, counts) if link == "softmax" else one_vs_all_law(P, counts)
        assert law.pull_up[3] == 0
        assert_finite(law.push_down)
    law = lgl_inr_law(P)
    assert law.pull_up[3] == 0
    assert_positive(law.push_down)


def test_both_sides_are_as_written():
    P = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, u, rho = WEIGHTS * COUNTS / (WEIGHTS * COUNTS).sum(), WEIGHTS.flip(0), torch.tensor([1.0, 0.9, 0.5, 0.2])
    miss, omega = 1 - P.diagonal(), in_negative_weights(P, beta=3.0, presence=rho)
    pushed = torch.stack([sum(a[k] * P[k, j] for k in range(4) if k != j) for j in range(4)])
    for found, pull, push in [
        (softmax_law(P, COUNTS, WEIGHTS), a * miss, pushed),
        (one_vs_all_law(P, COUNTS, WEIGHTS, pos_weight=u), u * a * miss, pushed),
        (lgl_inr_law(P, beta=3.0, pos_weight=u, presence=rho), u * rho * miss, (omega * P).sum(0)),
    ]:
        torch.testing.assert_close(found.pull_up, pull, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.push_down, push, rtol=1e-12, atol=0)
    found = binary_law(0.75, 0.1, (30, 10), (1.0, 2.0))
    assert found.pull_up.tolist() == pytest.approx([0.4 * 0.25])
    assert found.push_down.tolist() == pytest.approx([0.6 * 0.1])


def test_what_comes_in_float32_is_computed_in_float64():
    P, A, V = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) / 3  # 1 - P needs more than 24 bits
    rho = torch.tensor([1.0, 0.9, 0.5, 0.2])
    for law in (
        lambda to: softmax_law(to(P), COUNTS),
        lambda to: one_vs_all_law(to(P), COUNTS),
        lambda to: lgl_inr_law(to(P), presence=to(rho), statistics=(to(A), to(V))),
    ):
        found, expected = law(lambda values: values), law(torch.Tensor.double)
        assert torch.equal(found.pull_up, expected.pull_up)
        assert torch.equal(found.push_down, expected.push_down)


def test_sizes_of_negative_sides_count_in_the_share():
    balance = Balance(torch.tensor([1.0, 0.0, -3.0]), torch.tensor([-0.5, 0.5, 1.0]))
    assert balance.relative_residual.tolist() == [1.0, -1.0, -1.0]
    assert balance.misfit == 1.0
    assert Balance(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])).misfit == 0.5
    whole = Balance(torch.ones(1), torch.zeros(1))
    assert (whole.relative_residual.tolist(), whole.misfit) == ([1.0], 1.0)
    assert Balance(torch.zeros(2), torch.zeros(2)).misfit == 0.0
    plain = Balance(torch.tensor([float("nan"), 1.0]), torch.ones(2)).to_dict()
    assert json.loads(json.dumps(plain))["pull_up"] == [None, 1.0]


def test_nothing_to_balance_is_no_residual():
    law = one_vs_all_law(torch.eye(3), torch.tensor([5, 5, 5]))
    assert law.relative_residual.tolist() == [0, 0, 0]
    assert law.to_dict() == {"pull_up": [0] * 3, "push_down": [0] * 3, "relative_residual": [0] * 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax_law(torch.ones(2, 3), torch.ones(2)), r"mean_confusion must have shape \(K, K\), got"),
        (lambda: softmax_law(torch.eye(2), torch.ones(3)), r"class_counts must have shape \(2,\), got \(3,\)"),
        (lambda: softmax_law(torch.eye(2), torch.zeros(2)), "must not be all zero"),
        (lambda: softmax_law(torch.eye(2), torch.ones(2), -torch.ones(2)), "class_weights must be finite and not negative"),
        (lambda: one_vs_all_law(torch.eye(2), torch.ones(2), pos_weight=torch.ones(1)), "pos_weight must have"),
        (lambda: binary_law(1.5, 0.0, (1, 1)), r"mean_positive must be a finite number in \[0, 1\], got 1.5"),
        (lambda: binary_law(0.5, 1.1, (1, 1)), r"mean_negative must be a finite number in \[0, 1\], got 1.1"),
        (lambda: binary_law(-0.5, 0.1, (1, 1)), r"mean_positive must be a finite number in \[0, 1\], got -0.5"),
        (lambda: softmax_law(torch.eye(2), torch.ones(2), label_smoothing=-0.1), r"label_smoothing must be .* in \[0, 1\]"),
        (lambda: binary_law(0.5, -0.1, (1, 1)), r"mean_negative must be a finite number in \[0, 1\], got -0.1"),
        (lambda: softmax_law(torch.eye(2), torch.ones(2), label_smoothing=1.5), r"label_smoothing must be .* in \[0, 1\]"),
        (lambda: one_vs_all_law(torch.eye(2), torch.ones(2), pos_weight=-torch.ones(2)), "pos_weight must be finite and not"),
        (lambda: lgl_inr_law(torch.eye(2), pos_weight=-torch.ones(2)), "pos_weight must be finite and not negative"),
        (lambda: lgl_inr_law(torch.eye(2), beta=float("nan")), "beta must be a finite number"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("law", ["softmax", "one-vs-all"])
def test_residual_error_is_the_spread_over_samples(law):
    """The residual of many samples from one population spreads as the standard error of each says."""
    generator = torch.Generator().manual_seed(0)
    residuals, errors = [], []
    for _ in range(300):
        target = torch.repeat_interleave(torch.arange(4), COUNTS)
        logits = torch.randn(100, 4, generator=generator, dtype=torch.float64)
        logits[torch.arange(100), target] += 1
        link = "softmax" if law == "softmax" else "logistic"
        metric = MeanConfusion(4, link=link)
        metric.update(logits, target)
        P, error = metric.compute(), metric.standard_error()
        if law == "softmax":
            balance = softmax_law(P, metric.class_counts, WEIGHTS, standard_error=error)
        else:
            balance = one_vs_all_law(P, metric.class_counts, pos_weight=WEIGHTS, standard_error=error)
        residuals.append(balance.residual)
        errors.append(balance.residual_error)
    spread, expected = torch.stack(residuals).std(0), torch.stack(errors).square().mean(0).sqrt()
    torch.testing.assert_close(spread, expected, rtol=0.12, atol=0)
    assert len(balance.to_dict()["residual_error"]) == 4


def test_a_class_without_samples_adds_no_error():
    error = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ((0.75 * error[0]).square() + (0.25 * error[2]).square()).sqrt()
    error[1] = torch.nan
    found = softmax_law(torch.eye(3), torch.tensor([30, 0, 10]), standard_error=error).residual_error
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_error_of_other_shape_is_refused():
    with pytest.raises(ValueError, match=r"standard_error must have shape \(2, 2\), got \(2,\)"):
        softmax_law(torch.eye(2), torch.ones(2), standard_error=torch.ones(2))


def _softmax(z, y):
    return softmax_loss(z, y, class_weights=WEIGHTS)


def _logistic(z, y):
    per_sample = logistic_loss(z, y, class_weights=WEIGHTS, pos_weight=WEIGHTS, reduction="sum")
    return per_sample / WEIGHTS[y].sum()


@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_weight_decay_leaves_its_term_in_the_law_of_the_bias(link):
    logits, target, _, bias = fit_linear(_softmax if link == "softmax" else _logistic, bias_decay=0.1)
    P, counts = mean_confusion(logits, target, link=link)
    law = softmax_law if link == "softmax" else one_vs_all_law
    options = {"class_weights": WEIGHTS} | ({} if link == "softmax" else {"pos_weight": WEIGHTS})
    assert law(P, counts, **options).residual.abs().max() > 1e-3
    assert law(P, counts, **options, bias_decay=0.1 * bias).residual.abs().max() < 1e-9
    assert not law(P, counts, bias_decay=bias.clone().requires_grad_()).pull_up.requires_grad
    with pytest.raises(ValueError, match=r"bias_decay must have shape \(4,\), got \(3,\)"):
        law(P, counts, bias_decay=torch.ones(3))


@pytest.mark.parametrize("link", ["softmax", "logistic"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_every_feature_is_in_balance_at_the_optimum(link, decay):
    logits, target, weight, _ = fit_linear(_softmax if link == "softmax" else _logistic, weight_decay=decay)
    features = linear_data()[0]
    options = {"class_weights": WEIGHTS} | ({} if link == "softmax" else {"pos_weight": WEIGHTS})
    law = feature_law(logits, target, features, link=link, weight=weight, weight_decay=decay, **options)
    assert law.residual.shape == (4, 6)
    assert law.residual.abs().max() < 1e-8
    assert_at_least(law.pull_up, 0)
    assert_at_least(law.push_down, 0)
    other = feature_law(logits, target, features, link=link)  # the same network against other weights
    assert other.relative_residual.abs().max() > 0.05


def test_a_constant_feature_gives_the_law_of_the_bias():
    logits, target = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    one = feature_law(logits, target, torch.ones(50, 1), link="softmax", class_weights=WEIGHTS)
    law = softmax_law(*mean_confusion(logits, target, link="softmax"), WEIGHTS)
    torch.testing.assert_close(one.pull_up[:, 0], law.pull_up)
    torch.testing.assert_close(one.push_down[:, 0], law.push_down)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(3, 2)}, r"features must have shape \(5, D\), got \(3, 2\)"),
        ({"weight_decay": 0.1}, r"weight must have shape \(2, 3\) where weight_decay is given, got None"),
        ({"pos_weight": torch.ones(2)}, 'pos_weight belongs to link "logistic"'),
        ({"weight_decay": 0.1, "weight": torch.ones(3, 2)}, r"weight must have shape \(2, 3\) .*, got \(3, 2\)"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number >= 0, got -0.1"),
        (
            {"logits": torch.zeros(5, 2, 1), "target": torch.zeros(5, 1, dtype=torch.long)},
            r"logits must have shape \(N, K\)",
        ),
        ({"class_weights": -torch.ones(2)}, "class_weights must be finite and not negative"),
        ({"link": "logistic", "pos_weight": -torch.ones(2)}, "pos_weight must be finite and not negative"),
        ({"target": torch.tensor([0, 1, 2, 0, 1])}, "labels from 0 to 1"),
        ({"link": "probit"}, "link must be one of"),
    ],
)
def test_feature_law_refuses(change, message):
    given = {
        "logits": torch.zeros(5, 2),
        "target": torch.tensor([0, 1, 0, 1, 0]),
        "features": torch.ones(5, 3),
        "link": "softmax",
    } | change
    with pytest.raises(ValueError, match=message):
        feature_law(**given)


def test_feature_law_leaves_out_what_is_ignored():
    generator = torch.Generator().manual_seed(0)
    logits, features = torch.randn(30, 3, generator=generator), torch.randn(30, 2, generator=generator)
    target = torch.randint(3, (30,), generator=generator)
    kept = torch.arange(30) % 4 != 0
    law = feature_law(logits, target.masked_fill(~kept, -100), features, link="softmax")
    expected = feature_law(logits[kept], target[kept], features[kept], link="softmax")
    torch.testing.assert_close(law.residual, expected.residual)


def test_relative_residual_of_any_total_and_of_nothing():
    balance = Balance(torch.tensor([0.75, 0.0, 3.0, 0.0]), torch.tensor([0.25, 0.0, 1.0, 2.0]))
    assert balance.relative_residual.tolist() == [0.5, 0.0, 0.5, -1.0]
