"""Losses of a model of transformers that `from_pretrained` loads: the weights that were given, or one sentence."""

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from steelyard import LGLINRLoss, SoftmaxLoss, class_weights, create_loss, logit_adjustment
from steelyard.losses.heads import LGLINRLinear
from tests.helpers import batch


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
