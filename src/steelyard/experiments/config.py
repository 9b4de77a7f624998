"""What a comparison is made of, checked at once: from the command line, or from a YAML file."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from steelyard.data import parse_imbalance
from steelyard.notation import check_starts, parse_losses
from steelyard.training import Augmentation, Precision, check_backbone

DEFAULT_LEARNING_RATES = [0.03, 0.1, 0.3]
LARGEST = 1e9  # of a rate or a decay: nobody means more, and float32 holds its products
Backbone = Annotated[str, AfterValidator(check_backbone)]
Rate = Annotated[float, Field(gt=0, le=LARGEST)]
Decay = Annotated[float, Field(ge=0, le=LARGEST)]


class CompareConfig(BaseModel):
    """One comparison of losses.

    Attributes:
        dataset: a built-in name, a folder, or a hub name.
        imbalance: ``none``, ``exponential:RATIO`` or ``step:RATIO[:FRACTION]``, applied to the training split.
        losses: as :func:`parse_loss` takes them.
        seeds: how many; seed s draws its own subset, initialisation and sample order, the same for every loss.
        epochs: every run is judged after the last.
        batch_size: samples a step.
        learning_rates: one fixes the rate; several, the same for every loss, are tried on a balanced split,
            further ones by the same factor where the best lies at an edge, and the best by balanced accuracy is
            kept.
        momentum, weight_decay: of SGD; biases do not decay.
        validation_fraction: share of the original training split, set aside before imbalance is applied.
        initial_bias: of the head: ``zero``, or ``prior`` for the log (odds) of the training counts.
        backbone: ``small-cnn``; ``resnet32``, for images of 32 x 32; ``mlp``, one hidden layer; or a model of
            another library, as :func:`create_backbone` takes it.
        augmentation: of the training images: ``none``, ``crop`` (by up to 4 pixels) or ``crop-flip``.
        precision: of training: ``32-true``, ``16-mixed`` (not on CPUs) or ``bf16-mixed``; predictions are float32.
        image_mode, image_size: convert images, where the data set mixes modes or sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: str = "digits"
    imbalance: str = "none"
    losses: list[str] = Field(min_length=1)
    seeds: int = Field(default=3, ge=1, le=1000)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rates: list[Rate] = Field(default=DEFAULT_LEARNING_RATES, min_length=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: Decay = 5e-4
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    initial_bias: Literal["zero", "prior"] = "zero"
    backbone: Backbone = "small-cnn"
    augmentation: Augmentation = "none"
    precision: Precision = "32-true"
    image_mode: Literal["L", "RGB"] | None = None
    image_size: int | None = Field(default=None, ge=8)

    @field_validator("losses")
    @classmethod
    def _losses(cls, value: list[str]) -> list[str]:
        parse_losses(",".join(value))
        return value

    @model_validator(mode="after")
    def _starts(self) -> "CompareConfig":
        check_starts(parse_losses(",".join(self.losses)), self.epochs)
        return self

    @field_validator("imbalance")
    @classmethod
    def _imbalance(cls, value: str) -> str:
        parse_imbalance(value)
        return value

    @field_validator("learning_rates")
    @classmethod
    def _rates(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError(f"must be rising, got {value}")
        return value


def make_config(**values: Any) -> CompareConfig:
    """Return a checked configuration; a bad value raises ValueError with one sentence."""
    try:
        return CompareConfig(**values)
    except ValidationError as error:
        raise ValueError(one_sentence(error, CompareConfig)) from None


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Return what is wrong first with the values of a configuration."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, model.model_fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(model.model_fields)}"
        return f"unknown key {key!r} in the configuration{hint}"
    if first["type"] == "missing":
        return f"{key} is missing from the configuration"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message if message.startswith((key, "loss", "unknown")) else f"{key} {message}"
    return f"{key}: {message[:1].lower()}{message[1:]}, got {first['input']!r}"


def read_config(path: Path) -> CompareConfig:
    """Read a YAML file of plain scalars, lists and maps: no tags, no anchors, no key twice.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not such a file, or its values are bad.
    """
    if not path.is_file():
        raise FileNotFoundError(f"configuration {path} is not a file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration {path} is not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"configuration {path} must hold keys and values, got {type(values).__name__}")
    try:
        return make_config(**{str(key): value for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"configuration {path}: {error}") from None


def dump_config(config: CompareConfig) -> str:
    """Return the configuration as YAML that `read_config` reads back."""
    text: str = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    return text


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} stands twice")
        return super().construct_mapping(node, deep)
