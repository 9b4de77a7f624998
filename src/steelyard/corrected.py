"""A model and what undoes its training, in one module that is exported, saved and compiled as any other."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.checks import Vector, check_number, check_vector
from steelyard._common.outputs import logits_of
from steelyard._common.text import listed
from steelyard.balance.setup import TrainingSetup
from steelyard.posterior import log_posterior

_VECTORS = ("class_weights", "pos_weight", "sampler_weights", "logit_adjustment", "logit_shift", "class_counts")


class CorrectedModel(nn.Module):
    r"""Return the log-probabilities of a model without what training did to them.

    .. math:: \mathrm{forward}(x) = \mathtt{log\_posterior}(\mathrm{model}(x), \mathrm{setup}, \mathrm{prior})

    It goes through ``torch.compile``, ``torch.export`` and ONNX wherever the model does and the loss has a closed
    posterior (see :func:`steelyard.log_posterior`). Its state is the model's, and one tensor of bytes that says
    what is undone: so it goes into safetensors, and a state that was saved under another setup, prior or
    temperature is refused.

    Args:
        model: gives logits (N, K) or (N, K, d1, ...), or (N,) or (N, 1) for one output; a tuple whose first item
            they are, or an object or mapping with ``logits``.
        setup: what was done in training. A loss given as a function is known by its name alone.
        prior: (K,), or (2,) for one output: class frequencies where the model is used, sum 1; needs the setup's
            ``class_counts``. Default: those of training.
        temperature: divides the logits first, > 0.
        mean_confusion: (K, K), for LGL-INR.

    Raises:
        TypeError, ValueError: something else than described; ``"estimate"`` as prior, which needs rows.

    Example:
        >>> setup = TrainingSetup("softmax", class_weights=[9.0, 1.0])
        >>> honest = CorrectedModel(nn.Identity(), setup)
        >>> honest(torch.tensor([[0.9, 0.1]]).log()).exp()
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        model: nn.Module,
        setup: TrainingSetup,
        prior: Vector | None = None,
        *,
        temperature: float = 1.0,
        mean_confusion: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch module, got {type(model).__name__}")
        if not isinstance(setup, TrainingSetup):
            raise TypeError(f"setup must be a TrainingSetup, got {type(setup).__name__}")
        if isinstance(prior, str):
            raise ValueError(
                f"prior must be class frequencies, got {prior!r}: estimate them first from rows of use, by "
                "estimate_prior(log_posterior(logits, setup), class_counts).prior"
            )
        if prior is not None:
            prior = check_vector("prior", prior, setup.size, low=0)
            if setup.targets == "multi-hot":
                raise ValueError("prior must be None for multi-hot targets, whose outputs have no common prior")
            if setup.class_counts is None:
                raise ValueError("prior needs the training prior: class_counts of the setup, got None")
            if abs(float(prior.sum()) - 1) > 1e-4:
                raise ValueError(f"prior must sum to 1, got {float(prior.sum()):.6g}")
        self.model = model
        self.setup = setup
        self.prior = prior
        self.temperature = check_number("temperature", temperature, low=1e-6)
        self.mean_confusion = None if mean_confusion is None else mean_confusion.detach().cpu().double()

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return log-probabilities in the shape of the model's logits; for one output the corrected logit."""
        logits = logits_of(self.model(*inputs, **named))
        return log_posterior(
            logits, self.setup, self.prior, temperature=self.temperature, mean_confusion=self.mean_confusion
        )

    def get_extra_state(self) -> Tensor:
        """Return what is undone, as bytes of JSON: state dicts of tensors alone hold it too."""
        return torch.frombuffer(bytearray(json.dumps(self._undone()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Refuse the state of a model of which something else was undone."""
        try:
            found = json.loads(bytes(state.cpu().tolist()))
        except (AttributeError, TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError("the state must say what is undone, as CorrectedModel saves it")
        own = self._undone()
        differ = sorted(key for key in own | found if own.get(key) != found.get(key))
        if differ:
            key = differ[0]
            more = f"; {listed(differ[1:])} differ too" if len(differ) > 1 else ""
            raise ValueError(
                f"the state was saved with another {key}: {_shown(found.get(key))}, this model has "
                f"{_shown(own.get(key))}{more}"
            )

    def extra_repr(self) -> str:
        use = "that of training" if self.prior is None else [round(share, 4) for share in self.prior.tolist()]
        return f"undone: {self.setup.text}; prior: {use}; temperature: {self.temperature:g}"

    def _undone(self) -> dict[str, Any]:
        setup, reading = self.setup, self.setup.reading
        found: dict[str, Any] = {
            "loss": reading.name,
            "targets": setup.targets,
            "loss options": {
                key: value.tolist() if isinstance(value, Tensor) else value
                for key, value in sorted(reading.held.items())
                if key not in (*_VECTORS, "label_smoothing")
            }
            | {key: str(value) for key, value in setup.options.items()}
            | {"gamma": reading.gamma, "closed form": reading.closed, "in-negative": str(reading.in_negative)},
            "label_smoothing": setup.label_smoothing,
            "batch_size": setup.batch_size,
            "temperature": self.temperature,
        }
        for name in _VECTORS:
            values = getattr(setup, name)
            found[name] = None if values is None else values.tolist()
        for name in ("prior", "mean_confusion"):
            values = getattr(self, name)
            found[name] = None if values is None else values.tolist()
        return found


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 100 else text[:100] + "..."
