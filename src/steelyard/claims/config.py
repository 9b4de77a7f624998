"""What a claim's experiment is made of."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steelyard.experiments.config import DEFAULT_PENALTIES, Backbone, Column, Decay, Named, Rate
from steelyard.training import Augmentation, Precision


class ClaimConfig(BaseModel):
    """What a claim's experiment is made of; a claim uses those it needs.

    Attributes:
        dataset, target, features, group, time: as :class:`CompareConfig`'s.
        imbalances: profiles, each an experiment of its own (c4).
        imbalance: profile (c2, c3, leaderboard, where ``none`` keeps all samples of each class).
        weights, ratios: of the positives, and negatives over positives (c1).
        factor: by which a weight is raised (c2).
        losses: as :func:`parse_loss` takes them (c3, c4).
        reference: the loss that others are compared with, seed by seed (c4, leaderboard).
        candidate: the loss that is judged by it (leaderboard).
        tasks: data sets, each an experiment of its own (leaderboard).
        initial_bias: of the head: ``zero``, or ``prior`` for the constant solution of each loss.
        seeds, epochs, batch_size: of every training.
        learning_rate: of every training (c1 to c3).
        learning_rates: tried on a validation split, the same for every loss (c4).
        weight_decays: tried (c1, leaderboard); the first one (others).
        learner, rounds, penalties: as :class:`CompareConfig`'s (c4, leaderboard); the others train networks.
        backbone, augmentation: as :class:`CompareConfig`'s.
        limit_train: at most so many training samples, before imbalance.
        precision, image_mode, image_size: as :class:`CompareConfig`'s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dataset: str = "digits"
    target: Column = None
    features: Column = None
    group: Column = None
    time: Column = None
    imbalances: list[str] = Field(default=["none"], min_length=1)
    imbalance: str = "none"
    weights: list[float] = Field(default=[1.0], min_length=1)
    ratios: list[float] = Field(default=[1.0], min_length=1)
    factor: float = Field(default=4.0, gt=1)
    losses: list[str] = Field(default=["softmax"], min_length=1)
    reference: str = "softmax"
    candidate: str = "lgl-inr"
    tasks: list[str] = Field(default=["digits"], min_length=1)
    initial_bias: Literal["zero", "prior"] = "zero"
    seeds: int = Field(default=3, ge=1, le=1000)
    epochs: int = Field(default=30, ge=1, le=10**6)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: Rate = 0.03
    learning_rates: list[Rate] = Field(default=[0.01, 0.03, 0.1], min_length=1)
    weight_decays: list[Decay] = Field(default=[5e-4], min_length=1)
    learner: Named = "network"
    rounds: int = Field(default=100, ge=1, le=10**5)
    penalties: list[Rate] = Field(default=DEFAULT_PENALTIES, min_length=1)
    backbone: Backbone = "small-cnn"
    augmentation: Augmentation = "none"
    limit_train: int | None = Field(default=None, ge=20)
    precision: Precision = "32-true"
    image_mode: Literal["L", "RGB"] | None = None
    image_size: int | None = Field(default=None, ge=8)
