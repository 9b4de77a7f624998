"""Audits of a model with its data: the logits are collected, then weighed as any others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.checks import Vector
from steelyard._common.outputs import logits_of
from steelyard.auditing.audit import audit_evidence
from steelyard.auditing.gather import Evidence
from steelyard.auditing.report import AuditReport
from steelyard.auditing.stated import SetupOrLoss, as_setup

_TARGETS = ("labels", "label", "target")


def audit_model(
    model: nn.Module,
    loader: Iterable[Any],
    loss: SetupOrLoss,
    *,
    class_dim: int = 1,
    device: torch.device | str | None = None,
    class_counts: Vector | None = None,
    class_names: Sequence[str] | None = None,
    drop_invalid: bool = False,
    tolerance: float = 1e-9,
    dropout: bool = True,
) -> AuditReport:
    """Collect a model's logits on its training samples and return the audit of them.

    The model runs without gradients, batch by batch. Dropout is on, for the gradient that training brings to zero
    is that of logits with dropout: without it the weights seem to act too strongly. Layers with running
    statistics, such as batch norm, use these. The report says so. Afterwards all modes and buffers are what they
    were.

    Args:
        model: gives logits, or a tuple whose first item they are, or an object or mapping with ``logits``.
        loader: the training samples, not drawn by weight, without random augmentation if there is a choice. It
            yields pairs of inputs and target (inputs may be a tuple of arguments), or mappings with the target
            under ``"labels"``, ``"label"`` or ``"target"`` and the model's keyword arguments under the rest.
        loss: what the model was trained with: a loss object, a name, or a :class:`~steelyard.TrainingSetup`.
        class_dim: dimension of the classes in the logits: 1, or -1 for libraries that keep them last.
        device: to run on. Default: where the model's parameters are.
        class_counts, class_names, drop_invalid, tolerance: as in :func:`audit`.
        dropout: whether the model runs as :func:`in_training` does, with random numbers of a fixed seed; or else
            in evaluation mode.

    Returns:
        The report.

    Raises:
        TypeError: batches of another kind, or a model that gives no logits.
        ValueError: as :func:`audit` raises, or a loader without batches.

    Example:
        >>> x, y = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 3
        >>> loader = torch.utils.data.DataLoader(list(zip(x, y)), batch_size=30)
        >>> audit_model(torch.nn.Linear(4, 3), loader, torch.nn.CrossEntropyLoss()).numbers.rows
        90
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    setup = as_setup(loss)
    place = _device(model) if device is None else torch.device(device)
    evidence = None
    with in_training(model) if dropout else _in_evaluation(model):
        for batch in loader:
            inputs, keywords, target = _parts(batch)
            with torch.no_grad():
                logits = _logits(model(*_moved(inputs, place), **_moved(keywords, place)))
            if evidence is None:
                columns = 1 if logits.dim() == 1 else logits.shape[class_dim if class_dim in (1, -1) else 1]
                evidence = Evidence(columns, setup, class_dim=class_dim, drop_invalid=drop_invalid)
            evidence.update(logits, target)
    if evidence is None:
        raise ValueError("loader must yield at least one batch, got none")
    evidence.notes = ("collected_with_dropout" if dropout else "collected_in_evaluation",)
    return audit_evidence(evidence, class_counts=class_counts, class_names=class_names, tolerance=tolerance)


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Run a model as its training did, but for layers with running statistics, which use these.

    A model in evaluation mode is put into training mode; in one in training mode, parts that are frozen in
    evaluation mode stay so. The batches need not be those of the training: running statistics are the mean of the
    statistics of batches that training drew. Random numbers are those of a fixed seed. Afterwards modes, buffers
    and the state of the random numbers are what they were.
    """
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with _modes_kept(model), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        if not model.training:
            model.train()
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.eval()
        try:
            yield
        finally:
            for module, name, buffer, values in kept:
                setattr(module, name, buffer)
                with torch.no_grad():
                    buffer.copy_(values)


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    with _modes_kept(model):
        model.eval()
        yield


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _parts(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return positional arguments, keyword arguments and target of a batch."""
    if isinstance(batch, Mapping):
        found = [name for name in _TARGETS if name in batch]
        if len(found) != 1:
            raise TypeError(f"batches must have one of {', '.join(_TARGETS)}, got {', '.join(map(str, batch))}")
        return (), {name: value for name, value in batch.items() if name != found[0]}, batch[found[0]]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, target = batch
        return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}, target
    came = f"{len(batch)} items" if isinstance(batch, tuple | list) else type(batch).__name__
    raise TypeError(f"batches must be pairs of inputs and target, or mappings, got {came}")


def _logits(output: Any) -> Tensor:
    logits = logits_of(output)
    if logits.dim() == 0:
        raise ValueError("model must give logits of samples, (N,) or (N, K), got a single number")
    return logits


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _moved(values: Any, place: torch.device) -> Any:
    if isinstance(values, Tensor):
        return values.to(place)
    if isinstance(values, Mapping):
        return {name: _moved(value, place) for name, value in values.items()}
    return type(values)(_moved(value, place) for value in values) if isinstance(values, tuple | list) else values
