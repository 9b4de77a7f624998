"""Losses that weigh by what they have seen: counts of labels (Seesaw), sums of gradients (EQLv2)."""

import copy
import math

import pytest
import torch
import torch.distributed as dist

from steelyard import TrainingSetup, class_counts, create_loss, exact_accumulation
from steelyard.losses import EQLv2Loss, SeesawLoss
from steelyard.losses.functional import eqlv2_loss, logistic_loss, seesaw_loss, softmax_loss
from tests.helpers import assert_finite, batch, side_by_side, value_and_grad
from tests.oracles import seesaw as slow_seesaw

MAKE = {"seesaw": SeesawLoss, "eqlv2": EQLv2Loss}
CLOSE = {"rtol": 1e-13, "atol": 1e-14}


def feed(loss, seeds):
    for seed in seeds:
        loss(*batch(seed=seed))
    return loss


@pytest.mark.parametrize("name", MAKE)
def test_a_resumed_module_goes_on_as_one_that_was_never_stopped(name):
    through = feed(MAKE[name](num_classes=5), range(6))
    half = feed(MAKE[name](num_classes=5), range(3))
    resumed = MAKE[name](num_classes=5)
    resumed.load_state_dict(half.state_dict())
    feed(resumed, range(3, 6))
    for key, value in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    z, y = batch(seed=9)
    assert torch.equal(resumed(z, y), through(z, y))
    fresh = MAKE[name](num_classes=5)
    assert not torch.equal(fresh(z, y), resumed(z, y)), "the state would play no part"


@pytest.mark.parametrize("name", MAKE)
def test_evaluation_changes_nothing(name):
    loss = feed(MAKE[name](num_classes=5), [0]).eval()
    before = copy.deepcopy(loss.state_dict())
    z, y = batch(seed=1)
    first = loss(z, y)
    assert torch.equal(loss(z, y), first)
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())
    assert torch.equal(loss.per_sample(z, y).mean(), first), "what is said of the model is of the state as it is"


@pytest.mark.parametrize("name", MAKE)
def test_the_state_can_be_forgotten_and_survives_a_change_of_dtype(name):
    loss = feed(MAKE[name](num_classes=5), [0])
    before = copy.deepcopy(loss.state_dict())
    assert all(torch.equal(before[key], value) for key, value in loss.half().state_dict().items())
    loss.reset_parameters()
    assert not any(bool(buffer.any()) for buffer in loss.buffers())


@pytest.mark.parametrize("name", MAKE)
def test_a_module_that_has_seen_nothing_says_nothing_of_a_trained_model(name):
    with pytest.raises(ValueError, match=f"loss {name} has seen no batch.*give the module that was trained"):
        TrainingSetup(MAKE[name](num_classes=5))
    assert TrainingSetup(feed(MAKE[name](num_classes=5), [0])).reading.name == name


@pytest.mark.parametrize("name", MAKE)
def test_what_cannot_be_meant_is_refused(name):
    fixed = {"seesaw": "class_counts", "eqlv2": "gradient_ratio"}[name]
    for options, message in [
        ({"num_classes": 3, fixed: [1.0, 2.0, 3.0]}, "give one of the two"),
        ({"num_classes": 0}, "num_classes must be an int >= 1, got 0"),
        ({"num_classes": 3, "process_group": 1}, "process_group needs torch.distributed"),
        ({"process_group": 1}, "process_group needs num_classes: without it no"),
    ]:
        with pytest.raises(ValueError, match=message):
            MAKE[name](**options)
    for training in (True, False):
        with pytest.raises(ValueError, match="logits must have num_classes = 3 columns, got 5"):
            MAKE[name](num_classes=3).train(training)(*batch())
    with pytest.raises(ValueError, match="logits must have num_classes = 3 columns, got 2"):
        MAKE[name](num_classes=3, class_dim=-1)(torch.zeros(4, 3, 2), torch.zeros(4, 3).long())
    with pytest.raises(ValueError, match=f"num_classes.* must be given for '{name}', got none"):
        create_loss(name)


def test_create_loss_gives_counts_or_room_for_gradients():
    assert create_loss("seesaw", class_counts=[5, 3]).class_counts.tolist() == [5, 3]
    assert create_loss("seesaw", class_counts=[5, 3], num_classes=2).class_counts is None
    assert create_loss("eqlv2", class_counts=[5, 3]).num_classes == 2
    assert create_loss("eqlv2", gradient_ratio=[0.5, 0.3]).num_classes is None
    assert create_loss("eqlv2", class_counts=[5, 3], num_classes=None).num_classes == 2


def test_a_setup_has_as_many_counts_as_its_loss_has_classes():
    trained = feed(MAKE["seesaw"](num_classes=5), [0])
    with pytest.raises(ValueError, match="class_counts must have 5 values, as the loss has classes, got 2"):
        TrainingSetup(trained, class_counts=[60, 30])


@pytest.mark.parametrize("name", MAKE)
def test_micro_batches_that_are_joined_count_once(name):
    torch.manual_seed(0)
    model, (x, target) = torch.nn.Linear(5, 5).double(), batch(24)
    whole, parts = MAKE[name](num_classes=5).double(), MAKE[name](num_classes=5).double()
    feed(whole, [1]), feed(parts, [1])
    whole(model(x), target).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for part in exact_accumulation(parts)(model, zip(x.split(7), target.split(7), strict=True)):
        part.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    torch.testing.assert_close(dict(parts.state_dict()), dict(whole.state_dict()))


# Seesaw --------------------------------------------------------------------------------------------------


def test_labels_are_counted_before_the_loss_of_their_batch():
    z, y = batch(24)
    y[::5] = -100
    loss = SeesawLoss(num_classes=5)
    value = loss(z, y)
    counts = class_counts(y[y >= 0], num_classes=5)
    assert torch.equal(loss.running_class_counts, counts)
    torch.testing.assert_close(value, seesaw_loss(z, y, class_counts=counts), **CLOSE)


def test_counts_do_not_stop_where_float32_would():
    loss = SeesawLoss(num_classes=2)
    loss.running_class_counts.fill_(2**24)
    loss(torch.zeros(3, 2), torch.tensor([0, 0, 1]))
    assert loss.running_class_counts.tolist() == [2**24 + 2, 2**24 + 1]


def test_without_factors_it_is_the_softmax_loss():
    z, y = batch()
    none = {"mitigation": 0.0, "compensation": 0.0, "class_counts": torch.arange(1.0, 6)}
    torch.testing.assert_close(
        value_and_grad(seesaw_loss, z, y, **none), value_and_grad(softmax_loss, z, y), **CLOSE
    )


def test_factors_are_constants_in_the_gradient():
    """Finite differences of the loss under factors that stay are the gradient."""
    z, y = batch(4, 4)
    counts, step = torch.tensor([40.0, 9.0, 3.0, 1.0], dtype=torch.float64), 1e-6
    _, grad = value_and_grad(seesaw_loss, z, y, class_counts=counts)
    S = []
    for row, label in zip(z, y.tolist(), strict=True):
        p = row.softmax(0)
        M = torch.where(counts < counts[label], (counts / counts[label]) ** 0.8, 1.0)
        S.append(M * (p / p[label].clamp(min=0.01)).clamp(min=1) ** 2)
    factors = torch.stack(S).scatter(1, y[:, None], 1.0)

    def frozen(z):
        return -torch.log_softmax(z + factors.log(), 1).gather(1, y[:, None]).mean()

    for i in range(4):
        for j in range(4):
            up, down = z.clone(), z.clone()
            up[i, j] += step
            down[i, j] -= step
            assert math.isclose(float(grad[i, j]), float(frozen(up) - frozen(down)) / 2 / step, abs_tol=1e-8)
    torch.testing.assert_close(seesaw_loss(z, y, class_counts=counts), frozen(z), **CLOSE)


@pytest.mark.parametrize("scale", [30.0, 1e4, 1e30])
def test_large_logits_neither_overflow_nor_lose_the_loss(scale):
    """A softmax of scores that is divided by a tiny one, and powers of it, would."""
    z, y = batch(dtype=torch.float32)
    z = z * scale
    loss, grad = value_and_grad(seesaw_loss, z, y, class_counts=torch.tensor([1e6, 1e3, 10.0, 1.0, 1.0]))
    expected = slow_seesaw(z.double(), y, class_counts=torch.tensor([1e6, 1e3, 10.0, 1.0, 1.0]).double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-9)
    assert_finite(grad)


# EQLv2 ---------------------------------------------------------------------------------------------------


def test_the_first_batch_is_the_logistic_loss():
    z, y = batch()
    torch.testing.assert_close(value_and_grad(EQLv2Loss(num_classes=5), z, y), value_and_grad(logistic_loss, z, y))


@pytest.mark.parametrize("kind", ["labels", "multi-hot", "weighted", "ignored"])
def test_sums_are_those_of_the_gradients_of_the_loss(kind):
    z, y = batch(20)
    target, sample = y, None
    options = {"pos_weight": [1.0, 2.0, 3.0, 1.0, 0.5], "output_weights": [1.0, 0.5, 1.0, 2.0, 1.0]}
    if kind == "multi-hot":
        target = (batch(20, seed=4)[0] > 0).long()
        target[3, 2] = -100
    if kind == "weighted":
        options["class_weights"] = [0.5, 1.0, 2.0, 4.0, 1.0]
        sample = torch.linspace(0, 2, 20).double()
    if kind == "ignored":
        target = y.masked_fill(torch.arange(20) % 4 == 0, -100)
        z[0] = torch.nan
    loss = EQLv2Loss(num_classes=5, **options, reduction="sum").double()
    feed(loss, [7])
    before = loss.positive_gradient.clone(), loss.negative_gradient.clone()
    leaf = z.clone().requires_grad_()
    loss(leaf, target, sample_weight=sample).backward()
    grad = leaf.grad.nan_to_num(0.0)
    torch.testing.assert_close(loss.positive_gradient - before[0], (-grad).clamp(min=0).sum(0), **CLOSE)
    torch.testing.assert_close(loss.negative_gradient - before[1], grad.clamp(min=0).sum(0), **CLOSE)
    ratio = before[0] / before[1]
    weights = {key: torch.tensor(value).double() for key, value in options.items()}
    again = eqlv2_loss(z, target, sample_weight=sample, gradient_ratio=ratio, **weights, reduction="sum")
    torch.testing.assert_close(loss.eval().per_sample(z[1:2], y[1:2]).isfinite(), torch.tensor([True]))
    expected = copy.deepcopy(loss)
    expected.positive_gradient, expected.negative_gradient = before
    torch.testing.assert_close(expected(z, target, sample_weight=sample), again, **CLOSE)


def test_one_output_takes_binary_targets():
    loss = EQLv2Loss(num_classes=1)
    z, y = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    loss(z, y)
    torch.testing.assert_close(loss.positive_gradient, torch.sigmoid(-z[:1]))
    torch.testing.assert_close(loss.negative_gradient, torch.sigmoid(z[1:]).sum()[None])


def test_a_step_of_nan_adds_nothing():
    loss = feed(EQLv2Loss(num_classes=5), [0])
    before = loss.positive_gradient.clone(), loss.negative_gradient.clone()
    z, y = batch()
    loss(z * torch.nan, y)
    assert torch.equal(loss.positive_gradient, before[0])
    assert torch.equal(loss.negative_gradient, before[1])


def test_weights_at_the_ends_of_the_ratio_are_finite():
    z, y = batch(dtype=torch.float32)
    for ratio in (0.0, 1e-30, 1e30):
        loss, grad = value_and_grad(eqlv2_loss, z, y, gradient_ratio=torch.full((5,), ratio), gamma=1000.0)
        assert_finite(loss[None])
        assert_finite(grad)


# Several processes ---------------------------------------------------------------------------------------


def _worker(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    part = [slice(0, 15), slice(15, 15), slice(15, 24)][rank]
    found = {}
    for name, make in MAKE.items():
        loss = make(num_classes=5, process_group=dist.group.WORLD, reduction="sum").double()
        for seed in range(3):
            z, y = batch(24, seed=seed)
            value = loss(z[part], y[part])
        dist.all_reduce(value)
        found[name] = (value, dict(loss.state_dict()))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_state_of_a_process_is_that_of_all_and_not_of_its_own_rows(tmp_path):
    side_by_side(_worker, (3, str(tmp_path)), processes=3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, make in MAKE.items():
            loss = make(num_classes=5, reduction="sum").double()
            for seed in range(3):
                value = loss(*batch(24, seed=seed))
            torch.testing.assert_close(found[name], (value, dict(loss.state_dict())), rtol=1e-12, atol=0)
