"""Which stated weights explain the implied ones: powers, classes that are off, orders; at any number of classes."""

import math
import time

import pytest
import torch

from steelyard.auditing import explanations
from steelyard.auditing.explanations import Explanations


def _made(classes, power=1.0, noise=0.1, groups=1, seed=0):
    """Log implied weights of so many classes, their stated logs, and replicates that are independent."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(classes, generator=generator, dtype=torch.float64) * 3
    logs = power * x + noise * torch.randn(classes, generator=generator, dtype=torch.float64)
    replicates = logs + 0.01 * torch.randn(16, classes, generator=generator, dtype=torch.float64)
    members = [list(range(g, classes, groups)) for g in range(groups)]
    return Explanations(logs, replicates, members), x


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 2.0])
def test_the_power_is_found_within_its_error(power, groups):
    source, x = _made(60, power, groups=groups)
    fit = source.fit(x)
    assert abs(fit.power - power) < 3 * fit.error
    assert fit.error < 0.1
    assert 0.05 <= fit.scatter < 0.2


@pytest.mark.parametrize("groups", [1, 4])
def test_many_classes_are_fitted_as_few_are(monkeypatch, groups):
    """Beyond some hundred classes errors count as independent; where they are, nothing changes."""
    source, x = _made(80, groups=groups)
    source.covariance = torch.diag(source.variance)
    together = source.fit(x), source.hold(x)
    source.covariance = None
    apart = source.fit(x), source.hold(x)
    for one, other in zip(together, apart, strict=True):
        assert one.scatter == pytest.approx(other.scatter, rel=1e-6)
    assert together[0].power == pytest.approx(apart[0].power, abs=1e-9)
    assert together[0].error == pytest.approx(apart[0].error, rel=1e-6)


def test_ten_thousand_classes_take_seconds():
    source, x = _made(10_000, groups=50)
    start = time.process_time()
    found = explanations.explain(source, x.exp(), {}, torch.ones(10_000, dtype=torch.float64))
    assert found.power.power == pytest.approx(1, abs=0.05)
    assert time.process_time() - start < 60  # a cubic fit would take hours


def test_a_class_that_is_off_is_named_with_its_factor():
    source, x = _made(12, noise=0.02)
    source.logs[5] -= math.log(20)
    (off,) = source.off(x)
    assert off.index == 5
    assert off.factor == pytest.approx(1 / 20, rel=0.2)
    assert source.off(2 * x) == ()


def test_an_order_is_found_and_chance_is_not_taken_for_one():
    source, x = _made(12, noise=0.02)
    moved = x.roll(1)
    assert torch.equal(moved[source.order(moved)], x)
    noise, x = _made(12, power=0.0, noise=0.5)
    assert noise.order(x) is None
