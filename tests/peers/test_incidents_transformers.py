"""What goes wrong with class weights in the Trainer of transformers, replayed: the audit names each."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, WeightedRandomSampler

from steelyard import TrainingSetup, audit

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")

CLASSES, WORDS, LENGTH = 4, 40, 6
COUNTS = torch.tensor([900, 300, 100, 40])
INVERSE = COUNTS.max() / COUNTS.double()


class Sentences(Dataset):
    """Rows of words; each class has words of its own, and half of all words belong to every class."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.repeat_interleave(torch.arange(CLASSES), COUNTS)
        own = torch.randint(WORDS // 8, (len(self.labels), LENGTH), generator=generator)
        own = own + self.labels[:, None] * (WORDS // 8)
        shared = torch.randint(WORDS, own.shape, generator=generator)
        mine = torch.rand(own.shape, generator=generator) < 0.3
        self.input_ids = torch.where(mine, own, shared)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"input_ids": self.input_ids[row], "labels": self.labels[row]}


class Weighted:
    """The override that the documentation of the Trainer shows for a loss with weights."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, labels, weight=INVERSE.float())
        return (loss, outputs) if return_outputs else loss


class Right(Weighted, transformers.Trainer):
    pass


class Behind(transformers.Trainer, Weighted):
    """The override stands behind the class that it should change, and is never called."""


class Sampled(Right):
    """Rows are drawn by the weights that the loss has too."""

    def _get_train_sampler(self, train_dataset=None):
        return WeightedRandomSampler(INVERSE[self.train_dataset.labels], len(self.train_dataset))


def _trained(folder, trainer, *, attribute=False, epochs=10, **config):
    """Return the logits of the training rows of a tiny BERT, and their labels."""
    transformers.set_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=LENGTH, num_labels=CLASSES, **config,
        )
    )  # fmt: skip
    if attribute:
        model.loss_fct = nn.CrossEntropyLoss(weight=INVERSE.float())
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=3e-3, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = Sentences()
    trainer(model, arguments, train_dataset=rows).train()
    with torch.no_grad():
        return model.eval()(input_ids=rows.input_ids).logits, rows.labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with a class of trainer, once each."""
    kept = {}

    def of(trainer):
        if trainer not in kept:
            kept[trainer] = _trained(tmp_path_factory.mktemp("trainer"), trainer)
        return kept[trainer]

    return of


def _names(logits, target, **stated):
    report = audit(logits, target, TrainingSetup("softmax", **stated))
    return [f.name for f in report.findings if f.severity != "note"]


@pytest.mark.slow
def test_an_override_that_is_called_acts_as_stated(trained):
    assert _names(*trained(Right), class_weights=INVERSE) == []


@pytest.mark.slow
def test_an_override_behind_the_trainer_is_never_called(trained):
    """`class Mine(Trainer, Weighted)`: Python finds the Trainer's own `compute_loss` first."""
    assert _names(*trained(Behind), class_weights=INVERSE) == ["weights_not_applied"]


@pytest.mark.slow
def test_sampler_and_loss_both_on(trained):
    assert _names(*trained(Sampled), class_weights=INVERSE) == ["weights_applied_twice"]


def test_an_override_that_weighs_whatever_the_option_says_is_found_unstated(trained):
    """The training says nothing of weights, and the shared trainer class has them."""
    logits, target = trained(Right)
    report = audit(logits, target, TrainingSetup("softmax"))
    assert [f.name for f in report.findings if f.severity != "note"] == ["weights_unstated"]
    implied = report.implied_weights.weights
    assert (implied / implied[0]).tolist() == pytest.approx(INVERSE.tolist(), rel=0.4)


def test_a_prior_correction_with_the_wrong_sign_doubles_the_weights(trained):
    """Log weights are added to the logits in place of being taken off."""
    logits, target = trained(Right)
    stated = {"class_weights": INVERSE, "logit_shift": -INVERSE.log()}
    assert _names(logits - INVERSE.log(), target, **stated) == []
    assert _names(logits + INVERSE.log(), target, **stated) == ["weights_unstated"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["attribute", "config"])
def test_weights_put_where_no_model_looks_for_them_never_act(tmp_path, place):
    """A model takes any attribute and a configuration any name; the loss in its forward reads neither."""
    given = {"attribute": {"attribute": True}, "config": {"class_weights": INVERSE.tolist()}}[place]
    trained = _trained(tmp_path, transformers.Trainer, **given)
    assert _names(*trained, class_weights=INVERSE) == ["weights_not_applied"]
