"""Fitting: the same numbers resumed or not, honest failures."""

import os
import pickle
import resource
import struct
import zipfile
from dataclasses import replace

import pytest
import torch

from steelyard.data import load_dataset
from steelyard.losses import create_loss
from steelyard.training import Diverged, Recipe, SmallCNN, create_backbone, fit, predict, predict_features
from steelyard.training.batches import EpochBatches, Shares
from steelyard.training.lightning import SafeCheckpointIO, deterministic
from steelyard.weights.schedules import DeferredReweighting
from tests.helpers import assert_at_least

RECIPE = Recipe(epochs=4, batch_size=32, learning_rate=0.1)


@pytest.fixture(scope="module")
def images():
    data = load_dataset("digits")
    return data.inputs("train", torch.arange(300)), data.train_target[:300]


class Killed(BaseException):
    pass


def _fit(images, checkpoint, *, recipe=RECIPE, loss=None, die_at=None, **options):
    def on_epoch(row):
        if row["epoch"] == die_at:
            raise Killed

    torch.manual_seed(3)
    network = SmallCNN(images[0], 10)
    loss = loss or create_loss("lgl-inr", statistics="running", num_classes=10)
    return fit(network, loss, images, images, recipe, seed=3, checkpoint=checkpoint, on_epoch=on_epoch, **options)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_resumed_training_ends_with_the_same_numbers(images, tmp_path, monkeypatch, augmentation):
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    recipe = replace(RECIPE, augmentation=augmentation)
    whole = _fit(images, tmp_path / "whole.ckpt", recipe=recipe)
    assert not (tmp_path / "whole.ckpt").exists()
    with pytest.raises(Killed):
        _fit(images, tmp_path / "last.ckpt", recipe=recipe, die_at=3)
    assert (tmp_path / "last.ckpt").exists()
    resumed = _fit(images, tmp_path / "last.ckpt", recipe=recipe)
    assert resumed.history == whole.history
    assert len(whole.history) == 4
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name


@pytest.mark.parametrize(("kind", "strict"), [("cpu", False), ("cuda", True)])
def test_gpus_are_asked_for_deterministic_forms_while_a_network_trains(monkeypatch, kind, strict):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(torch.device(kind)):
        assert torch.are_deterministic_algorithms_enabled() == strict
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == strict  # without it matrix products may differ
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cluster_that_the_process_was_started_on_changes_nothing(images, tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert len(_fit(images, tmp_path / "a").history) > 0


def test_same_seed_twice_is_the_same(images, tmp_path):
    first, second = (_fit(images, tmp_path / "a.ckpt") for _ in range(2))
    assert torch.equal(predict(first.network, images[0]), predict(second.network, images[0]))


def test_deferred_weights_reach_the_loss_at_their_epoch(images, tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    weights = torch.linspace(0.1, 1.9, 10)

    def make():
        loss = create_loss("softmax", class_weights=weights)
        return {"loss": loss, "schedule": ("class_weights", DeferredReweighting(weights, start_epoch=2))}

    whole = _fit(images, tmp_path / "whole.ckpt", **make())
    plain = _fit(images, tmp_path / "plain.ckpt", loss=create_loss("softmax"))
    assert whole.history[:2] == plain.history[:2]
    assert whole.history[2] != plain.history[2]
    for die_at in (1, 2, 3):
        with pytest.raises(Killed):
            _fit(images, tmp_path / "last.ckpt", die_at=die_at, **make())
        assert _fit(images, tmp_path / "last.ckpt", **make()).history == whole.history
    for how, other, which in ((make, dict, "with"), (dict, make, "without")):
        with pytest.raises(Killed):
            _fit(images, tmp_path / f"{which}.ckpt", die_at=2, **how())
        with pytest.raises(ValueError, match=f"is of a training {which} a schedule; remove it to train again"):
            _fit(images, tmp_path / f"{which}.ckpt", **other())


def test_divergence_stops_with_step_and_epoch(images, tmp_path):
    recipe = Recipe(epochs=4, batch_size=32, learning_rate=1e8)
    with pytest.raises(
        Diverged, match=r"the loss became .* at step \d+ of 36 \(epoch \d\); lower the learning rate"
    ):
        _fit(images, tmp_path / "last.ckpt", recipe=recipe)


@pytest.mark.parametrize("kind", ["truncated", "pickle", "empty", "text", "other", "list"])
def test_checkpoint_that_is_none_is_refused_and_never_executed(images, tmp_path, kind):
    file = tmp_path / "last.ckpt"
    torch.save({"other": {"state_dict": {}}, "list": [1]}.get(kind, torch.zeros(1000)), file)
    if kind not in ("other", "list"):
        file.write_bytes({
            "truncated": file.read_bytes()[:500],
            "pickle": pickle.dumps(print),
            "empty": b"",
            "text": b"what was here is gone",
        }[kind])  # fmt: skip
    with pytest.raises(ValueError, match=r"checkpoint .*last.ckpt cannot be read .* remove it to train again"):
        _fit(images, file)


def test_checkpoint_of_another_network_is_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(Killed):
        _fit(images, tmp_path / "last.ckpt", die_at=2)
    wide = SmallCNN(images[0], 10, width=24)
    with pytest.raises(ValueError, match=r"last.ckpt is of another model \(.*size mismatch.*\); remove it"):
        fit(wide, create_loss("softmax"), images, images, RECIPE, seed=3, checkpoint=tmp_path / "last.ckpt")


def test_checkpoint_with_one_bit_changed_is_refused(images, tmp_path, monkeypatch):
    """Wherever the bit lies that holds a number: torch alone would go on with another one."""
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    file = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        _fit(images, file, die_at=2)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as parts:
        entries = [part for part in parts.infolist() if "/data/" in part.filename]
    for entry in entries[::4]:
        name, extra = struct.unpack_from("<HH", whole, entry.header_offset + 26)
        at = entry.header_offset + 30 + name + extra + entry.file_size // 2
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(
            ValueError, match=r"last.ckpt cannot be read \(the checksum of .* is wrong\); remove it"
        ):
            SafeCheckpointIO().load_checkpoint(file)
    file.write_bytes(whole)
    assert SafeCheckpointIO().load_checkpoint(file)["history"][-1]["epoch"] == 2


def test_a_full_disk_says_so_and_leaves_the_checkpoint(tmp_path):
    """Whatever torch makes of an error in the middle of a file."""
    file, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    file.write_bytes(b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            SafeCheckpointIO().save_checkpoint({"a": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoint_of_other_settings_is_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(Killed):
        _fit(images, tmp_path / "last.ckpt", die_at=2, of={"seed": 3, "imbalance": "none"})
    message = r"last.ckpt is of another run: imbalance is 'none', not 'step:10'; remove it to train again"
    with pytest.raises(ValueError, match=message):
        _fit(images, tmp_path / "last.ckpt", of={"seed": 3, "imbalance": "step:10"})
    whole = _fit(images, tmp_path / "whole.ckpt")
    assert _fit(images, tmp_path / "last.ckpt", of={"seed": 3, "imbalance": "none"}).history == whole.history


def test_batches_depend_on_seed_and_epoch_alone():
    batches = EpochBatches(70, 32, seed=1)
    first = list(batches)
    batches.set_epoch(1)
    second = list(batches)
    batches.set_epoch(0)
    assert list(batches) == first != second
    assert [len(b) for b in first] == [32, 32]
    assert [len(b) for b in EpochBatches(5, 32, seed=1)] == [5]


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_shares_make_up_the_batch(devices):
    images, target, batch = torch.arange(50), torch.arange(50) % 7, [4, 9, 2, 30, 31, 8, 0]
    shares = [Shares(images, target, rank, devices)[batch] for rank in range(devices)]
    assert torch.cat([share[0] for share in shares]).tolist() == batch
    assert all(torch.equal(share[1], target[batch]) for share in shares)
    assert [batch[share[2]] for share in shares] == [int(share[0][0]) for share in shares]


def test_network_normalises_each_channel():
    pixels = torch.randint(256, (50, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, 1] //= 2
    pixels[:, 2] = 7  # no spread: left as large as it is
    network = SmallCNN(pixels, 2)
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3))
    close = {"rtol": 1e-6, "atol": 0}
    torch.testing.assert_close(network.mean.flatten().double(), mean, **close)
    torch.testing.assert_close(network.std.flatten().double(), std.clamp(min=1), **close)
    assert torch.equal(network.std.flatten()[2:], torch.ones(1))


def test_network_starts_from_a_bias_and_refuses_tiny_images(images):
    network = SmallCNN(images[0], 10, initial_bias=torch.arange(10.0))
    assert torch.equal(network.head.bias, torch.arange(10.0))
    assert SmallCNN(torch.zeros(4, 3, 9, 13, dtype=torch.uint8), 2)(torch.zeros(1, 3, 9, 13)).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 4 x 8"):
        SmallCNN(torch.zeros(4, 1, 4, 8, dtype=torch.uint8), 2)


@pytest.mark.parametrize("name", ["small-cnn", "resnet32", "mlp"])
def test_every_backbone_learns_and_gives_its_features(images, tmp_path, name):
    torch.manual_seed(0)
    bias = torch.linspace(-1, 1, 10)
    network = create_backbone(name, images[0], 10, initial_bias=bias)
    assert torch.equal(network.head.bias, bias)
    before = network.eval()(images[0])
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=0.05, augmentation="crop")
    loss = create_loss("softmax")
    fitted = fit(network, loss, images, images, recipe, seed=0, checkpoint=tmp_path / "last.ckpt")
    logits, features = predict(fitted.network, images[0]), predict_features(fitted.network, images[0])
    torch.testing.assert_close(features @ network.head.weight.T + network.head.bias, logits, rtol=1e-4, atol=1e-4)
    assert_at_least(features, 0)
    assert loss(logits, images[1]) < loss(before, images[1])


def test_resnet32_is_the_one_of_the_literature():
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    network = create_backbone("resnet32", images, 10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 32
    assert sum(p.numel() for p in network.parameters()) == 464_154
    assert network.features(images.float()).shape == (4, 64, 8, 8)
    with pytest.raises(ValueError, match="images must be at least 8 x 8 pixels, got 7 x 32"):
        create_backbone("resnet32", images[:, :, :7], 10)
