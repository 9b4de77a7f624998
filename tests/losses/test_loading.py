"""A model that owns a loss, loaded, moved and converted in every way: the weights that were given, or one sentence."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from steelyard import LGLINRLoss, SoftmaxLoss, class_weights, create_loss, list_losses, logit_adjustment
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.presets import PRESETS
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
        made = name in PRESETS and PRESETS[name].of_counts is not None
        return create_loss(name, class_counts=[90, 9, 3] if made else None)

    logits, target = batch(9, 3)
    assert torch.equal(_under_meta(make)(logits, target), make()(logits, target))


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
    assert torch.equal(exported(logits, target), module(logits, target))


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


# Hugging Face --------------------------------------------------------------------------------------------


class Config(PretrainedConfig):
    model_type = "with-a-loss"

    def __init__(self, counts=(90, 9, 3), **rest):
        super().__init__(**rest)
        self.counts = list(counts)


class Classifier(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(4, 3)
        self.listed = SoftmaxLoss(class_weights=[0.2475, 70_000.0, 1.2345678])
        self.made = SoftmaxLoss(class_weights=class_weights(config.counts))
        self.preset = create_loss("balanced-softmax", class_counts=config.counts)
        self.outputs = create_loss("logistic", pos_weight=[1.0, 2.0, 70_000.0], output_weights=[3.0, 1.0, 0.1])
        self.post_init()

    def _init_weights(self, module):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore")
def test_from_pretrained_gives_the_weights_that_were_given(tmp_path, dtype):
    Classifier(Config()).save_pretrained(tmp_path)
    rubbish = [torch.full((3,), 2.47e11) for _ in range(64)]  # for whatever is not initialised to find
    del rubbish
    model = Classifier.from_pretrained(tmp_path, dtype=dtype)
    assert model.layer.weight.dtype == dtype
    assert torch.equal(model.listed.class_weights, torch.tensor([0.2475, 70_000.0, 1.2345678]))
    assert torch.equal(model.made.class_weights, class_weights([90, 9, 3]))
    assert torch.equal(model.preset.logit_adjustment, logit_adjustment([90, 9, 3]))
    assert model.outputs.pos_weight.tolist() == [1, 2, 70_000]
    assert torch.equal(model.outputs.output_weights, torch.tensor([3.0, 1.0, 0.1]))
    logits, target = batch(9, 3, dtype=dtype)
    expected = SoftmaxLoss(class_weights=[0.2475, 70_000.0, 1.2345678])(logits, target)
    assert torch.equal(model.listed(logits, target), expected)


class Grown(PreTrainedModel):
    """A classifier with a loss from outside, and parts that its checkpoint may lack."""

    config_class = Config

    def __init__(self, config, loss=None):
        super().__init__(config)
        self.layer = nn.Linear(4, 3)
        self.loss = loss
        self.running = LGLINRLoss(statistics="running", num_classes=3)
        self.head = LGLINRLinear(4, 3, output_weights=[1.0, 2.0, 3.0])
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LGLINRLoss | LGLINRLinear):
            module.reset_parameters()


def _rubbish():
    for size in (3, 9, 12):  # for whatever is not initialised to find
        rubbish = [torch.full((size,), 2.47e11) for _ in range(64)]
        del rubbish


@pytest.mark.filterwarnings("ignore")
def test_from_pretrained_with_a_loss_from_outside_and_parts_that_the_checkpoint_lacks(tmp_path):
    Classifier(Config()).save_pretrained(tmp_path)
    _rubbish()
    given = SoftmaxLoss(class_weights=torch.tensor([1.0, 2.0, 70_000.0]))
    model = Grown.from_pretrained(tmp_path, given, dtype=torch.bfloat16)
    assert model.loss.class_weights.tolist() == [1, 2, 70_000]
    assert model.head.loss.output_weights.tolist() == [1, 2, 3]
    assert model.head.weight.abs().max() <= 0.5
    assert torch.equal(model.head.bias, torch.zeros_like(model.head.bias))
    for sums in (model.running.running_mean_confusion, model.running.num_batches_tracked):
        assert torch.equal(sums, torch.zeros_like(sums))
    model.running(*batch(9, 3, dtype=torch.float32))
    model.save_pretrained(tmp_path)
    _rubbish()
    again = Grown.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
        assert again.state_dict()[key].dtype == value.dtype
    assert again.running.running_mean_confusion.dtype == torch.float32


class Tensors(Classifier):
    def __init__(self, config):
        super().__init__(config)
        self.tensors = SoftmaxLoss(class_weights=torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.filterwarnings("ignore")
def test_from_pretrained_says_that_a_tensor_made_inside_has_no_values(tmp_path):
    Classifier(Config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="class_weights must hold values, got a tensor on the meta device"):
        Tensors.from_pretrained(tmp_path)
