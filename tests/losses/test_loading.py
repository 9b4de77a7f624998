"""A model that owns a loss, loaded, moved and converted in every way: the weights that were given, or one sentence."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from steelyard import LGLINRLoss, SoftmaxLoss, create_loss, list_losses
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.presets import made_of_counts
from tests.helpers import CASES, batch, weights_of

every_loss = pytest.mark.parametrize("name", list(CASES))
WEIGHTS = [1.2345678, 70_000.0, 0.1, 2.0, 1e-6]  # inf in float16, rounded in bfloat16, nothing in float16


def _made(name):
    options = dict.fromkeys(weights_of(name, 5), WEIGHTS)
    return CASES[name].module(**options), options


def _check(module, options):
    logits, target = batch(dtype=torch.float32)
    for key in options:
        assert getattr(module, key).dtype == torch.float32
        torch.testing.assert_close(getattr(module, key).cpu(), torch.tensor(WEIGHTS), rtol=0, atol=0)
    chosen = {key: value for key, value in module.chosen().items() if key != "mean_confusion"}
    fresh = type(module)(**chosen)
    assert torch.equal(module(logits, target), fresh(logits, target))


CHANGES = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "double": lambda m: m.double().float(),
    "type": lambda m: m.type(torch.float16),
    "to_empty": lambda m: m.to_empty(device="cpu"),
    "meta and back": lambda m: m.to("meta").to_empty(device="cpu"),
    "deepcopy": copy.deepcopy,
    "deepcopy under meta": lambda m: _under_meta(lambda: copy.deepcopy(m)),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "file": lambda m: _through_file(m),
    "shared memory": lambda m: m.share_memory(),
}


def _under_meta(make):
    with torch.device("meta"):
        return make()


def _through_file(module, **options):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False, **options)


@every_loss
@pytest.mark.parametrize("change", list(CHANGES))
def test_weights_survive_what_is_done_to_a_model(name, change):
    module, options = _made(name)
    owner = nn.ModuleDict({"loss": module, "layer": nn.Linear(2, 2)})
    _check(CHANGES[change](owner)["loss"], options)


@every_loss
def test_weights_survive_a_file_that_is_mapped(name, tmp_path):
    module, options = _made(name)
    torch.save(module, tmp_path / "loss.pt")
    _check(torch.load(tmp_path / "loss.pt", weights_only=False, mmap=True), options)
    assert CASES[name].module().state_dict().keys() == module.state_dict().keys() == set()


@every_loss
def test_weights_made_under_the_meta_device_are_those_that_were_given(name):
    options = dict.fromkeys(weights_of(name, 5), WEIGHTS)
    module = _under_meta(lambda: CASES[name].module(**options))
    _check(module.to_empty(device="cpu"), options)
    for key in options:
        with pytest.raises(
            ValueError, match=f"{key} must hold values, got a tensor on the meta device: give a list"
        ):
            _under_meta(lambda key=key: CASES[name].module(**{key: torch.tensor(WEIGHTS)}))
        late = CASES[name].module()
        setattr(late, key, WEIGHTS)
        assert torch.equal(getattr(late, key), torch.tensor(WEIGHTS))


def test_weights_that_were_loaded_without_values_are_told():
    module = _through_file(SoftmaxLoss(class_weights=WEIGHTS), map_location="meta")
    with pytest.raises(
        ValueError, match="class_weights of softmax was loaded onto the meta device, without its values: assign"
    ):
        module(*batch(dtype=torch.float32))
    module.class_weights = WEIGHTS
    _check(module, ["class_weights"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_default_dtype_does_not_round_weights(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = SoftmaxLoss(class_weights=WEIGHTS)
        running = LGLINRLoss(statistics="running", num_classes=3)
    finally:
        torch.set_default_dtype(before)
    _check(module, ["class_weights"])
    assert running.running_mean_confusion.dtype == torch.float32


@pytest.mark.parametrize("name", list_losses())
def test_losses_and_presets_made_from_counts_under_the_meta_device(name):
    def make():
        return create_loss(name, class_counts=[90, 9, 3] if made_of_counts(name) else None)

    logits, target = batch(9, 3)
    loss = _under_meta(make)
    if list(loss.buffers()):
        loss.to_empty(device="cpu")
    assert torch.equal(loss(logits, target), make()(logits, target))


def test_weights_may_be_edited_in_place_and_follow_the_logits():
    module = SoftmaxLoss(class_weights=[1.0, 2.0, 3.0])
    logits, target = batch(9, 3, dtype=torch.float32)
    module.class_weights.mul_(torch.tensor([3.0, 1.0, 1.0]))
    assert torch.equal(module(logits, target), SoftmaxLoss(class_weights=[3.0, 2.0, 3.0])(logits, target))
    assert module(logits.to("meta"), target.to("meta")).is_meta
    assert module.class_weights.tolist() == [3, 2, 3]
    assert module.eval().cpu().class_weights.tolist() == [3, 2, 3]


def test_compiled_and_exported_modules_have_their_weights():
    module = SoftmaxLoss(class_weights=WEIGHTS)
    logits, target = batch(dtype=torch.float32)
    exported = torch.export.export(module, (logits, target)).module()
    torch.testing.assert_close(exported(logits, target), module(logits, target))


@pytest.mark.parametrize("make", [LGLINRLinear, LogisticLinear])
def test_a_linear_head_keeps_the_weights_of_its_loss(make):
    head = make(4, 5, pos_weight=WEIGHTS, output_weights=WEIGHTS).to(torch.bfloat16)
    assert head.weight.dtype == torch.bfloat16
    for key in ("pos_weight", "output_weights"):
        assert torch.equal(getattr(head.loss, key), torch.tensor(WEIGHTS))
    assert head(torch.zeros(3, 4), torch.tensor([0, 1, 2])).isfinite()


@pytest.mark.parametrize("make", [LGLINRLinear, LogisticLinear])
@pytest.mark.parametrize("change", list(CHANGES))
def test_weights_of_a_heads_loss_survive_what_is_done_to_it(make, change):
    head = make(4, 5, pos_weight=WEIGHTS, output_weights=WEIGHTS)
    changed = CHANGES[change](nn.ModuleDict({"head": head}))["head"]
    for key in ("pos_weight", "output_weights"):
        assert torch.equal(getattr(changed.loss, key), torch.tensor(WEIGHTS))


@pytest.mark.parametrize("make", [LGLINRLinear, LogisticLinear])
def test_a_head_made_under_the_meta_device_is_filled_by_its_checkpoint(make, tmp_path):
    head = make(4, 5, output_weights=WEIGHTS)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    state = torch.load(tmp_path / "head.pt", weights_only=True)
    x, target = torch.randn(6, 4), torch.arange(6) % 5
    for assign in (True, False):
        made = _under_meta(lambda: make(4, 5, output_weights=WEIGHTS))
        made = made if assign else made.to_empty(device="cpu")
        made.load_state_dict(state, assign=assign)
        assert torch.equal(made(x, target), head(x, target))


def test_running_statistics_keep_values_and_precision():
    logits, target = batch(12, 3, dtype=torch.float32)
    loss = LGLINRLoss(statistics="running", num_classes=3)
    loss(logits, target)
    before = loss.running_mean_confusion.clone()
    for change in ("half", "bfloat16", "to_empty", "deepcopy", "pickle"):
        changed = CHANGES[change](copy.deepcopy(loss))
        assert torch.equal(changed.running_mean_confusion, before), change
        assert torch.equal(changed.num_batches_tracked, loss.num_batches_tracked)
    fresh = LGLINRLoss(statistics="running", num_classes=3)
    made = _under_meta(lambda: LGLINRLoss(statistics="running", num_classes=3)).to_empty(device="cpu")
    assert torch.equal(made(logits, target), fresh(logits, target))
