"""Mixed precision, and several devices: what one device gives but for rounding."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from steelyard.losses import create_loss
from steelyard.training import Diverged, Recipe, ResNet32, SmallCNN, fit
from steelyard.training.processes import in_processes
from steelyard.weights.schedules import DeferredReweighting
from tests.helpers import gone

RECIPE = Recipe(epochs=3, batch_size=25, learning_rate=0.1, augmentation="crop-flip")
WEIGHTS = torch.tensor([0.2, 0.5, 1.0, 3.0])


def _data(samples):
    """Images that say their class, half of them of class 0."""
    generator = torch.Generator().manual_seed(samples)
    target = (torch.randint(8, (samples,), generator=generator) - 4).clamp(min=0)
    images = torch.randint(128, (samples, 1, 8, 8), dtype=torch.uint8, generator=generator)
    images[torch.arange(samples), 0, 2 * target] += 100
    return images, target


class _Noise(nn.Module):
    """Draws from torch's generator, as dropout does."""

    def forward(self, x):
        return x + 0.01 * torch.rand_like(x) if self.training else x


class _Dies(nn.Module):
    """The softmax loss until some step; then what kills a training."""

    def __init__(self, step, error):
        super().__init__()
        self.loss, self.left, self.error = create_loss("softmax", class_weights=WEIGHTS), step, error

    def forward(self, logits, target):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.loss(logits, target)


def _fit(tmp_path, loss, *, recipe=RECIPE, noise=False, rows=None, **options):
    torch.manual_seed(1)
    network = SmallCNN(_data(120)[0], 4, width=4)
    if noise:
        network.features.insert(0, _Noise())
    if isinstance(loss, str):
        loss = create_loss(loss)
    on_epoch = (lambda row: None) if rows is None else rows.append
    return fit(
        network,
        loss,
        _data(120),
        _data(57),
        recipe,
        seed=2,
        checkpoint=tmp_path / "last.ckpt",
        accelerator="cpu",
        on_epoch=on_epoch,
        **options,
    )


def _same(one, other, **tolerance):
    assert [row["epoch"] for row in one.history] == [row["epoch"] for row in other.history]
    for key in ("train_loss", "validation_balanced_accuracy", "lr"):
        found, expected = ([row[key] for row in fitted.history] for fitted in (one, other))
        assert found == pytest.approx(expected, rel=tolerance.get("rtol", 0), abs=0), key
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(other.network.state_dict()[name], tensor, **tolerance, msg=name)


EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # float32 sums in another order, over 12 steps


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.setattr("steelyard.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def test_same_seed_is_the_same_to_the_last_bit(tmp_path):
    first, second = (_fit(tmp_path, "lgl-inr", noise=True) for _ in range(2))
    _same(first, second, **EXACT)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resumed_training_draws_the_same_and_ends_the_same(tmp_path, checkpoints, precision):
    loss = create_loss("softmax", class_weights=WEIGHTS)
    whole = _fit(tmp_path, loss, noise=True, precision=precision)
    with pytest.raises(KeyError):
        _fit(tmp_path, _Dies(6, KeyError()), noise=True, precision=precision)
    rows = []
    resumed = _fit(tmp_path, loss, noise=True, precision=precision, rows=rows)
    assert [row["epoch"] for row in rows] == [2, 3]
    _same(whole, resumed, **EXACT)


def test_bf16_mixed_trains_with_a_loss_in_float32(tmp_path):
    seen = set()

    class Spy(nn.Module):
        def forward(self, logits, target):
            seen.add((logits.dtype, torch.is_autocast_enabled("cpu")))
            return create_loss("softmax")(logits, target)

    full = _fit(tmp_path, "softmax")
    mixed = _fit(tmp_path, Spy(), precision="bf16-mixed")
    assert seen == {(torch.float32, False)}
    assert {p.dtype for p in mixed.network.parameters()} == {torch.float32}
    losses = [[row["train_loss"] for row in fitted.history] for fitted in (full, mixed)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax", {"class_weights": WEIGHTS}),  # its mean divides by the weights in the batch
        ("logistic", {"reduction": "sum"}),
        ("lgl-inr", {"beta": 3.0}),
        ("lgl-inr", {"statistics": "running", "num_classes": 4}),
    ],
)
def test_two_processes_train_as_one(request, tmp_path, name, options):
    """25 samples of a batch are 12 and 13."""
    if name != "softmax":  # as a user's are started
        request.getfixturevalue("forked")
    rows, recipe = [], RECIPE if "reduction" not in options else replace(RECIPE, learning_rate=0.003)
    losses = [create_loss(name, **options) for _ in range(2)]
    one = _fit(tmp_path, losses[0], recipe=recipe)
    two = _fit(tmp_path, losses[1], recipe=recipe, devices=2, rows=rows)
    assert rows == two.history
    assert not two.network.training
    assert not (tmp_path / "last.ckpt").exists()
    _same(one, two, **CLOSE)
    for key, tensor in losses[0].state_dict().items():
        torch.testing.assert_close(losses[1].state_dict()[key], tensor, **CLOSE)


@pytest.mark.slow
def test_processes_resume_and_so_does_another_number_of_them(tmp_path, checkpoints, forked):
    def make():
        return {
            "loss": create_loss("softmax", class_weights=WEIGHTS),
            "schedule": ("class_weights", DeferredReweighting(WEIGHTS, start_epoch=2)),
        }

    def unweighted(step, error):
        dies = _Dies(step, error)
        dies.loss = create_loss("softmax")
        return {"loss": dies, "schedule": ("unused", DeferredReweighting(WEIGHTS, start_epoch=2))}

    whole = _fit(tmp_path, **make(), devices=2)
    with pytest.raises(Exception, match="power is gone"):
        _fit(tmp_path, **unweighted(6, RuntimeError("power is gone")), devices=2)
    checkpoint = (tmp_path / "last.ckpt").read_bytes()
    _same(whole, _fit(tmp_path, **make(), devices=2), **EXACT)
    (tmp_path / "last.ckpt").write_bytes(checkpoint)
    _same(whole, _fit(tmp_path, **make()), **CLOSE)


@pytest.mark.slow
def test_what_a_process_refuses_is_raised_here(tmp_path, checkpoints, forked):
    recipe = replace(RECIPE, learning_rate=1e9)
    with pytest.raises(Diverged, match=r"the loss became .* at step \d+ of 12"):
        _fit(tmp_path, "softmax", recipe=recipe, devices=2)
    (tmp_path / "last.ckpt").write_bytes(b"what")
    with pytest.raises(ValueError, match=r"checkpoint .*last.ckpt cannot be read"):
        _fit(tmp_path, "softmax", devices=2)
    data = _data(40)
    with pytest.raises(
        ValueError, match="devices must be 1 on CPUs for a network with batch normalisation, got 2"
    ):
        fit(
            ResNet32(data[0], 4),
            create_loss("softmax"),
            data,
            data,
            RECIPE,
            seed=0,
            checkpoint=tmp_path / "b.ckpt",
            accelerator="cpu",
            devices=2,
        )


def test_what_is_not_to_be_had_is_refused(tmp_path):
    for devices in (0, 26, True, "2"):
        with pytest.raises(
            ValueError, match="devices must be an integer from 1 to the 25 samples of a batch, got"
        ):
            _fit(tmp_path, "softmax", devices=devices)
    with pytest.raises(
        ValueError, match="precision must be one of '32-true', '16-mixed', 'bf16-mixed', got 'half'"
    ):
        _fit(tmp_path, "softmax", precision="half")
    with pytest.raises(ValueError, match="precision must be 32-true or bf16-mixed on a CPU, got '16-mixed'"):
        _fit(tmp_path, "softmax", precision="16-mixed")


def _report(rank, report):
    report(rank)


def _fail(rank, report):
    if rank == 1:
        raise TypeError("odd")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)  # waits for the other


@pytest.mark.slow
def test_processes_report_and_a_failed_one_ends_all(forked):
    found = []
    in_processes(_report, 2, found.append)
    assert sorted(found) == [0, 1]
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="TypeError: odd"):
        in_processes(_fail, 2, found.append)


SLEEPERS = """
import signal, time
from steelyard.training.processes import in_processes

def work(rank, report):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report(rank)
    time.sleep(120)

if __name__ == "__main__":
    in_processes(work, 2, lambda rank: print(rank, flush=True))
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_however_it_ends(tmp_path):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    command = [sys.executable, str(tmp_path / "sleepers.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert {process.stdout.readline().strip() for _ in range(2)} == {"0", "1"}
        process.kill()
    assert gone(process.pid)
