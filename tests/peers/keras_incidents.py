"""Trainings with keras, each with class weights gone wrong in its own way; run as a program, in a process of its own.

python tests/peers/keras_incidents.py OUT.npz
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

COUNTS = np.array([900, 300, 100, 40])
INVERSE = COUNTS.max() / COUNTS
WEIGHTS = {k: float(w) for k, w in enumerate(INVERSE)}


def rows():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(COUNTS)), COUNTS)
    x = rng.normal(size=(len(y), 8))
    x[:, : len(COUNTS)] += 1.3 * np.eye(len(COUNTS))[y]
    return x.astype(np.float32), y


def weighted_loss(target, logits):
    """Return the cross-entropy with the weights in it."""
    labels = keras.ops.cast(keras.ops.reshape(target, (-1,)), "int32")
    weights = keras.ops.take(keras.ops.convert_to_tensor(INVERSE.astype(np.float32)), labels)
    return weights * keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)


class Drawn(keras.utils.PyDataset):
    """Batches of rows that are drawn by the weights."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.rng = x, y, np.random.default_rng(1)

    def __len__(self):
        return len(self.y) // 32

    def __getitem__(self, batch):
        chances = INVERSE[self.y] / INVERSE[self.y].sum()
        chosen = self.rng.choice(len(self.y), 32, p=chances)
        return self.x[chosen], self.y[chosen]


def trained(x, y, loss=None, rows=None, **given):
    """Return the logits of the training rows."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(len(COUNTS))]
    model = keras.Sequential(layers)
    model.compile("adam", loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.003
    batches = (x, y) if rows is None else (rows,)
    model.fit(*batches, epochs=30, batch_size=64, verbose=0, **given)
    return model.predict(x, verbose=0)


def main(path):
    x, y = rows()
    named = {str(k): w for k, w in WEIGHTS.items()}
    from_one = {k + 1: w for k, w in WEIGHTS.items()}
    np.savez(
        path,
        target=y,
        weights=INVERSE,
        right=trained(x, y, class_weight=WEIGHTS),
        named=trained(x, y, class_weight=named),
        from_one=trained(x, y, class_weight=from_one),
        in_loss_too=trained(x, y, loss=weighted_loss, class_weight=WEIGHTS),
        in_sampler_too=trained(x, y, rows=Drawn(x, y), class_weight=WEIGHTS),
    )


if __name__ == "__main__":
    main(sys.argv[1])
