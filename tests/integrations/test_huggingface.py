"""transformers' Trainer with our losses: the gradient of the whole batch in one process, and an audit in one call."""

import os

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import PredictionOutput

import steelyard
from steelyard.integrations.huggingface import audit_predictions, loss_func
from tests.helpers import side_by_side

ROWS, LENGTH, CLASSES = 16, 5, 3


def _model(tokens):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(
        **sizes, vocab_size=20, max_position_embeddings=8, num_labels=CLASSES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return (BertForTokenClassification if tokens else BertForSequenceClassification)(config).double()


def _data(tokens):
    """Labels are imbalanced; most tokens of the first rows are ignored, so that micro-batches differ."""
    generator = np.random.default_rng(0)
    ids = generator.integers(20, size=(ROWS, LENGTH))
    labels = np.minimum(generator.integers(5, size=(ROWS, LENGTH) if tokens else ROWS) // 2, CLASSES - 1)
    labels.reshape(-1)[:CLASSES] = np.arange(CLASSES)
    if tokens:
        labels[1:9, 1:] = -100
        labels[12] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


class _Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        self.found = [p.grad.clone() for p in model.parameters() if p.grad is not None]


def _trainer(folder, tokens, func, *, steps=1, **more):
    options = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": steps, "num_train_epochs": 1,
        "max_grad_norm": 0.0, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "logging_strategy": "no", "ddp_find_unused_parameters": False,
    } | more  # fmt: skip
    arguments = TrainingArguments(str(folder), **options)
    return Trainer(_model(tokens), arguments, train_dataset=_data(tokens), compute_loss_func=func)


def _trained(folder, tokens, func, **options):
    """Return the gradients of the only step."""
    gradients = _Gradients()
    trainer = _trainer(folder, tokens, func, **options)
    trainer.add_callback(gradients)
    trainer.train()
    assert trainer.state.global_step == 1
    return gradients.found


def _whole(tokens, loss):
    model, data = _model(tokens), _data(tokens)
    loss.class_dim = -1
    loss(model(input_ids=torch.tensor(data["input_ids"])).logits, torch.tensor(data["labels"])).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def _expected(name, tokens, **options):
    counts = steelyard.class_counts(np.asarray(_data(tokens)["labels"]), CLASSES)
    scheme = options.pop("class_weights", None)
    weights = None if scheme is None else steelyard.class_weights(counts, scheme)
    if name != "lgl-inr":
        options |= {"class_weights": weights}
        options = {"normalization": "count"} | options
    return _whole(tokens, steelyard.create_loss(name, **options))


def _equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
def test_accumulated_gradient_is_that_of_the_whole_batch(tmp_path, tokens):
    found = _trained(tmp_path, tokens, loss_func("softmax", class_weights="auto"), steps=ROWS // 2)
    _equal(found, _expected("softmax", tokens, class_weights="balanced"))


def test_a_sum_over_micro_batches_is_not_divided(tmp_path):
    found = _trained(tmp_path, True, loss_func("focal", normalization="none"), steps=ROWS // 2)
    _equal(found, _expected("focal", True, normalization="none"))


def test_lgl_inr_trains_on_a_whole_batch_and_refuses_micro_batches(tmp_path):
    func = loss_func("lgl-inr", beta=3.0)
    found = _trained(tmp_path, True, func, per_device_train_batch_size=ROWS)
    _equal(found, _expected("lgl-inr", True, beta=3.0))
    with pytest.raises(ValueError, match="gradient_accumulation_steps must be 1 for lgl-inr"):
        _trained(tmp_path, True, func, steps=2)


CASES = {
    "sequences": (False, ("softmax", {"class_weights": "auto"}), {}),
    "accumulated tokens": (True, ("softmax", {"class_weights": "auto"}), {"steps": 4}),
    "lgl-inr": (True, ("lgl-inr", {"beta": 3.0}), {"per_device_train_batch_size": ROWS // 2}),
}
FEW = {"sequences": {"per_device_train_batch_size": ROWS // 2}}


def _worker(rank, folder, port):
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process which was forked
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found = {}
    for case, (tokens, (name, options), how) in CASES.items():
        found[case] = _trained(folder, tokens, loss_func(name, **options), **how, **FEW.get(case, {}))
    func = loss_func("softmax")
    try:
        _trained(folder, False, func, steps=4, average_tokens_across_devices=False)
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path, free_port):
    side_by_side(_worker, (str(tmp_path), free_port), processes=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for case, (tokens, (name, options), _) in CASES.items():
            auto = {"class_weights": "balanced"} if "class_weights" in options else {}
            _equal(found[case], _expected(name, tokens, **options | auto))
        assert found["refused"].startswith("average_tokens_across_devices must be True on several processes")


def test_evaluation_reports_the_mean_of_the_loss(tmp_path):
    trainer = _trainer(tmp_path, True, loss_func("softmax", class_weights=[1.0, 2.0, 4.0]))
    trainer.args.per_device_eval_batch_size = ROWS
    model, data = trainer.model, _data(True)
    loss = steelyard.create_loss("softmax", class_weights=[1.0, 2.0, 4.0], normalization="count", class_dim=-1)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(data["input_ids"])).logits
    expected = float(loss(logits, torch.tensor(data["labels"])))
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_labels_of_several_outputs_count_by_sample(tmp_path):
    """The Trainer counts each of them."""
    generator = np.random.default_rng(0)
    dense = generator.integers(2, size=(ROWS, CLASSES)).astype(float)
    func = loss_func("logistic")
    trainer = _trainer(tmp_path, False, func, steps=ROWS // 2)
    trainer.train_dataset = _data(False).remove_columns("labels").add_column("labels", dense.tolist())
    trainer.add_callback(gradients := _Gradients())
    trainer.train()
    model = _model(False)
    logits = model(input_ids=torch.tensor(_data(False)["input_ids"])).logits
    steelyard.create_loss("logistic")(logits, torch.from_numpy(dense)).backward()
    _equal(gradients.found, [p.grad for p in model.parameters() if p.grad is not None])


def test_one_output_without_a_dimension_of_its_own_counts_by_sample(tmp_path):
    """Its logits (N,) have the shape of the labels, which the Trainer counts once each."""

    class Squeezed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = _model(False)

        def forward(self, input_ids, labels=None):
            return {"logits": self.inner(input_ids=input_ids).logits[:, 0]}

    data = _data(False)
    labels = (np.asarray(data["labels"]) > 0).astype(int)
    args = _trainer(tmp_path, False, loss_func("logistic"), steps=ROWS // 2).args
    trainer = Trainer(
        Squeezed(),
        args,
        train_dataset=data.remove_columns("labels").add_column("labels", labels.tolist()),
        compute_loss_func=loss_func("logistic"),
        callbacks=[gradients := _Gradients()],
    )
    trainer.train()
    model = Squeezed()
    logits = model(torch.tensor(data["input_ids"]))["logits"]
    steelyard.create_loss("logistic")(logits, torch.from_numpy(labels)).backward()
    _equal(gradients.found, [p.grad for p in model.parameters() if p.grad is not None])


def test_weights_are_made_of_each_trainers_own_data(tmp_path):
    func = loss_func("softmax", class_weights="inverse")
    with pytest.raises(RuntimeError, match="no class weights yet"):
        _ = func.loss
    _trained(tmp_path, False, func, per_device_train_batch_size=ROWS)
    first = func.loss.class_weights
    _trained(tmp_path, True, func, per_device_train_batch_size=ROWS)
    assert not torch.allclose(first, func.loss.class_weights)
    counts = steelyard.class_counts(np.asarray(_data(True)["labels"]), CLASSES)
    torch.testing.assert_close(func.loss.class_weights, steelyard.class_weights(counts, "inverse"))


def test_unknown_labels_are_not_guessed(tmp_path):
    trainer = _trainer(tmp_path, False, loss_func("balanced-softmax"))
    trainer.train_dataset = list(_data(False))
    with pytest.raises(
        ValueError, match=r"class_counts must be given where train_dataset is no datasets\.Dataset"
    ):
        trainer.train()
    trainer.compute_loss_func = loss_func("balanced-softmax", class_counts=[10, 5, 1])
    trainer.train()


@pytest.mark.parametrize(
    ("where", "name", "value", "words"),
    [
        ("args", "label_smoothing_factor", 0.1, "label_smoothing_factor plays no part"),
        ("args", "_n_gpu", 2, "got torch.nn.DataParallel"),
        ("trainer", "loss_is_scaled_for_ga", False, "loss_is_scaled_for_ga must be None or True"),
        ("trainer", "_loss_shifts_labels", True, "model must not shift its labels"),
        ("trainer", "get_tp_size", lambda: 2, "Trainer must give each process whole logits"),
    ],
)
def test_settings_of_the_trainer_that_change_the_gradient_are_refused(tmp_path, where, name, value, words):
    trainer = _trainer(tmp_path, False, loss_func("softmax"))
    setattr(trainer if where == "trainer" else trainer.args, name, value)
    with pytest.raises(ValueError, match=words):
        trainer.train()


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        (
            "softmax",
            {"normalization": "weights"},
            ValueError,
            "normalization must be 'count' or 'none' in a Trainer",
        ),
        ("softmax", {"reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum'"),
        ("softmax", {"class_dim": -1}, TypeError, "loss_func takes no class_dim"),
        ("softmax", {"class_weights": "inverce"}, ValueError, "unknown weight scheme 'inverce'"),
        ("sofmax", {}, ValueError, "unknown loss 'sofmax'"),
        ("lgl-inr", {"statistics": "running", "num_classes": 3}, ValueError, "statistics must be 'batch'"),
        ("eqlv2", {}, ValueError, "eqlv2 must not add up over batches in a Trainer.*give gradient_ratio"),
        ("seesaw", {"num_classes": 2}, ValueError, "seesaw must not add up over batches.*give class_counts"),
        ("lgl-inr", {"class_weights": "auto"}, TypeError, "lgl-inr takes no class_weights"),
    ],
)
def test_what_cannot_be_exact_is_refused_at_once(name, options, error, words):
    with pytest.raises(error, match=words):
        loss_func(name, **options)


def test_a_loss_outside_a_trainer_is_refused():
    with pytest.raises(RuntimeError, match="loss_func must be called by a "):
        loss_func("softmax")({"logits": torch.zeros(2, 3)}, torch.tensor([0, 1]), num_items_in_batch=2)


def test_audit_of_predictions_leaves_padding_out(tmp_path):
    func = loss_func("softmax", class_weights="auto")
    trainer = _trainer(tmp_path, True, func, per_device_train_batch_size=ROWS)
    trainer.train()
    output = trainer.predict(_data(True))
    assert output.predictions.shape == (ROWS, LENGTH, CLASSES)
    report = audit_predictions(output, func, class_names=["a", "b", "c"])
    kept = output.label_ids.reshape(-1) != -100
    rows, labels = output.predictions.reshape(-1, CLASSES)[kept], output.label_ids.reshape(-1)[kept]
    expected = steelyard.audit(rows, labels, func.loss, class_names=["a", "b", "c"])
    assert str(report) == str(expected)
    with pytest.raises(TypeError, match="predictions must be one array, got 2 arrays: keep that of the logits"):
        audit_predictions(output._replace(predictions=(output.predictions, rows)), func)
    with pytest.raises(TypeError, match="label_ids must be one array, got NoneType"):
        audit_predictions(PredictionOutput(output.predictions, None, None), func)
