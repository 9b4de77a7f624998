"""You see a Hugging Face Trainer whose class weights mean the same with gradient accumulation as without it.

`loss_func` makes the weights from the labels of the training set. After the training, the audit of the model's
predictions says that the weights acted as stated.

python examples/huggingface_trainer.py
"""

import tempfile

import numpy as np
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from steelyard.integrations.huggingface import audit_predictions, loss_func

CLASSES = ["common", "rare", "rarest"]
COUNTS = [900, 90, 30]


def make_data(seed: int) -> Dataset:
    """Return token ids: those of a class are a third of its words, and the rest is noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), COUNTS)
    own = rng.random((len(labels), 12)) < 0.33
    words = 1 + 4 * labels[:, None] + rng.integers(4, size=own.shape)
    words = np.where(own, words, rng.integers(1, 30, own.shape))
    return Dataset.from_dict({"input_ids": words.tolist(), "labels": labels.tolist()})


def make_model() -> BertForSequenceClassification:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **sizes, **dropout))


def main() -> None:
    loss = loss_func("softmax", class_weights="auto")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=12,
            learning_rate=3e-3,
            per_device_train_batch_size=32,
            gradient_accumulation_steps=4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=0,
        )
        trainer = Trainer(
            model_init=make_model, args=arguments, train_dataset=make_data(0), compute_loss_func=loss
        )
        trainer.train()
        print("class weights:", [round(w, 2) for w in loss.loss.class_weights.tolist()])
        print(audit_predictions(trainer.predict(trainer.train_dataset), loss, class_names=CLASSES))


if __name__ == "__main__":
    main()
