"""Learners beside networks: what they minimise, which losses they take, what they refuse."""

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from steelyard import class_weights
from steelyard.balance import TrainingSetup, law
from steelyard.integrations.boosting import objective
from steelyard.losses.registry import LOSSES
from steelyard.notation import parse_loss
from steelyard.training import Diverged, Recipe
from steelyard.training.learners import Setting, Task, find_learner
from steelyard.training.learners.base import finite

SIZE = 3
SETTING = Setting("small-cnn", Recipe(epochs=1, batch_size=32, learning_rate=0.1), rounds=30)


def rows():
    """Three overlapping classes of 120, 40 and 20 rows with 4 columns."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(SIZE).repeat_interleave(torch.tensor([120, 40, 20]))
    return torch.randn(180, 4, generator=generator) + nn.functional.one_hot(target, 4), target


def task(loss, tmp_path, *, rate=0.1, seed=0, train=None):
    inputs, target = rows() if train is None else train
    return Task(
        parse_loss(loss),
        (inputs, target),
        (inputs, target),
        torch.bincount(target),
        rate,
        seed,
        tmp_path / "last.ckpt",
    )


def imbalance(logits, target, loss):
    """The largest difference of pull and push of an output over their sum, under what was trained."""
    counts = torch.bincount(target)
    setup = TrainingSetup(parse_loss(loss).loss(counts, len(target)), batch_size=len(target), class_counts=counts)
    return float(law(logits, target, setup).relative_residual.abs().max())


@pytest.mark.parametrize("loss", [*LOSSES, "softmax:inverse", "softmax:tau=1", "lgl-inr:presence=1"])
def test_linear_takes_every_loss_to_its_balance(tmp_path, loss):
    work = task(loss, tmp_path, rate=0.01)
    learner = find_learner("linear")
    refused = {
        "eqlv2": "has no batches for statistics to run over",
        "seesaw": "needs a loss whose gradient is that",
    }
    if loss in refused:
        with pytest.raises(ValueError, match=f"learner linear {refused[loss]}"):
            learner.check(work.spec)
        return
    learner.check(work.spec)
    model = learner.fit(work, SETTING)
    assert imbalance(model.logits(work.train[0]), work.train[1], loss) < 1e-4
    assert torch.equal(model.features(work.train[0]), work.train[0])


def test_linear_is_scikit_learns_logistic_regression(tmp_path):
    work = task("softmax:inverse", tmp_path, rate=0.01)
    inputs, target = work.train[0].double().numpy(), work.train[1].numpy()
    weights = parse_loss("softmax:inverse").weights(work.class_counts)[work.train[1]].double().numpy()
    other = LogisticRegression(C=1 / (0.01 * weights.sum()), tol=1e-10, max_iter=10_000)
    other.fit(inputs, target, sample_weight=weights)
    ours = find_learner("linear").fit(work, SETTING).logits(work.train[0]).softmax(1)
    np.testing.assert_allclose(ours.numpy(), other.predict_proba(inputs), atol=2e-5)


@pytest.mark.parametrize("name", ["hist-gradient-boosting", "xgboost", "lightgbm"])
@pytest.mark.parametrize("loss", ["softmax", "softmax:inverse", "class-balanced"])
def test_boosting_ends_in_the_balance_of_its_weights(tmp_path, name, loss):
    """Margins are logits of the loss that was trained, weights included; under other weights they do not balance."""
    work = task(loss, tmp_path)
    logits = find_learner(name).fit(work, SETTING).logits(work.train[0])
    assert logits.shape == (180, SIZE)
    assert imbalance(logits, work.train[1], loss) < 0.12
    assert imbalance(logits, work.train[1], "softmax" if loss != "softmax" else "softmax:inverse") > 0.2


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
@pytest.mark.parametrize(
    "loss", ["logistic:inverse", "focal", "softmax:tau=1", "lgl-inr", "class-balanced-focal:gamma=1"]
)
def test_losses_are_objectives_of_boosting(tmp_path, name, loss):
    work = task(loss, tmp_path)
    logits = find_learner(name).fit(work, SETTING).logits(work.train[0])
    assert imbalance(logits, work.train[1], loss) < 0.25
    assert (logits.argmax(1) == work.train[1]).double().mean() > 0.6


@pytest.mark.parametrize("name", ["hist-gradient-boosting", "xgboost", "lightgbm"])
def test_a_seed_draws_columns_and_two_classes_have_two_logits(tmp_path, name):
    inputs, target = rows()
    noise = torch.randn(160, 6, generator=torch.Generator().manual_seed(1))
    train = torch.cat([inputs[:160], noise], 1), target[:160]
    first, again, other = (
        find_learner(name).fit(task("softmax", tmp_path, seed=seed, train=train), SETTING).logits(train[0])
        for seed in (0, 0, 1)
    )
    assert first.shape == (160, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_are_rows_of_pixels(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 1, 4, 4), generator=generator, dtype=torch.uint8)
    train = images, torch.arange(60) % 3
    for name in ("linear", "xgboost"):
        found = find_learner(name).fit(task("softmax", tmp_path, train=train), SETTING)
        assert found.logits(images).shape == (60, 3)


def test_weights_of_presets_are_weights_of_rows(tmp_path):
    """A preset's weights count once, with mean 1 over the rows, as rows of a built-in loss and in an objective."""
    xgboost = pytest.importorskip("xgboost")
    inputs, target = rows()
    counts = torch.bincount(target)
    w = class_weights(counts, "effective_number", beta=0.999).double()
    w = w * counts.sum() / (w * counts).sum()
    settings = {
        "eta": 0.1, "seed": 0, "colsample_bynode": 0.8, "tree_method": "hist", "num_class": SIZE, "nthread": 1,
        "objective": "multi:softprob",
    }  # fmt: skip
    weighted = xgboost.DMatrix(inputs.numpy(), label=target.numpy(), weight=w[target].numpy())
    trees = xgboost.train(settings, weighted, num_boost_round=SETTING.rounds)
    ours = find_learner("xgboost").fit(task("class-balanced", tmp_path), SETTING)
    theirs = trees.predict(xgboost.DMatrix(inputs.numpy()), output_margin=True)
    np.testing.assert_allclose(ours.logits(inputs).numpy(), theirs, atol=1e-5)

    plain = xgboost.DMatrix(inputs.numpy(), label=target.numpy())
    own = objective("focal", library="xgboost", link="logistic", gamma=1.0, class_weights=w)
    trees = xgboost.train(settings | {"base_score": 0.0}, plain, num_boost_round=SETTING.rounds, obj=own)
    ours = find_learner("xgboost").fit(task("class-balanced-focal:gamma=1", tmp_path), SETTING)
    theirs = trees.predict(xgboost.DMatrix(inputs.numpy()), output_margin=True)
    np.testing.assert_allclose(ours.logits(inputs).numpy(), theirs, atol=1e-5)


def test_what_a_model_of_boosting_saves(tmp_path):
    saved = find_learner("xgboost").fit(task("softmax:inverse", tmp_path), SETTING).save(tmp_path)
    assert saved == ["model.ubj"]
    assert (tmp_path / "model.ubj").stat().st_size > 0
    assert find_learner("hist-gradient-boosting").fit(task("softmax", tmp_path), SETTING).save(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "loss", "message"),
    [
        ("hist-gradient-boosting", "logistic", "cannot train logistic; it takes softmax with class weights"),
        ("hist-gradient-boosting", "lgl-inr", "learner hist-gradient-boosting cannot train lgl-inr"),
        ("hist-gradient-boosting", "softmax:tau=1", "cannot train softmax:tau=1"),
        ("xgboost", "softmax:inverse:from=2", "learner xgboost has no epochs, so weights cannot start at one"),
        ("linear", "lgl-inr:statistics=running", "learner linear has no batches for statistics to run over"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_by_name(name, loss, message):
    with pytest.raises(ValueError, match=message):
        find_learner(name).check(parse_loss(loss))


def test_what_is_not_finite_diverged(tmp_path):
    with pytest.raises(Diverged, match=r"learner xgboost at rate 0\.5 gave logits that are not finite"):
        finite(torch.tensor([[0.0, float("nan")]]), "xgboost", task("softmax", tmp_path, rate=0.5))


@pytest.mark.parametrize("name", ["boost", "", "xgboost:", "a b:c"])
def test_unknown_learner(name):
    with pytest.raises(
        ValueError, match="learner must be one of network, linear, mlp, hist-gradient-boosting, xg"
    ):
        find_learner(name)


def test_learners_on_the_cpu_have_one_device():
    with pytest.raises(ValueError, match="learner linear trains on one CPU, got accelerator gpu with devices 1"):
        find_learner("linear").check_inputs(rows()[0], SIZE, Setting("mlp", SETTING.recipe, accelerator="gpu"))


OWN = """
import torch
from sklearn.linear_model import LogisticRegression

def regression(num_classes, shape, rate, seed):
    return LogisticRegression(C=1 / (rate * 180), tol=1e-10, max_iter=10_000)

def network(num_classes, shape, rate, seed):
    return torch.nn.Linear(*shape, num_classes)

def nothing(**_):
    return 3

def strange():
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_learners.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_learners", raising=False)


@pytest.mark.usefixtures("own")
def test_a_classifier_of_ones_own_has_class_weights_as_weights_of_rows(tmp_path):
    work = task("softmax:inverse", tmp_path, rate=0.01)
    logits = find_learner("own_learners:regression").fit(work, SETTING).logits(work.train[0])
    assert imbalance(logits, work.train[1], "softmax:inverse") < 1e-3
    with pytest.raises(
        ValueError, match=r"own_learners:regression cannot train lgl-inr; .* takes softmax with class"
    ):
        find_learner("own_learners:regression").fit(task("lgl-inr", tmp_path), SETTING)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("lgl-inr", "cannot train lgl-inr; .* takes softmax with class"),
        ("softmax:inverse:from=2", "has no epochs"),
    ],
)
def test_losses_of_ones_own_are_refused_before_work_starts(loss, message):
    learner = find_learner("own_learners:regression")
    learner.check_inputs(rows()[0], SIZE, SETTING)
    learner.check(parse_loss("softmax:inverse"))
    with pytest.raises(ValueError, match=message):
        learner.check(parse_loss(loss))
    network = find_learner("own_learners:network")
    network.check_inputs(rows()[0], SIZE, SETTING)
    network.check(parse_loss(loss))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["regression", "network"])
def test_pixels_reach_ones_own_as_they_are_stored(tmp_path, name):
    """A model without a penalty on its scale would hide it: the coefficients are those of pixels from 0 to 255."""
    images = torch.randint(256, (60, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = []
    learner = find_learner(f"own_learners:{name}")
    made = (
        learner.make((1, 2, 2), 3, 0.1, 0)
        if name == "regression"
        else nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    )
    if name == "regression":
        fit = made.fit
        made.fit = lambda X, y, sample_weight: seen.append(X) or fit(X, y, sample_weight)
    else:
        made.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    learner.make = lambda *_: made
    learner.fit(task("softmax", tmp_path, train=(images, torch.arange(60) % 3)), SETTING)
    assert float(torch.as_tensor(seen[0]).max()) > 200


@pytest.mark.usefixtures("own")
def test_a_network_of_ones_own_is_trained_under_any_loss(tmp_path):
    found = find_learner("own_learners:network").fit(task("lgl-inr", tmp_path), SETTING)
    assert found.logits(rows()[0]).shape == (180, SIZE)
    assert found.features(rows()[0]) is None
    assert len(found.history) == 1


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must make a torch module or a classifier with fit and predict_proba, got int"),
        ("strange", "is called with num_classes, shape, rate and seed: strange.. got an unexpected"),
    ],
)
def test_what_a_function_of_ones_own_must_make(tmp_path, name, message):
    with pytest.raises(TypeError, match=message):
        find_learner(f"own_learners:{name}").fit(task("softmax", tmp_path), SETTING)
