"""Probabilities in place of logits: their rounding is seen, stated and allowed for; they never pass as logits."""

import pytest
import torch

from steelyard.auditing import audit
from steelyard.auditing.probabilities import Probabilities, are_percents, look_like_probabilities

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.arange(600) % 5
P = (2 * torch.eye(5)[TARGET] + torch.randn(600, 5, generator=GENERATOR)).double().softmax(1)


def rounded(decimals):
    return (P * 10**decimals).round() / 10**decimals


SHOWN = {
    "4 decimals": (rounded(4), "rounded to 4 decimals, rows may sum to 1 within 0.001"),
    "3 decimals": (rounded(3), "rounded to 3 decimals, rows may sum to 1 within 0.0025"),
    "3 decimals, single": (rounded(3).float(), "rounded to 3 decimals, rows may sum to 1 within 0.0025"),
    "2 decimals": (rounded(2), "rounded to 2 decimals, rows may sum to 1 within 0.025"),
    "percents with 1 decimal": ((1000 * P).round() / 10 / 100, "rounded to 3 decimals"),
    "bfloat16": (P.bfloat16(), "of bfloat16's precision, rows may sum to 1 within 0.0078"),
    "float16": (P.half(), "of float16's precision, rows may sum to 1 within 0.002"),
    "single": (P.float(), None),
    "sure": ((P.log() * 40).softmax(1).float(), None),
}


@pytest.mark.parametrize("name", SHOWN)
def test_rounding_is_seen_and_allowed_for(name):
    rows, told = SHOWN[name]
    seen = Probabilities(5, whole=True)
    seen.logits(rows)
    assert (seen.told is None) if told is None else (told in seen.told)
    assert look_like_probabilities(rows, whole=True)
    if name == "sure":
        return
    found, exact = (audit(p, TARGET, "softmax", values="probabilities") for p in (rows, P))
    torch.testing.assert_close(found.mean_confusion, exact.mean_confusion, atol=2e-3, rtol=0)
    assert found.faults == exact.faults
    for given in (rows, 100 * rows.float(), rounded(1)):
        with pytest.raises(ValueError, match="logits look like probabilities"):
            audit(given, TARGET, "softmax")


def test_what_is_off_by_more_than_its_rounding_is_refused():
    for rows, message in (
        (rounded(3) + torch.tensor([0.004, 0, 0, 0, 0]), r"sum to 1 in each row, up to 0.0025, rounded to 3 decimals"),
        (P * 1.002, r"sum to 1 in each row, up to 0.001, got 1.002"),
        (torch.tensor([[0.9, 0.1, 0.3, 0.2, 0.1]] * 600), r"up to 0.1, rounded to 1 decimals, got 1.6"),
        (100 * P, r"must lie in \[0, 1\], got .* \(percents are to be divided by 100\)"),
        (10 * P, r"must lie in \[0, 1\], got [\d.]+ to [\d.]+$"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            audit(rows, TARGET, "softmax", values="probabilities")


def test_a_rounded_zero_is_no_certainty():
    rows = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.01, 0.99]])
    assert Probabilities(2, whole=True).logits(rows)[:, 0].exp().tolist() == pytest.approx([0.0025, 0.0025, 0.01])
    assert Probabilities(2, whole=False).logits(rows).abs().max() < 6
    exact = torch.tensor([[1e-30, 1.0], [0.123456789, 0.876543211]], dtype=torch.float64)
    assert Probabilities(2, whole=True).logits(exact)[0, 0].exp().item() == pytest.approx(1e-30)


def test_the_finest_rounding_holds():
    seen = Probabilities(5, whole=True)
    for rows, decimals in ((torch.eye(5), 0), (rounded(2), 2), (rounded(3), 3), (rounded(2), 3), (P, None), (rounded(2), None)):  # fmt: skip
        seen.see(rows.double())
        assert seen.decimals == decimals


@pytest.mark.parametrize("scale", [1.0, 0.1, 10.0])
def test_logits_are_no_probabilities(scale):
    z = scale * torch.randn(50, 5, generator=GENERATOR)
    for rows in (z, z.abs(), z.round(), z.relu()):
        assert not look_like_probabilities(rows, whole=True)
        assert not are_percents(rows)
