"""How a network is trained, as plain settings."""

from dataclasses import dataclass
from typing import Literal

from steelyard.training.augmentation import Augmentation

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum, linear warm-up over a tenth of the steps, then half a cosine.

    Weight decay leaves biases alone: on a bias it would enter the balance law. `augmentation` changes the training
    images of every step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation = "none"


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""
