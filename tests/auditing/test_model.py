"""Audits of a model with its data: as in training while it collects, everything as before afterwards."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from steelyard import audit, audit_model


def _data(rows=120):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(rows) % 3
    return torch.eye(3)[target] + torch.randn(rows, 3, generator=generator), target


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def _batches(x, y, size=50):
    return list(zip(x.split(size), y.split(size), strict=True))


def test_the_report_is_that_of_logits_in_evaluation_mode():
    (x, y), model = _data(), _model()
    model[2].eval()
    report = audit_model(model, _batches(x, y), nn.CrossEntropyLoss(), dropout=False)
    assert model.training
    assert not model[2].training
    with torch.no_grad():
        expected = audit(model.eval()(x), y, "softmax")
    torch.testing.assert_close(report.mean_confusion, expected.mean_confusion)
    assert report.findings[-1].name == "collected_in_evaluation"
    assert "collected in evaluation mode" in report.verdicts[-1].text
    assert "collected_in_evaluation" not in report.faults


def test_dropout_is_on_and_batch_norm_has_its_running_statistics():
    (x, y), model = _data(1200), _model().eval()
    report = audit_model(model, _batches(x, y), "softmax")
    assert report.findings[-1].name == "collected_with_dropout"
    assert "collected with dropout" in report.verdicts[-1].text
    model[2].train()
    with torch.no_grad():
        expected = torch.stack([audit(model(x), y, "softmax").mean_confusion for _ in range(20)]).mean(0)
        evaluated = audit(model.eval()(x), y, "softmax").mean_confusion
    assert float((report.mean_confusion - expected).abs().max()) < float((evaluated - expected).abs().max()) / 2


class Counting(nn.Module):
    """Counts its calls in training mode in a buffer, which it replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + self.training
        return x


def test_nothing_that_training_mode_moves_has_moved_afterwards():
    (x, y), model = (
        _data(),
        nn.Sequential(*_model(), nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), Counting()),
    )
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    audit_model(model, _batches(x, y), "softmax")
    drawn = torch.rand(1)
    assert not any(module.training for module in model.modules())
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == set()
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)), "the caller's random numbers were drawn"


def test_a_part_that_is_frozen_in_a_model_in_training_stays_so():
    (x, y), model = _data(), _model().train()
    model[2].eval()
    frozen = audit_model(model, _batches(x, y), "softmax").mean_confusion
    torch.testing.assert_close(frozen, audit_model(model, _batches(x, y), "softmax", dropout=False).mean_confusion)


def test_two_audits_of_a_model_are_the_same():
    (x, y), model = _data(), _model()
    first, second = (audit_model(model, _batches(x, y), "softmax").to_dict() for _ in range(2))
    assert first == second


def test_the_mode_is_restored_after_an_error():
    (x, y), model = _data(), _model()
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        audit_model(model, _batches(x, y + 7), "softmax")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("key", ["labels", "target", "label"])
def test_mappings_and_outputs_with_logits(key):
    (x, y), inner = _data(), _model()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, pixels):
            return SimpleNamespace(logits=self.inner(pixels))

    expected = audit_model(inner, _batches(x, y), "softmax")
    report = audit_model(Wrapped(), [{"pixels": a, key: b} for a, b in _batches(x, y)], "softmax")
    torch.testing.assert_close(report.mean_confusion, expected.mean_confusion)


def test_classes_last():
    (x, y), model = _data(), nn.Linear(3, 3)
    expected = audit_model(model, _batches(x, y), "softmax")
    shaped = [(x.reshape(20, 6, 3), y.reshape(20, 6))]
    report = audit_model(model, shaped, "softmax", class_dim=-1)
    torch.testing.assert_close(report.mean_confusion, expected.mean_confusion)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(3), "batches must be pairs of inputs and target, or mappings, got Tensor"),
        ((torch.ones(3),), "got 1 items"),
        ({"pixels": torch.ones(3)}, "batches must have one of labels, label, target, got pixels"),
    ],
)
def test_batches_of_another_kind_are_refused(batch, message):
    with pytest.raises(TypeError, match=message):
        audit_model(_model(), [batch], "softmax")


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match="loader must yield at least one batch, got none"):
        audit_model(_model(), [], "softmax")


def test_a_model_without_logits_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return {"loss": x}

    with pytest.raises(TypeError, match="model must give logits, got NoneType"):
        audit_model(Silent(), _batches(*_data()), "softmax")


def test_what_is_no_model_or_gives_no_logits_is_refused():
    loader = [(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))]
    with pytest.raises(TypeError, match="model must be a torch module, got function"):
        audit_model(lambda x: x, loader, "softmax")

    class LossFirst(nn.Module):
        def forward(self, x):
            return x.mean(), x

    with pytest.raises(ValueError, match=r"model must give logits of samples, .*got a single number"):
        audit_model(LossFirst(), loader, "softmax")
