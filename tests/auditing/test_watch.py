"""Watching class weights in a training: sums over batches, what an epoch tells, and what it must not say."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from steelyard import BalanceWarning, BalanceWatch, FocalLoss, LGLINRLoss, SoftmaxLoss, TrainingSetup
from steelyard.auditing import batch_sums
from steelyard.auditing.batch_sums import BatchSums
from steelyard.balance import GradientLedger, implied_weights
from tests.helpers import side_by_side

SIZES = (300, 150, 75, 38, 19)


def _data(seed=0, noise=0.8, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    target = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.eye(len(sizes))[target] + noise * torch.randn(
        len(target), len(sizes), generator=generator
    ), target


def _watched(acting, stated, *, sampler=False, epochs=6, seed=0, mixup=False, counts=True, rate=0.2, noise=0.8):
    """Return the readings and warnings of a linear model trained by SGD."""
    x, target = _data(seed, noise)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model, loss = nn.Linear(5, 5), nn.CrossEntropyLoss(weight=acting)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    said = nn.CrossEntropyLoss(weight=stated)
    watch = BalanceWatch(TrainingSetup(said, class_counts=SIZES if counts else None))
    inverse = 1 / torch.tensor(SIZES)[target].double()
    readings = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(epochs):
            order = torch.randperm(len(target), generator=generator)
            if sampler:
                order = torch.multinomial(inverse, len(target), replacement=True, generator=generator)
            for rows in order.split(32):
                inputs, labels = x[rows], target[rows]
                if mixup:
                    labels = 0.7 * F.one_hot(labels, 5) + 0.3 * F.one_hot(labels.flip(0), 5)
                    inputs = 0.7 * inputs + 0.3 * inputs.flip(0)
                logits = model(inputs)
                value = loss(logits, labels)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                watch.update(logits, labels)
            readings.append(watch.epoch_end())
    return readings, [one for one in caught if issubclass(one.category, BalanceWarning)]


INVERSE = max(SIZES) / torch.tensor(SIZES)


def test_weights_that_act_are_said_to_act_and_nothing_is_warned_of():
    readings, caught = _watched(INVERSE, INVERSE, noise=0.5)
    assert caught == []
    assert readings[0].finding is None  # an untrained model looks so too
    assert readings[-1].finding == "weights_acted"
    assert readings[-1].interval[0] < 1 < readings[-1].interval[1]


@pytest.mark.parametrize(
    ("acting", "sampler", "finding", "words"),
    [
        (None, False, "weights_not_applied", "check that they reach the loss"),
        (INVERSE, True, "weights_applied_twice", "drawn by them, and the loss has them too"),
        (INVERSE**2, False, "weights_applied_twice", "look for a second place"),
    ],
    ids=["never applied", "sampler and loss", "twice in the loss"],
)
def test_a_fault_is_named_once_after_the_second_epoch(acting, sampler, finding, words):
    readings, caught = _watched(acting, INVERSE, sampler=sampler)
    assert readings[0].finding is None
    assert [one.finding for one in readings if one.finding not in (None, finding)] == []
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert str(caught[0].message).startswith("epoch 2" if sampler or acting is None else "epoch ")


def test_a_forgotten_class_is_named_with_its_factor():
    acting = INVERSE.clone()
    acting[3] = 1.0
    readings, caught = _watched(acting, INVERSE, epochs=10)
    assert len(caught) == 1
    ((label, factor),) = next(one.off for one in readings if one.finding == "class_weight_off")
    assert label == 3
    assert 0.5 < factor * float(INVERSE[3]) < 2  # implied over stated is 1 / 7.9
    assert "class 3" in str(caught[0].message)


def test_mixup_with_weights_is_healthy_and_without_them_is_not():
    assert _watched(INVERSE, INVERSE, mixup=True)[1] == []
    assert _watched(None, INVERSE, mixup=True)[0][-1].finding == "weights_not_applied"


def test_a_stated_sampler_is_compared_with_what_was_drawn():
    watch = BalanceWatch(TrainingSetup("softmax", sampler_weights=INVERSE, class_counts=SIZES))
    x, target = _data()
    watch.update(x, target)
    with pytest.warns(BalanceWarning, match="reach the sampler"):
        reading = watch.epoch_end()
    assert reading.finding == "weights_not_applied"
    assert abs(reading.drawn_power) < 1e-9
    assert "too few batches" in watch_of_one_batch().text


def watch_of_one_batch():
    x, target = _data()
    watch = BalanceWatch(nn.CrossEntropyLoss(weight=INVERSE))
    watch.update(x, target)
    return watch.epoch_end()


def test_sums_are_those_of_the_ledger_and_give_its_implied_weights():
    x, target = _data()
    logits, setup = 2 * x, TrainingSetup("softmax", class_weights=INVERSE)
    sums = BatchSums(setup)
    sums.divisor = "sum"
    for rows in torch.randperm(len(target)).split(7):  # more batches than blocks
        sums.add(logits[rows], target[rows])
    taken = sums.take()
    ledger = GradientLedger(setup, 5)
    ledger.update(logits, target)
    torch.testing.assert_close(taken.gradient.sum(0), ledger.compute())
    torch.testing.assert_close(taken.masses.sum(0), torch.tensor(SIZES).double())
    assert taken.batches == 84
    assert len(taken.masses) <= 16
    watch = BalanceWatch(setup)
    watch.update(logits, target)
    found, expected = watch.epoch_end().implied_weights, implied_weights(ledger).weights
    torch.testing.assert_close(found / found[0], expected / expected[0])


@pytest.mark.parametrize("weight", [None, INVERSE])
@pytest.mark.parametrize("batches", [15, 16, 17, 33, 84])
def test_batches_that_wait_are_in_the_blocks_of_batches_that_do_not(monkeypatch, weight, batches):
    x, target = _data()
    target[::9] = -100
    rows = torch.randperm(len(target))[: 7 * batches - 3].split(7)
    found = []
    for waiting in (16, 1):
        monkeypatch.setattr(batch_sums, "MOST_WAITING", waiting)
        sums = BatchSums(nn.CrossEntropyLoss(weight=weight))
        for i, chosen in enumerate(rows):
            logits, labels = x[chosen].clone(), target[chosen].clone()
            if i == 5:
                labels = _one_hot(labels.clamp(min=0)).to(x)
            sums.add(logits, labels)
            logits.zero_(), labels.zero_()  # what is done to a batch afterwards changes nothing
        found.append(sums.take())
    for name in ("gradient", "masses", "drawn"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), msg=f"{name} differs")


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_out_of_range_is_refused(label):
    watch = BalanceWatch(nn.CrossEntropyLoss())
    watch.update(torch.zeros(2, 5), torch.tensor([0, label]))
    watch.update(torch.zeros(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=f"labels from 0 to 4, or -100 to be ignored, got {label}"):
        watch.epoch_end()


def _one_hot(target):
    return F.one_hot(target, 5).double()


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(weight=INVERSE), nn.CrossEntropyLoss(weight=INVERSE, label_smoothing=0.1),
     SoftmaxLoss(class_weights=INVERSE, normalization="weights"), FocalLoss(gamma=2.0, link="softmax")],
    ids=["torch", "torch smoothed", "ours", "focal"],
)  # fmt: skip
def test_a_soft_target_of_one_class_is_its_label(loss):
    x, target = _data()
    hard, soft = BatchSums(loss), BatchSums(loss)
    hard.add(x, target)
    soft.add(x, _one_hot(target))
    one, two = hard.take().gradient.sum(0), soft.take().gradient.sum(0)
    torch.testing.assert_close(one / one.abs().sum(), two / two.abs().sum())


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_soft_sums_add_up_to_the_gradient_of_torch(epsilon):
    x, target = _data()
    loss = nn.CrossEntropyLoss(weight=INVERSE.double(), label_smoothing=epsilon)
    soft = 0.6 * _one_hot(target) + 0.4 * _one_hot(target.flip(0))
    sums = BatchSums(loss)
    sums.add(x, soft)
    z = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, soft), z)
    torch.testing.assert_close(INVERSE.double() @ sums.take().gradient.sum(0), gradient.sum(0))


def test_the_mean_of_a_batch_is_that_of_the_loss():
    x, target = _data()
    target[::9] = -100
    x[::9] = torch.nan
    for loss in (nn.CrossEntropyLoss(weight=INVERSE.double()), SoftmaxLoss(class_weights=INVERSE.double())):
        sums, expected = BatchSums(loss), torch.zeros(5, dtype=torch.float64)
        for rows in torch.randperm(len(target), generator=torch.Generator().manual_seed(1)).split(50):
            sums.add(x[rows], target[rows])
            kept = target[rows] != -100
            z = x[rows][kept].double().requires_grad_()
            expected += torch.autograd.grad(loss(z, target[rows][kept]), z)[0].sum(0)
        torch.testing.assert_close(INVERSE.double() @ sums.take().gradient.sum(0), expected)


@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_that_stand_for_themselves_tell_their_positive_weights(outputs):
    generator = torch.Generator().manual_seed(0)
    u = torch.tensor([8.0, 3.0, 15.0])[:outputs]
    x = torch.randn(1500, 6, generator=generator)
    target = (x[:, :outputs] + torch.randn(1500, outputs, generator=generator) > 1.8).float()
    found = {}
    for name, acting in (("acts", u), ("does not", None)):
        torch.manual_seed(0)
        model, loss = nn.Linear(6, outputs), nn.BCEWithLogitsLoss(pos_weight=acting)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        watch = BalanceWatch(nn.BCEWithLogitsLoss(pos_weight=u))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BalanceWarning)
            for _ in range(12):
                for rows in torch.randperm(1500, generator=generator).split(50):
                    logits = model(x[rows])
                    value = loss(logits, target[rows])
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    watch.update(logits, target[rows])
                found[name] = watch.epoch_end()
    torch.testing.assert_close(found["acts"].implied_weights, u.double(), rtol=0.35, atol=0)
    assert found["acts"].finding in ("weights_acted", None)
    assert found["does not"].finding == "weights_not_applied"


def test_lgl_inr_tells_its_misfit_and_no_weights():
    x, target = _data()
    watch = BalanceWatch(LGLINRLoss(detach_weights=True))
    watch.update(3 * x, target)
    z = (3 * x).double().requires_grad_()
    (gradient,) = torch.autograd.grad(LGLINRLoss(detach_weights=True)(z, target), z)
    own = F.one_hot(target, 5).bool()
    pull, push = -(gradient * own).sum(0), (gradient * ~own).sum(0)
    reading = watch.epoch_end()
    assert reading.power is None
    assert reading.finding is None
    assert reading.misfit == pytest.approx(float((pull - push).abs().sum() / (pull + push).sum()))
    with pytest.raises(ValueError, match="running statistics"):
        BalanceWatch(LGLINRLoss(statistics="running", num_classes=5))


def test_a_training_that_barely_moves_is_not_told_anything():
    for acting in (None, INVERSE):
        readings, caught = _watched(acting, INVERSE, rate=1e-6)
        assert caught == []
        assert {one.finding for one in readings} == {None}
    # drawn evenly an untrained model looks as if weights did not act
    assert _watched(INVERSE, INVERSE, sampler=True, counts=False, rate=1e-6)[1] == []


def test_update_changes_nothing_and_epochs_do_not_mix():
    x, target = _data()
    logits = x.clone().requires_grad_()
    before = copy.deepcopy(logits)
    watch = BalanceWatch(nn.CrossEntropyLoss(weight=INVERSE))
    watch.update(logits, target)
    assert torch.equal(logits, before)
    assert logits.grad is None
    first = watch.epoch_end()
    with pytest.raises(ValueError, match="update"):
        watch.epoch_end()
    watch.update(logits, target)
    second = watch.epoch_end()
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.power == second.power


def test_update_reads_no_value_from_the_device(monkeypatch):
    """On meta tensors any look at a value raises an error."""
    watch = BalanceWatch(nn.CrossEntropyLoss(weight=INVERSE))
    for _ in range(40):
        watch.update(torch.zeros(8, 5, device="meta"), torch.zeros(8, dtype=torch.long, device="meta"))
        watch.update(torch.zeros(8, 5, device="meta"), torch.zeros(8, 5, device="meta"))
    outputs = BalanceWatch(nn.BCEWithLogitsLoss())
    outputs.update(torch.zeros(8, 5, device="meta"), torch.zeros(8, 5, device="meta"))


@pytest.mark.parametrize(
    ("logits", "target", "words"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), r"\(3,\)"),
        (torch.zeros(4, 5), torch.zeros(3).long(), "4 class labels"),
        (torch.zeros(4, 5), torch.zeros(4), "class labels"),
        (torch.zeros(4, 5, dtype=torch.long), torch.zeros(4).long(), "floating"),
        (torch.zeros(4, 1501), torch.zeros(4).long(), "at most 1500"),
    ],
)
def test_what_is_no_batch_is_refused(logits, target, words):
    with pytest.raises((TypeError, ValueError), match=words):
        BalanceWatch(nn.CrossEntropyLoss(weight=INVERSE)).update(logits, target)


def test_soft_targets_of_a_loss_that_does_not_mix_are_refused():
    def spoilt(logits, target):
        soft = target if target.dim() == 2 else F.one_hot(target, 5)
        return -(soft.to(logits) ** 2 * logits.log_softmax(1)).sum(1)

    x, target = _data()
    with pytest.raises(ValueError, match="not linear"):
        BalanceWatch(TrainingSetup(spoilt, class_weights=INVERSE)).update(x, 0.9 * _one_hot(target) + 0.02)


def test_logits_that_are_not_finite_are_said():
    x, target = _data()
    watch = BalanceWatch(nn.CrossEntropyLoss(weight=INVERSE))
    watch.update(x * torch.nan, target)
    assert "not finite" in watch.epoch_end().text


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, target = _data()
    mine = BatchSums(nn.CrossEntropyLoss(weight=INVERSE))
    mine.divisor = "sum"
    for rows in torch.arange(len(target))[rank::2].split(5 if rank else 30):  # not even as many blocks
        mine.add(x[rows], target[rows])
    taken = mine.take()
    torch.save(taken.gradient.sum(0), f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_add_up(tmp_path):
    side_by_side(_worker, (str(tmp_path),), processes=2)
    x, target = _data()
    one = BatchSums(nn.CrossEntropyLoss(weight=INVERSE))
    one.divisor = "sum"
    one.add(x, target)
    expected = one.take().gradient.sum(0)
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / str(rank)), expected)
