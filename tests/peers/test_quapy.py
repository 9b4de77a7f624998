"""The class frequencies of unlabelled rows are those that QuaPy finds, from its own numbers in tests/vectors."""

import json
from pathlib import Path

import pytest
import torch

from steelyard import estimate_prior

FOUND = json.loads((Path(__file__).parents[1] / "vectors/prior.json").read_text())


def _rows(name):
    return torch.tensor(FOUND[name], dtype=torch.float64).log()


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_the_prior_is_quapys(method):
    held_out = _rows("held"), torch.tensor(FOUND["target"])
    found = estimate_prior(_rows("q"), FOUND["train"], method=method, held_out=held_out)
    torch.testing.assert_close(found.prior, torch.tensor(FOUND[method], dtype=torch.float64), rtol=0, atol=1e-6)
