"""What a comparison is made of, checked at once: from the command line, or from a YAML file."""

import difflib
import reprlib
from collections import Counter
from os import PathLike
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

from steelyard._common.text import OTHER_NAMES, listed, plain_name
from steelyard.data import is_code, parse_imbalance
from steelyard.notation import check_comparable, parse_losses
from steelyard.training import Augmentation, Precision, check_backbone
from steelyard.training.learners import NAMES, check_learner, learner_settings

DEFAULT_LEARNING_RATES = [0.03, 0.1, 0.3]
DEFAULT_PENALTIES = [0.001, 0.01, 0.1]
_SHOWN = 3  # faults in a sentence
_MOST_BYTES = 1 << 16  # bytes of a file
_LONGEST = 1000  # characters of a key or value
_DEEPEST = 10  # levels
LARGEST = 1e9  # of a rate or a decay: nobody means more, and float32 holds its products


def _short(name: str) -> str:
    # Not pydantic's own limit, which takes no bytes of a file's name that are no UTF-8.
    if len(name) > _LONGEST:
        raise ValueError(f"must have at most {_LONGEST} characters, got {len(name)}")
    return name


Named = Annotated[str, AfterValidator(check_learner), AfterValidator(_short)]
Backbone = Annotated[str, AfterValidator(check_backbone)]
Column = Annotated[str, AfterValidator(_short)] | None
Rate = Annotated[float, Field(gt=0, le=LARGEST)]
Decay = Annotated[float, Field(ge=0, le=LARGEST)]


class CompareConfig(BaseModel):
    """One comparison of losses.

    Attributes:
        dataset: a built-in name, a file, a folder, a function (``module:function``), or a hub name.
        target, features, group, time: columns of the label, of the inputs, of groups that stay whole, and of times
            in the order of which rows are split, as :func:`load_dataset` takes them.
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
        learner: as :func:`find_learner` takes it; a setting that it does not have must be as it is by default.
        rounds: of boosting; every run is judged after the last.
        penalties: of a linear learner, tried as learning rates are.
        backbone: ``linear``, ``mlp`` (one hidden layer) or ``mlp-cosine``, for features and images; for images
            ``small-cnn``, ``resnet32`` (32 x 32) or a model of another library, as :func:`create_backbone` takes
            it.
        augmentation: of the training images: ``none``, ``crop`` (by up to 4 pixels) or ``crop-flip``.
        precision: of training: ``32-true``, ``16-mixed`` (not on CPUs) or ``bf16-mixed``; predictions are float32.
        image_mode, image_size: convert images, where the data set mixes modes or sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dataset: Annotated[str, AfterValidator(_short)] = "digits"
    target: Column = None
    features: Column = None
    group: Column = None
    time: Column = None
    imbalance: str = "none"
    losses: list[str] = Field(min_length=1, max_length=200)
    seeds: int = Field(default=3, ge=1, le=1000)
    epochs: int = Field(default=30, ge=1, le=10**6)
    batch_size: int = Field(default=64, ge=1)
    learning_rates: list[Rate] = Field(default=DEFAULT_LEARNING_RATES, min_length=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: Decay = 5e-4
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    initial_bias: Literal["zero", "prior"] = "zero"
    learner: Named = "network"
    rounds: int = Field(default=100, ge=1, le=10**5)
    penalties: list[Rate] = Field(default=DEFAULT_PENALTIES, min_length=1)
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
        check_comparable(parse_losses(",".join(self.losses)), self.epochs)
        return self

    @field_validator("imbalance")
    @classmethod
    def _imbalance(cls, value: str) -> str:
        parse_imbalance(value)
        return value

    @model_validator(mode="after")
    def _of_the_learner(self) -> "CompareConfig":
        refuse_strange_settings(self)
        return self

    @field_validator("learning_rates", "penalties")
    @classmethod
    def _rates(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError(f"must be rising, got {value}")
        return value


def refuse_strange_settings(config: Any) -> None:
    """Refuse a setting of another learner that is not as it is by default.

    Raises:
        ValueError: such a setting.
    """
    has = learner_settings(config.learner)
    for key in (key for name in NAMES for key in learner_settings(name)):
        if key not in has and key in type(config).model_fields:
            given, default = getattr(config, key), type(config).model_fields[key].default
            if given != default:
                raise ValueError(f"learner {config.learner} has no {key}, got {given}; it has {listed(list(has))}")


def candidates(config: Any) -> list[float]:
    """Return what is tried for each loss: learning rates, or the penalties of a linear learner."""
    found: list[float] = config.penalties if config.learner == "linear" else config.learning_rates
    return found


def make_config(**values: Any) -> CompareConfig:
    """Return a checked configuration; bad values raise ValueError with one sentence."""
    try:
        return CompareConfig(**values)
    except ValidationError as error:
        raise ValueError(one_sentence(error, CompareConfig)) from None


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Return what is wrong with the values of a configuration: what is missing stands last."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] == "missing")
    told = [_fault(fault, model) for fault in faults[:_SHOWN]]
    more = len(faults) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _fault(fault: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        told = [name.replace("-", "_") for name in OTHER_NAMES.get(plain_name(key), ())]
        near = [name for name in told if name in model.model_fields]
        near = near or difflib.get_close_matches(key, model.model_fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(model.model_fields)}"
        return f"unknown key {reprlib.repr(key)} in the configuration{hint}"
    if fault["type"] == "missing":
        return f"{key} is missing from the configuration"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message if message.startswith((key, "learner", "loss", "unknown")) else f"{key} {message}"
    return f"{key}: {message[:1].lower()}{message[1:]}, got {reprlib.repr(fault['input'])}"


def read_config(path: str | PathLike[str], *, to_compare: bool = False, **changes: Any) -> CompareConfig:
    """Return the configuration that a YAML file holds, with `changes` in place of its values.

    A file does not say which function of yours is run: ``dataset`` and ``learner`` as ``module:function``
    are refused but among the changes, or where the configuration is only `to_compare` with another.

    The file has plain scalars, lists and maps: no tags, no anchors, no key twice; at most 64 KiB, 10 levels, and
    1000 characters a value.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file, or its values are bad; the sentence names it.
    """
    values = _read(Path(path))
    for key in ("dataset", "learner"):
        if not to_compare and key not in changes and is_code(str(values.get(key))):
            raise ValueError(
                f"configuration {path} names a function that would be run, {values[key]}; to run it, say it "
                f"yourself: --{key} {values[key]}"
            )
    try:
        return make_config(**(values | changes))
    except ValueError as error:
        given = " with the options given" if changes else ""
        raise ValueError(f"configuration {path}{given}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"configuration {path} is not a file")
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"configuration {path} must hold at most {_MOST_BYTES} bytes, got {path.stat().st_size}")
    try:
        values = yaml.load(text.decode(), Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a number of too many digits
        raise ValueError(f"configuration {path} is not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"configuration {path} must hold keys and values, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def dump_config(config: CompareConfig) -> str:
    """Return the configuration as YAML that `read_config` reads back."""
    text: str = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    return text


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not accepted, got {event.tag!r}")
        if len(getattr(event, "value", "")) > _LONGEST:
            raise yaml.YAMLError(f"a value has at most {_LONGEST} characters, got {len(event.value)}")
        if self.depth == _DEEPEST:
            raise yaml.YAMLError(
                f"at most {_DEEPEST} levels are accepted, line {event.start_mark.line + 1} is deeper"
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if keys.total() > len(keys):
            raise yaml.YAMLError(f"key {keys.most_common(1)[0][0]!r} stands twice")
        return super().construct_mapping(node, deep)
