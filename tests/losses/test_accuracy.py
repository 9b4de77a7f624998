"""How exact the losses are: held to committed limits, and in float64 to mpmath."""

import csv
import importlib.util
from pathlib import Path

import mpmath
import pytest
import torch

from steelyard.losses import FocalLoss, create_loss, list_losses
from tests.helpers import assert_at_most, batch, value_and_grad

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("accuracy", FOLDER / "accuracy.py")
accuracy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(accuracy)
with (FOLDER / "accuracy_limits.csv").open() as file:
    LIMITS = {row["loss"]: row for row in csv.DictReader(file)}


def check(found):
    limit = LIMITS.get(found.loss, LIMITS["*"])
    for part in ("loss", "gradient"):
        missed, allowed = getattr(found, f"{part}_missed"), float(limit[f"{part}_missed"])
        assert missed <= allowed, f"{part} of {found.loss} in {found.dtype} misses its target by {missed:.1e}"


@pytest.mark.parametrize("name", list_losses())
@pytest.mark.parametrize("dtype", accuracy.DTYPES)
def test_losses_are_as_exact_as_the_limits_say(name, dtype):
    for classes in (2, 10):
        check(accuracy.measure(name, dtype, classes, scales=(1e-8, 1.0, 20.0, 1e4)))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_losses())
@pytest.mark.parametrize("dtype", accuracy.DTYPES)
@pytest.mark.parametrize("classes", accuracy.CLASSES)
def test_losses_are_as_exact_as_the_limits_say_at_every_scale(name, dtype, classes):
    check(accuracy.measure(name, dtype, classes))


def test_the_table_is_of_every_loss_and_limits_name_losses_that_there_are():
    with (FOLDER / "results" / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["loss"] for row in rows} == set(list_losses()), "make accuracy writes the table"
    assert set(LIMITS) - {"*"} <= set(list_losses())
    page = (FOLDER.parent / "docs" / "accuracy.md").read_text()
    assert all(f"| `{name}` | {dtype} |" in page for name in list_losses() for dtype in accuracy.DTYPES)


def test_a_wrong_formula_is_seen():
    class Off(FocalLoss):
        name = "off by a millionth"

        def forward(self, logits, target):
            return super().forward(logits, target) * (1 if logits.dtype == torch.float64 else 1 + 3e-6)

    found = accuracy.measure("focal", "float32", 2, loss=Off(reduction="none"))
    with pytest.raises(AssertionError, match="loss of focal in float32 misses its target by"):
        check(found)


def test_errors_are_in_units_of_the_last_place():
    exact = torch.tensor([1.0, 4.0, 1e-13], dtype=torch.float64)
    found = torch.tensor([1 + 2**-23, 4.0, 5e-13], dtype=torch.float32)
    assert accuracy.errors(found, exact, 1e-6) == (2**-23, 1.0, 0.0)  # below 1e-12 it counts as none
    found[1] = 4 + 2**-18
    assert accuracy.errors(found, exact, 1e-7) == (2**-20, 8.0, 2**-18)


# mpmath --------------------------------------------------------------------------------------------------


def exact_softplus(z):
    return mpmath.log1p(mpmath.exp(z))


def odds_against(z, y):
    return mpmath.fsum(mpmath.exp(x - z[y]) for j, x in enumerate(z) if j != y)  # (1 - p) / p


def exact_softmax(z, y):
    return mpmath.log1p(odds_against(z, y))


def exact_focal(z, y):
    odds = odds_against(z, y)
    return (odds / (1 + odds)) ** 2 * mpmath.log1p(odds)


def exact_logistic(z, y):
    return mpmath.fsum(exact_softplus(-x if j == y else x) for j, x in enumerate(z))


def exact_sigmoid_focal(z, y):
    signed = [x if j == y else -x for j, x in enumerate(z)]
    return mpmath.fsum(exact_softplus(-x) / (1 + mpmath.exp(x)) ** 2 for x in signed)


def exact_poly1(z, y):
    odds = odds_against(z, y)
    return mpmath.log1p(odds) + odds / (1 + odds)


def exact_asymmetric(z, y):
    total = exact_softplus(-z[y]) / (1 + mpmath.exp(z[y]))
    for j, x in enumerate(z):
        p = 1 / (1 + mpmath.exp(-x)) - mpmath.mpf(0.05)
        if j != y and p > 0:
            total -= p**4 * mpmath.log1p(-p)
    return total


EXACT = {
    "asymmetric": exact_asymmetric,
    "poly1": exact_poly1,
    "softmax": exact_softmax,
    "focal": exact_focal,
    "logistic": exact_logistic,
    "sigmoid-focal": exact_sigmoid_focal,
}


@pytest.mark.parametrize("name", list(EXACT))
@pytest.mark.parametrize("scale", [1e-8, 1.0, 30.0, 1e4])
def test_float64_is_mpmaths(name, scale):
    logits, target = batch(4, 3, 1.0)
    logits, target = scale * logits.clamp(-1, 1), target.tolist()
    loss, grad = value_and_grad(create_loss(name, reduction="none"), logits, target, upstream=torch.ones(4))
    mpmath.mp.dps = 60
    step = mpmath.mpf(10) ** -20
    for i, row in enumerate(logits.tolist()):
        z = [mpmath.mpf(x) for x in row]
        torch.testing.assert_close(float(loss[i]), float(EXACT[name](z, target[i])), rtol=1e-12, atol=1e-15)
        for j in range(3):
            moved = [EXACT[name]([*z[:j], z[j] + s * step, *z[j + 1 :]], target[i]) for s in (1, -1)]
            slope = float((moved[0] - moved[1]) / (2 * step))
            torch.testing.assert_close(float(grad[i, j]), slope, rtol=1e-11, atol=1e-15)


def test_focal_losses_of_certain_samples_keep_their_digits():
    z = torch.tensor([[9.0, 0.0, 1.0]], requires_grad=True)
    loss = FocalLoss()(z, torch.tensor([0]))
    loss.backward()
    expected, exact = value_and_grad(FocalLoss(), z.double(), torch.tensor([0]))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert_at_most((z.grad.double() - exact).abs(), 1e-5 * exact.abs())
