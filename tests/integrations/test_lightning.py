"""Lightning's callback: the numbers of the watch, in every logger and process."""

import csv
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import steelyard
from steelyard.integrations.lightning import BalanceCallback
from steelyard.training.lightning import quiet_lightning

CLASSES, ROWS, BATCH = 3, 240, 20
WEIGHTS = [1.0, 3.0, 9.0]


def _data():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(ROWS) % 12
    target = torch.where(target < 8, 0, torch.where(target < 11, 1, 2))
    return TensorDataset(
        F.one_hot(target, CLASSES) + 1.2 * torch.randn(ROWS, CLASSES, generator=generator), target
    )


class _Model(pl.LightningModule):
    def __init__(self, loss=None, *, used=None, rate=0.1, how="module"):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(CLASSES, CLASSES)
        self.loss, self.used, self.rate, self.how = loss, used or loss, rate, how

    def training_step(self, batch, index):
        logits, target = self.head(batch[0].to(self.head.weight.dtype)), batch[1]
        if self.how == "named":
            return self.used(logits, target=target)
        if self.how == "twice":
            return self.used(logits, target) + self.used(logits, target)
        if self.how == "mapping":
            return {"loss": F.cross_entropy(logits, target), "logits": logits.detach(), "target": target}
        return self.used(logits, target)

    def validation_step(self, batch, index):
        self.used(torch.zeros(len(batch[0]), CLASSES), batch[1])  # must not be read

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def _loader():
    return DataLoader(_data(), BATCH)


def _fit(model, callback, epochs=4, validate=False, **options):
    options = {"accelerator": "cpu", "devices": 1, "logger": False} | options
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=epochs, callbacks=[callback], enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.fit(model, _loader(), _loader() if validate else None)
    return trainer


def _watched(model, loss):
    """The same watch over the same batches, without Lightning and without training."""
    watch = steelyard.BalanceWatch(loss)
    for x, y in _loader():
        watch.update(model.head(x).detach(), y)
    return watch.epoch_end()


@pytest.mark.parametrize("how", ["module", "named"])
def test_numbers_of_the_watch_reach_the_logger(tmp_path, how):
    loss = steelyard.SoftmaxLoss(class_weights=WEIGHTS)
    setup = steelyard.TrainingSetup(loss, class_names=["a", "b", "c"])
    callback, model = BalanceCallback(setup), _Model(loss, rate=0.0, how=how)
    expected = _watched(model, loss)
    trainer = _fit(model, callback, 2, validate=True, logger=CSVLogger(tmp_path))
    assert [reading.epoch for reading in callback.readings] == [1, 2]
    with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["balance/power"]) == pytest.approx(expected.power, rel=1e-5)
        assert float(row["balance/power_low"]) == pytest.approx(expected.interval[0], rel=1e-5)
        assert float(row["balance/power_high"]) == pytest.approx(expected.interval[1], rel=1e-5)
        assert float(row["balance/misfit"]) == pytest.approx(expected.misfit, rel=1e-5)
        for name, weight in zip("abc", expected.implied_weights.tolist(), strict=True):
            assert float(row[f"balance/implied_weight/{name}"]) == pytest.approx(weight, rel=1e-5)
    assert not loss._forward_hooks


def test_weights_that_act_are_seen_to_act():
    loss = steelyard.SoftmaxLoss(class_weights=WEIGHTS, normalization="count")
    callback = BalanceCallback(loss, implied_weights=False)
    trainer = _fit(_Model(loss), callback, 12)
    assert callback.readings[-1].power == pytest.approx(1, abs=0.3)
    assert "balance/power" in trainer.callback_metrics
    assert not any("implied" in name for name in trainer.callback_metrics)


def test_weights_that_never_reach_the_loss_are_told_in_words():
    setup = steelyard.TrainingSetup("softmax", class_weights=WEIGHTS)
    with pytest.warns(steelyard.BalanceWarning, match="The weights do not act: check that they reach the loss"):
        _fit(_Model(how="mapping"), BalanceCallback(setup), 12)


def test_bf16_true_is_read():
    loss = steelyard.SoftmaxLoss(class_weights=WEIGHTS, normalization="count")
    callback = BalanceCallback(loss)
    _fit(_Model(loss), callback, 12, precision="bf16-true")
    assert callback.readings[-1].power == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        (_Model(steelyard.SoftmaxLoss(), used=steelyard.SoftmaxLoss()), 0),
        (_Model(steelyard.SoftmaxLoss(), how="twice"), 2),
    ],
)
def test_a_loss_that_is_not_called_once_is_refused(model, calls):
    with pytest.raises(ValueError, match=f"training_step must call the loss .* once, got {calls} calls"):
        _fit(model, BalanceCallback(model.loss), 1)
    assert not model.loss._forward_hooks


def test_a_second_fit_begins_from_the_start():
    loss = steelyard.SoftmaxLoss(class_weights=WEIGHTS)
    callback = BalanceCallback(loss)
    for _ in range(2):
        _fit(_Model(loss), callback, 2)
        assert [reading.epoch for reading in callback.readings] == [1, 2]


def test_two_processes_are_added_up():
    loss = steelyard.SoftmaxLoss(class_weights=WEIGHTS)
    model = _Model(loss, rate=0.0)
    watch = steelyard.BalanceWatch(loss)
    for rank in (0, 1):  # what Lightning gives each
        sampler = DistributedSampler(_data(), num_replicas=2, rank=rank, shuffle=True, seed=0)
        for x, y in DataLoader(_data(), BATCH, sampler=sampler):
            watch.update(model.head(x).detach(), y)
    expected = watch.epoch_end()
    trainer = _fit(model, BalanceCallback(loss), 1, devices=2, strategy="ddp_fork")
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["balance/misfit"] == pytest.approx(expected.misfit, rel=1e-5)
    for k, weight in enumerate(expected.implied_weights.tolist()):
        assert found[f"balance/implied_weight/{k}"] == pytest.approx(weight, rel=1e-5)
    assert math.isfinite(found["balance/misfit"])
