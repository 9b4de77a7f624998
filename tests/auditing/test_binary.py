"""Two classes: one ratio with its interval, one unit in the table, and the threshold that follows."""

import math

import pytest
import torch

from steelyard import TrainingSetup, audit
from steelyard.losses import FocalLoss

SHARES = torch.tensor([0.02, 0.1, 0.5, 0.8])  # of class 1, by cell
CELLS = torch.arange(4).repeat_interleave(1000)
TARGET = torch.cat([(torch.arange(1000) < round(1000 * float(p))).long() for p in SHARES])


def _trained(ratio, adjustment=0.0):
    """Return the scores of the cells that gradient descent on weighted cross-entropy ends at, adjusted or not."""
    z = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    weights = torch.where(TARGET == 1, float(ratio), 1.0).double()
    optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        scores = z[CELLS] + adjustment
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, TARGET.double(), weight=weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    return z.detach()


@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("adjustment", [0.0, -1.5])
def test_the_threshold_is_the_score_of_even_odds(ratio, adjustment):
    z = _trained(ratio, adjustment)
    even = float(z[SHARES == 0.5])  # the cell in which half are of class 1
    options = {"logit_adjustment": [adjustment]} if adjustment else {}
    found = audit(
        z[CELLS], TARGET, TrainingSetup("logistic", pos_weight=[ratio if ratio > 1 else 5.0], **options)
    ).ratio
    assert found.found.value == pytest.approx(ratio, rel=1e-4)
    assert found.found.low < ratio < found.found.high
    assert found.threshold.value == pytest.approx(even, abs=1e-4)
    assert found.threshold.value == pytest.approx(math.log(ratio) - adjustment, abs=1e-4)
    assert found.threshold.low < even < found.threshold.high
    advice = "0 serves as well" if ratio == 1 and not adjustment else "compare scores with it, not with 0"
    assert found.text.endswith(f"{advice}.")
    assert f" = {abs(even):.2f} [" in found.text


def test_one_output_two_columns_and_their_probabilities_say_the_same():
    z = _trained(10.0)[CELLS]
    two = torch.stack([torch.full_like(z, 3.0), z + 3], 1)
    one = audit(z, TARGET, TrainingSetup("logistic", pos_weight=[10.0])).ratio
    others = [
        audit(two, TARGET, TrainingSetup("softmax", class_weights=[1.0, 10.0])).ratio,
        audit(
            two.softmax(1), TARGET, TrainingSetup("softmax", class_weights=[2.0, 20.0]), values="probabilities"
        ).ratio,
    ]
    for other in others:
        assert (other.stated, other.text) == (one.stated, one.text)
        assert other.found.value == pytest.approx(one.found.value, rel=1e-6)


def test_the_table_is_in_units_of_class_0_and_nothing_is_said_of_trades():
    z = _trained(10.0)[CELLS]
    for setup in (
        TrainingSetup("logistic", pos_weight=[10.0]),
        TrainingSetup("logistic", class_weights=[3.0, 30.0]),
    ):
        report = audit(z, TARGET, setup)
        one, zero = report.classes
        assert (one.index, one.stated, zero.stated, zero.implied) == (1, 10.0, 1.0, 1.0)
        assert (one.implied, one.implied_low) == (report.ratio.found.value, report.ratio.found.low)
        assert "trades" not in [finding.name for finding in report.findings]


def test_there_is_no_threshold_where_nothing_is_said_of_weights():
    z = _trained(10.0)[CELLS]
    plain = TrainingSetup("logistic", pos_weight=[10.0])
    assert audit(-z, TARGET, plain).ratio.threshold is None  # the sign is wrong
    focal = audit(z, TARGET, FocalLoss(gamma=2.0, link="logistic"))  # even odds lie elsewhere
    assert "weights_unstated" in [finding.name for finding in focal.findings]
    assert focal.ratio.threshold is None
    assert audit(3 * torch.eye(3)[CELLS % 3] + z[:, None], CELLS % 3, "softmax").ratio is None  # three classes
