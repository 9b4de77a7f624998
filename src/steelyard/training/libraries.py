"""Image classifiers of other libraries without their last layer: by name, with random weights."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.text import reason_of


def check_model(library: str, name: str) -> None:
    """Refuse a model that a library does not have.

    Args:
        library: one of ``LIBRARIES``.
        name: as the library names its models. A name on the Hugging Face hub is not looked up yet.

    Raises:
        ImportError: the library is not installed, or not for this torch.
        ValueError: it knows no such model.
    """
    names = list(LIBRARIES[library].names(_module(library)))
    if name in names or (library == "transformers" and name and (Path(name).is_dir() or name.count("/") == 1)):
        return
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"unknown backbone {library}:{name}{hint}")


def create_features(library: str, name: str, images: Tensor) -> tuple[nn.Module, int]:
    """A model from normalised images (N, C, H, W) to the features (N, D) that its last layer takes, and D.

    Raises:
        ImportError: the library is not installed, or not for this torch.
        ValueError: it cannot make the model, the model does not end in a linear layer, or it does not take such
            images.
    """
    try:
        model, width = LIBRARIES[library].create(_module(library), name, images)
        features = _Features(model)
        with torch.no_grad():
            found = features.eval()(torch.zeros(2, *images.shape[1:]))
    except Exception as error:  # whatever another library may raise
        shape = " x ".join(str(size) for size in images.shape[1:])
        reason = reason_of(error)
        raise ValueError(
            f"backbone {library}:{name} cannot be made for images of {shape} ({reason}); "
            "image_mode and image_size convert images"
        ) from error
    if found.dim() != 2 or width not in (None, found.shape[1]):
        raise ValueError(f"backbone {library}:{name} does not end in a linear layer over features of an image")
    return features.train(), found.shape[1]


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(images)
        features: Tensor = found if isinstance(found, Tensor) else found.logits  # with auxiliary outputs
        return features


def _timm(timm: Any, name: str, images: Tensor) -> tuple[nn.Module, None]:
    return timm.create_model(name, pretrained=False, num_classes=0, in_chans=images.shape[1]), None


def _torchvision(models: Any, name: str, images: Tensor) -> tuple[nn.Module, int]:
    return _without_last(models.get_model(name, weights=None))


def _transformers(auto: Any, name: str, images: Tensor) -> tuple[nn.Module, int]:
    transformers = importlib.import_module("transformers")
    channels, height, width = images.shape[1:]
    sizes = {"num_channels": channels, "image_size": height if height == width else (height, width)}
    classifiers = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if name in classifiers:
        config = transformers.AutoConfig.for_model(name, **sizes)
    else:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **sizes)
    if config.model_type not in classifiers:
        raise ValueError(f"models of type {config.model_type} are no image classifiers")
    if not config.architectures:  # else a type with several classifiers does not say which
        first = classifiers[config.model_type]
        config.architectures = [first if isinstance(first, str) else first[0]]
    return _without_last(transformers.AutoModelForImageClassification.from_config(config))


def _without_last(model: nn.Module) -> tuple[nn.Module, int]:
    """Return the model with its last linear layer taken out, and what went into that."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("it has no linear layer")
    name, last = linear[-1]
    model.set_submodule(name, nn.Identity())
    return model, last.in_features


@dataclass(frozen=True)
class _Library:
    module: str
    names: Callable[[Any], Iterable[str]]
    create: Callable[[Any, str, Tensor], tuple[nn.Module, int | None]]


LIBRARIES = {
    "timm": _Library("timm", lambda timm: timm.list_models(), _timm),
    "torchvision": _Library("torchvision.models", lambda models: models.list_models(module=models), _torchvision),
    "transformers": _Library(
        "transformers.models.auto.modeling_auto",
        lambda auto: auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        _transformers,
    ),
}


def _module(library: str) -> Any:
    try:
        return importlib.import_module(LIBRARIES[library].module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: compiled for another torch
        reason = reason_of(error)
        raise ImportError(
            f"backbone {library}:NAME needs {library}, which cannot be imported ({reason}): pip install {library}"
        ) from error
