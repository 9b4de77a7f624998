"""Losses whose vectors are made from class counts: what they are, and what can be said of a model trained on them."""

import mpmath
import pytest
import torch

from steelyard import TrainingSetup, audit, create_loss, log_posterior
from steelyard.balance import GradientLedger, implied_weights, law
from steelyard.forecasting import fit_head
from steelyard.losses.presets import PRESETS
from steelyard.notation import parse_loss
from steelyard.weights.adjustments import class_margins, confidence_margins, logit_factors
from tests.helpers import COUNTS, WEIGHTS, assert_finite, batch, linear_data

NAMES = ["cdt", "eql", "immax", "ldam", "vs"]
MILD = {"eql": {"threshold": 0.2}, "ldam": {"scale": 2.0}}


@pytest.mark.parametrize("name", NAMES)
def test_law_weights_and_audit_know_the_margins(name):
    loss = create_loss(name, class_counts=COUNTS, class_weights=WEIGHTS, **MILD.get(name, {}))
    features, target = linear_data()
    logits = fit_head(features, target, loss=loss, weight_decay=0.01).logits(features)
    setup = TrainingSetup(loss)
    assert law(logits, target, setup).misfit < 1e-6
    assert law(logits, target, TrainingSetup("softmax", class_weights=WEIGHTS)).misfit > 0.02
    ledger = GradientLedger(setup, 4)
    ledger.update(logits, target)
    torch.testing.assert_close(
        implied_weights(ledger).ratio_to(WEIGHTS), torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert audit(logits, target, setup).faults == ()


@pytest.mark.parametrize("name", NAMES)
def test_posterior_takes_the_margins_out(name):
    """The constant solution stands for the class frequencies."""
    loss = create_loss(name, class_counts=COUNTS, **MILD.get(name, {}))
    bias = loss.first_bias(COUNTS).double()
    found = log_posterior(bias[None], TrainingSetup(loss)).exp()[0]
    torch.testing.assert_close(found, COUNTS.double() / COUNTS.sum(), rtol=0, atol=1e-5)
    assert (bias.softmax(0) - found).abs().max() > 0.02, "nothing would have had to be undone"


def test_parameters_of_presets_reach_their_vectors():
    assert torch.equal(
        create_loss("ldam", class_counts=COUNTS, max_margin=0.2).margins, class_margins(COUNTS, max_margin=0.2)
    )
    vs = parse_loss("vs:gamma=0.1:tau=2").loss(COUNTS, 8)
    factors = logit_factors(COUNTS, gamma=0.1)
    assert torch.equal(vs.logit_factors, factors)
    torch.testing.assert_close(vs.logit_adjustment * factors, 2 * (COUNTS / COUNTS.sum()).log())
    balanced = create_loss("class-balanced", class_counts=COUNTS, beta=0.9).class_weights
    assert torch.equal(
        balanced, create_loss("focal", class_counts=COUNTS, class_weights="effective_number@0.9").class_weights
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vs:gamma=-1", r"gamma must be a finite number in \[0, 10\], got -1"),
        ("ldam:max_margin=-1", "max_margin must be a finite number >= 0, got -1"),
        ("ldam:scale=0", r"scale must be a finite number in \[0.001, 10000\], got 0"),
        ("vs:tau=x", "tau must be a number, got str"),
        ("cdt:tau=1:gama=1", "unknown option 'gama'.*did you mean 'gamma'"),
    ],
)
def test_what_a_preset_cannot_take_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_loss(text)


@pytest.mark.parametrize(
    "option", [{"scale": 2.0}, {"logit_factors": [1.0, 1.0, 1.0, 2.0]}, {"confidence_margins": [1, 1, 1, 2]}]
)
def test_eql_takes_nothing_that_changes_how_many_negatives_are_kept(option):
    with pytest.raises(TypeError, match=f"eql chooses {next(iter(option))} by itself"):
        create_loss("eql", class_counts=COUNTS, **option)


def test_an_unknown_option_of_a_preset_is_told_what_the_preset_takes():
    with pytest.raises(
        TypeError, match=r"'ldam' has no option 'max_margn' \(did you mean 'max_margin'\?\); it takes"
    ):
        create_loss("ldam", class_counts=COUNTS, max_margn=0.3)
    with pytest.raises(
        TypeError,
        match="'cdt' has no option 'tau'; it takes gamma, margins, confidence_margins, scale, normalization",
    ):
        create_loss("cdt", class_counts=COUNTS, tau=1.0)


@pytest.mark.parametrize("name", ["lgl-inr", "seesaw", "eqlv2"])
def test_num_classes_and_counts_agree(name):
    with pytest.raises(ValueError, match="num_classes must be 3, the length of class_counts, got 4"):
        create_loss(name, class_counts=[5, 3, 2], num_classes=4)
    assert create_loss(name, class_counts=[5, 3, 2], num_classes=3).num_classes == 3


def test_empty_classes_are_refused():
    empty = {
        "ldam": "margin is infinite",
        "cdt": "factor is 0",
        "vs": "factor is 0",
        "immax": "confidence margin is 0",
    }
    for name, otherwise in empty.items():
        with pytest.raises(ValueError, match=f"class_counts has no samples of class 1: its {otherwise}"):
            create_loss(name, class_counts=[3, 0, 2])
    with pytest.raises(ValueError, match="gamma must leave every class a factor of at least 1e-30, got 10"):
        create_loss("cdt", class_counts=[10_000, 1], gamma=10)
    with pytest.raises(ValueError, match=r"confidence margin of at least 1e-08, got 2, which gives 2e-12"):
        create_loss("immax", class_counts=[1_000_000, 1], power=2)


def test_immax_divides_by_the_margins_that_its_authors_search_around():
    """Equation 6 of the paper; its margins sum to 1, ours have a mean of 1."""
    counts, (logits, target) = [600, 250, 90, 40, 20], batch(dtype=torch.float64)
    cube_roots = torch.tensor(counts).double() ** (1 / 3)
    theirs = (cube_roots / cube_roots.sum()).float().double()
    torch.testing.assert_close(confidence_margins(counts).double(), 5 * theirs)
    each = ((logits - logits.gather(1, target[:, None])) / theirs[target][:, None]).exp().sum(1).log()
    torch.testing.assert_close(create_loss("immax", class_counts=counts, scale=5.0)(logits, target), each.mean())
    equal = create_loss("immax", class_counts=[7, 7, 7, 7, 7])
    torch.testing.assert_close(equal(logits, target), create_loss("softmax")(logits, target))


def test_posterior_of_immax_is_what_its_chain_leaves_in_place():
    r"""With P[k] the softmax of logits / rho[k], the posterior divided by rho is P's stationary distribution."""
    loss = create_loss("immax", class_counts=COUNTS, class_weights=WEIGHTS)
    z, rho = batch(8, 4)[0], loss.confidence_margins.double()
    mass = log_posterior(z, TrainingSetup(loss)).exp() * loss.class_weights.double() / rho
    chain = torch.stack([torch.softmax(z / one, 1) for one in rho], 1)
    torch.testing.assert_close(torch.einsum("nk,nkj->nj", mass, chain), mass, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("name", ["cdt", "immax", "ldam", "vs"])
def test_posterior_of_sure_rows_is_right_in_every_class(name, scale):
    """The least probabilities too: rows of the gradient may then differ by a factor of 1e100."""
    loss = create_loss(name, class_counts=COUNTS, **MILD.get(name, {}))
    z = batch(6, 4, scale)[0]
    found = log_posterior(z, TrainingSetup(loss))
    exact = [_exact_log_posterior(row.tolist(), loss) for row in z]
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=1e-11, atol=1e-9)


def test_posterior_of_a_row_beyond_the_range_of_float64_is_its_likely_class():
    loss = create_loss("immax", class_counts=COUNTS)
    z = torch.tensor([[0.0, -1.0, 2.0, 3000.0], [0.0, 3000.0, 2.0, -1.0]], dtype=torch.float64)
    found = log_posterior(z, TrainingSetup(loss)).exp()
    assert torch.equal(found, torch.nn.functional.one_hot(torch.tensor([3, 1]), 4).double())


def _exact_log_posterior(z, loss):
    """Return log q with sum of q[k] G[k] = 0 from K - 1 of the equations, in 400 digits."""
    with mpmath.workdps(400):
        vectors = (loss.logit_factors, loss.margins, loss.confidence_margins, loss.logit_adjustment)
        d, m, rho, b = ([0.0] * 4 if one is None else one.tolist() for one in vectors)
        d = d if any(d) else [1.0] * 4
        rho = rho if any(rho) else [1.0] * 4
        a = [mpmath.mpf(loss.scale) * d[j] * (mpmath.mpf(z[j]) + b[j]) for j in range(4)]
        system = mpmath.matrix(4, 4)
        for k in range(4):
            e = [mpmath.exp((a[j] - (loss.scale * m[k] if j == k else 0)) / rho[k]) for j in range(4)]
            for j in range(3):
                system[j, k] = loss.scale * d[j] / rho[k] * (e[j] / sum(e) - (j == k))
            system[3, k] = 1
        q = mpmath.lu_solve(system, mpmath.matrix([0, 0, 0, 1]))
        return [float(mpmath.log(one)) for one in q]


def test_deferred_weights_start_after_four_fifths_of_the_epochs():
    loss, schedule = parse_loss("ldam-drw").build(COUNTS, 8, 200)
    argument, deferred = schedule
    assert (argument, deferred.start_epoch) == ("class_weights", 160)
    assert deferred.class_weights.tolist() == [1, 1, 1, 1]
    deferred.set_epoch(160)
    assert torch.equal(deferred.class_weights, loss.class_weights)
    assert parse_loss("ldam-drw:from=3").build(COUNTS, 8, 200)[1][1].start_epoch == 3
    assert torch.equal(loss.margins, create_loss("ldam", class_counts=COUNTS).margins)
    assert [name for name, preset in PRESETS.items() if preset.start] == ["ldam-drw"]


def test_near_logits_keep_their_difference_under_a_scale():
    """A product of a large logit and the scale is rounded more than the difference is."""
    logits, target = torch.tensor([[1e4, 1e4 + 0.001, 1e4 - 0.002]]), torch.tensor([0])
    loss = create_loss("margin-softmax", scale=30.0)
    torch.testing.assert_close(loss(logits, target).double(), loss(logits.double(), target), rtol=1e-6, atol=0)


def test_soft_and_smoothed_targets_keep_the_small_miss_that_a_margin_makes_large():
    """Of cosines at scale 30 the miss is far below the rounding of p, and a margin of 0.5 takes 15 of its log."""
    cosines = torch.tensor([[0.7, 0.0, 0.1], [0.55, 0.0, -0.2], [0.9, -0.6, 0.3]])
    loss = create_loss("margin-softmax", margins=[0.5, 0.3, 0.1], scale=30.0, reduction="none")
    smoothed = create_loss("margin-softmax", margins=[0.5, 0.3, 0.1], scale=30.0, label_smoothing=0.1)
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.5, 0.0, 0.5]])
    for one, target in ((loss, soft), (smoothed, torch.tensor([0, 0, 0]))):
        z = cosines.clone().requires_grad_()
        exact = torch.stack([loss(cosines.double(), torch.full((3,), k)) for k in range(3)], 1)
        mixed = soft.double() if one is loss else 0.9 * torch.eye(3)[0].double() + 0.1 / 3
        wanted = (mixed * exact).sum(1)
        found = one(z, target)
        torch.testing.assert_close(found.double(), wanted if one is loss else wanted.mean(), rtol=4e-6, atol=0)
        found.sum().backward()
        wide = cosines.double().requires_grad_()
        one(wide, target.double() if one is loss else target).sum().backward()
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=2e-5, atol=1e-6)


def test_a_soft_target_of_0_counts_for_nothing_whatever_its_logit():
    loss = create_loss("margin-softmax", margins=[0.5, 0.3, 0.1], scale=2.0)
    z = torch.tensor([[1.0, -torch.inf, 0.0]], requires_grad=True)
    found = loss(z, torch.tensor([[0.5, 0.0, 0.5]]))
    found.backward()
    two = create_loss("margin-softmax", margins=[0.5, 0.1], scale=2.0)
    torch.testing.assert_close(found, two(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])))
    assert_finite(z.grad)


@pytest.mark.parametrize("name", [*NAMES, "ldam-drw"])
def test_presets_take_ignored_rows_and_soft_targets(name):
    loss = create_loss(name, class_counts=[50, 20, 9, 4, 1])
    logits, target = batch(dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(target, 5).double()
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, target), rtol=1e-9, atol=0)
    target[::3] = -100
    kept = target != -100
    torch.testing.assert_close(loss(logits, target), loss(logits[kept], target[kept]), rtol=1e-12, atol=0)
