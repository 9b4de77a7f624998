"""The losses and laws in JAX against those in torch, in float64, and under jit, vmap and grad."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from steelyard import FocalLoss, LGLINRLoss, LogisticLoss, SoftmaxLoss, TrainingSetup, audit
from steelyard.balance import law as torch_law

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

from steelyard.integrations.jax import law, lgl_inr, logistic, softmax  # noqa: E402

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/lgl_inr.json").read_text())
LONGEST = max(len(case["labels"]) for case in VECTORS)
LOSSES = {
    "softmax": (softmax, SoftmaxLoss),
    "logistic": (logistic, LogisticLoss),
    "lgl-inr": (lgl_inr, LGLINRLoss),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def _batch(outputs=4, size=23, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, max(outputs, 2), size)
    y[3] = -100
    return random.normal(size=(size, outputs)) * 4, y


def _same(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def _some(cases, quick):
    """Return all cases, those that are not quick marked slow: JAX compiles for each shape."""
    slow = pytest.mark.slow
    return [pytest.param(*case, id=f"{k}", marks=[slow] * (k not in quick)) for k, case in enumerate(cases)]


@pytest.mark.parametrize("case", _some([(case,) for case in VECTORS], [0, 22]))
def test_lgl_inr_gives_the_vectors_that_torch_gives(case):
    loss = partial(lgl_inr, beta=case["beta"], detach_weights=case["detach_weights"], reduction="sum")
    size = len(case["labels"])
    z = np.pad(case["logits"], [(0, LONGEST - size), (0, 0)])  # so that few shapes are compiled
    value, gradient = jax.value_and_grad(loss)(
        z, np.pad(case["labels"], (0, LONGEST - size), constant_values=-100)
    )
    _same(value, case["exact"]["loss"])
    _same(gradient[:size], case["exact"]["grad"])
    assert not gradient[size:].any()


W, U, V, T = [0.2, 1.0, 3.0, 2.0], [1.0, 4.0, 0.5, 1.0], [1.0, 0.5, 2.0, 1.0], [0.1, -2.0, 0.0, 1.0]
OPTIONS = [
    ("softmax", {}), ("softmax", {"class_weights": W, "logit_adjustment": T, "label_smoothing": 0.2}),
    ("softmax", {"class_weights": W, "normalization": "count"}), ("softmax", {"class_weights": W, "reduction": "none"}),
    ("logistic", {}), ("logistic", {"class_weights": W, "pos_weight": U, "output_weights": V, "logit_adjustment": T}),
    ("logistic", {"class_weights": W, "label_smoothing": 0.1, "normalization": "weights"}),
    ("logistic", {"class_weights": W, "reduction": "sum"}), ("lgl-inr", {"reduction": "none"}),
    ("lgl-inr", {"beta": "auto", "pos_weight": U, "output_weights": V, "logit_adjustment": T}),
    ("lgl-inr", {"beta": -300.0}), ("lgl-inr", {"beta": 300.0, "detach_weights": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), _some(OPTIONS, [1, 5, 9]))
def test_values_and_gradients_are_those_of_torch(name, options):
    ours, theirs = LOSSES[name]
    z, y = _batch()
    z[3] = np.nan  # ignored
    at = torch.tensor(z, requires_grad=True)
    held = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in options.items()}
    expected = theirs(**held)(at, torch.tensor(y))
    expected.sum().backward()
    arrays = {k: jnp.array(v) if isinstance(v, list) else v for k, v in options.items()}
    loss = jax.jit(partial(ours, **arrays))
    _same(loss(z, y), expected.detach())
    gradient = jax.grad(lambda z: loss(z, y).sum())(jnp.array(z))
    _same(jnp.nan_to_num(gradient), torch.nan_to_num(at.grad))
    assert not bool(jnp.isnan(gradient).any())


def test_one_output_is_a_binary_problem():
    z, y = _batch(outputs=1)
    expected = LogisticLoss(class_weights=[1.0, 3.0], label_smoothing=0.1)
    w = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected.class_weights = w
    keep = y != -100
    _same(
        logistic(z, y, class_weights=[1.0, 3.0], label_smoothing=0.1),
        expected(torch.tensor(z[keep]), torch.tensor(y[keep])),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_takes_each_slice_for_a_batch_and_more_dimensions_for_one(name):
    loss = LOSSES[name][0]
    z, y = zip(*(_batch(seed=seed) for seed in range(3)), strict=True)
    each = [loss(a, b) for a, b in zip(z, y, strict=True)]
    _same(jax.jit(jax.vmap(loss))(jnp.stack(z), jnp.stack(y)), jnp.stack(each))
    _same(loss(jnp.stack(z), jnp.stack(y)), loss(jnp.concatenate(z), jnp.concatenate(y)))


@pytest.mark.parametrize(
    ("loss", "theirs", "weights"),
    [
        (partial(softmax, reduction="none"), SoftmaxLoss(class_weights=torch.tensor(W, dtype=torch.float64)), W),
        (partial(logistic, reduction="none", pos_weight=U), LogisticLoss(class_weights=torch.tensor(W, dtype=torch.float64), pos_weight=torch.tensor(U, dtype=torch.float64)), W),
        (partial(lgl_inr, reduction="sum", beta=2.0), LGLINRLoss(beta=2.0), None),
        (lambda z, y: -(1 - jnp.exp(-softmax(z, y, reduction="none"))) ** 2 * -softmax(z, y, reduction="none"), FocalLoss(), None),
    ],
    ids=["softmax", "logistic", "lgl-inr", "focal"],
)  # fmt: skip
def test_law_is_that_of_torch(loss, theirs, weights):
    z, y = _batch()
    expected = torch_law(torch.tensor(z), torch.tensor(y), TrainingSetup(theirs))
    weights = None if weights is None else jnp.array(weights)
    found = jax.jit(lambda z, y: law(loss, z, y, class_weights=weights))(z, y)
    _same(found.pull_up, expected.pull_up)
    _same(found.push_down, expected.push_down)


def test_a_law_of_as_many_samples_as_classes_is_one_of_samples_too():
    z, y = _batch(outputs=4, size=5)
    z, y = np.delete(z, 3, 0), np.delete(y, 3)
    expected = torch_law(torch.tensor(z), torch.tensor(y), TrainingSetup("softmax"))
    _same(law(partial(softmax, reduction="none"), z, y).pull_up, expected.pull_up)


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_out_of_range_is_an_error_or_nan(name):
    loss = LOSSES[name][0]
    z, y = _batch()
    y[5] = 4
    with pytest.raises(
        ValueError, match="target must hold labels from 0 to 3 or ignore_index -100, got 4 at position 5"
    ):
        loss(z, y)
    assert bool(jnp.isnan(jax.jit(loss)(z, y)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32])
@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_do_not_fit_do_not_wrap(name, dtype):
    """2**32 + 1 is not 1, and 2**32 - 100 is not -100, whichever dtype holds them."""
    loss = LOSSES[name][0]
    z, y = np.eye(3), np.array([0, 1, 2])
    y[1] = 2**32 - 100 if dtype is np.uint32 else 2**32 + 1
    with pytest.raises(ValueError, match=f"target must hold labels from 0 to 2 or .*, got {y[1]} at position 1"):
        loss(z, y.astype(dtype))
    assert bool(jnp.isnan(jax.jit(loss)(z, y.astype(dtype))))
    with jax.enable_x64(False), pytest.raises(ValueError, match=f"got {y[1]} at position 1"):
        loss(z, y.astype(dtype))


@pytest.mark.parametrize("index", [-(2**40), 2**31])
def test_an_index_to_ignore_fits_labels(index):
    with pytest.raises(ValueError, match=f"ignore_index must be an int of 32 bits, got {index}"):
        softmax(np.eye(2), np.array([0, index]), ignore_index=index)


@pytest.mark.parametrize("outputs", [3, 4])
def test_losses_of_outputs_are_no_losses_of_samples(outputs):
    z, y = _batch(outputs)
    with pytest.raises(ValueError, match="loss must give a number or one loss a sample"):
        law(partial(lgl_inr, reduction="none"), z[:3], y[:3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: softmax(z, y.astype(float)), "target must hold class labels"),
        (lambda z, y: softmax(z.astype(int), y), "logits must be floating point"),
        (lambda z, y: softmax(z, y[:-1]), "logits must have shape"),
        (lambda z, y: softmax(z[:, :1], y * 0), "at least two classes"),
        (lambda z, y: softmax(z, y, class_weights=[1.0, 2.0]), r"class_weights must have shape \(4,\)"),
        (
            lambda z, y: logistic(z, y, pos_weight=[1.0, 2.0, -1.0, 1.0]),
            "pos_weight must be finite and not negative",
        ),
        (lambda z, y: softmax(z, y, reduction="avg"), "reduction must be one of"),
        (lambda z, y: lgl_inr(z, y, beta="hard"), "beta must be a number or 'auto'"),
        (lambda z, y: law(partial(lgl_inr, reduction="sum"), z, y, class_weights=W), "class_weights must be None"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(*_batch())


def test_half_precision_is_computed_in_float32():
    z, y = _batch()
    for loss, _ in LOSSES.values():
        assert loss(jnp.array(z, jnp.bfloat16), y).dtype == jnp.float32


@pytest.mark.slow
def test_optax_trains_a_model_whose_audit_finds_the_weights():
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(3), [300, 60, 20])
    X = np.c_[np.eye(3)[y] + random.normal(size=(380, 3)), np.ones(380)]
    w = jnp.array([0.2, 1.0, 3.0])
    optimizer = optax.adam(optax.exponential_decay(0.3, 100, 0.5))
    loss = lambda W: softmax(X @ W, y, class_weights=w)  # noqa: E731

    def step(carry, _):
        W, state = carry
        updates, state = optimizer.update(jax.grad(loss)(W), state)
        return (optax.apply_updates(W, updates), state), None

    start = jnp.zeros((4, 3))
    (W_, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=1500))()
    pull, push = law(partial(softmax, reduction="none"), X @ W_, y, class_weights=w)
    _same(pull, push, 1e-4)
    assert (
        audit(np.asarray(X @ W_), y, TrainingSetup("softmax", class_weights=np.asarray(w))).headline
        == "The weights acted as stated."
    )
