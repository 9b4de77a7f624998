"""The log partition function of moved logits: compiled code and torch's operations against autograd."""

import os
import shutil

import pytest
import torch

from steelyard.kernels.log_partition import native, reference
from steelyard.kernels.log_partition.dispatch import log_partition
from tests.helpers import assert_nan

built = pytest.mark.skipif(native.library() is None, reason="installed without a C compiler")
CODES = pytest.mark.parametrize("code", [pytest.param(native, marks=built), reference], ids=["compiled", "torch"])


def example(rows, columns, size=3.0):
    generator = torch.Generator().manual_seed(rows + columns)
    logits = size * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return logits, torch.rand(rows, generator=generator, dtype=torch.float64)


def slow(logits, weights, scale, shift):
    s, b = torch.tensor(scale, dtype=torch.float64, requires_grad=True), shift.clone().requires_grad_()
    value = (weights * torch.logsumexp(s * logits + b, 1)).sum()
    value.backward()
    return value.item(), s.grad.item(), b.grad


@pytest.mark.skipif(not os.environ.get("CI") or shutil.which("cc") is None, reason="no C compiler to build it")
def test_it_was_built():
    assert native.library() is not None


@CODES
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 1), (1, 2), (50, 7), (50, 8), (9, 17), (4000, 10), (5, 3000), (900, 200)]
)
@pytest.mark.parametrize("scale", [1.0, 0.01, 40.0])
def test_equals_autograd(code, rows, columns, scale):
    logits, weights = example(rows, columns)
    shift = torch.linspace(-2, 2, columns, dtype=torch.float64)
    torch.testing.assert_close(
        code.log_partition(logits, weights, scale, shift),
        slow(logits, weights, scale, shift),
        rtol=1e-12,
        atol=1e-13,
    )


@CODES
@pytest.mark.parametrize("value", [1e4, -1e4, 1e300, -1e300])
def test_logits_of_any_size(code, value):
    logits = torch.tensor([[value, 0.0, 1.0]], dtype=torch.float64)
    weights, shift = torch.ones(1).double(), torch.zeros(3).double()
    expected = slow(logits, weights, 1.0, shift)
    torch.testing.assert_close(code.log_partition(logits, weights, 1.0, shift), expected, rtol=1e-14, atol=1e-300)


@CODES
@pytest.mark.parametrize("columns", [3, 30])
def test_nan_is_not_lost(code, columns):
    logits, weights = example(4, columns)
    logits[2, 1] = torch.nan
    value, by_scale, by_shift = code.log_partition(logits, weights, 1.0, torch.zeros(columns).double())
    assert_nan(torch.tensor([value, by_scale]))
    assert_nan(by_shift)


@built
def test_threads_change_the_rounding_alone():
    logits, weights = example(20_000, 10)
    shift, before = torch.zeros(10, dtype=torch.float64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.append(native.log_partition(logits, weights, 1.0, shift))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(found[2], found[1], rtol=0, atol=0)


def test_without_the_compiled_code_torchs_operations_take_over(monkeypatch):
    logits, weights = example(30, 4)
    shift = torch.zeros(4, dtype=torch.float64)
    monkeypatch.setattr(native, "library", lambda: None)
    expected = reference.log_partition(logits, weights, 1.0, shift)
    torch.testing.assert_close(log_partition(logits, weights, 1.0, shift), expected, rtol=0, atol=0)


def test_a_library_of_another_source_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "_ABI", -1)
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
