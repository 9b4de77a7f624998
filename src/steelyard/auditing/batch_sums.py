"""Gradients of a training's batches, summed by class on their device; what they say is in `watch`."""

import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.private_torch import assert_on_device
from steelyard._common.spread import refuse_spread
from steelyard.auditing.stated import SetupOrLoss, Stated, as_setup
from steelyard.balance.readings import as_rows, eager_gradient
from steelyard.balance.setup import TrainingSetup, check_alone, gradient_of_classes
from steelyard.losses import LGLINRLoss, create_loss
from steelyard.losses.base import Loss

Form = Literal["classes", "outputs"]
BLOCKS, FEW_BLOCKS, MANY_CLASSES = 16, 4, 256
MOST_CLASSES = 1500
MOST_WAITING, MOST_NUMBERS = 32, 1 << 13  # small batches wait, so many of so many logits, and are added in one go


@dataclass(frozen=True)
class Sums:
    """What the batches of an epoch add up to, in F blocks of batches that follow each other, float64 on the CPU.

    Attributes:
        gradient: (F, R, K) gradient in the logits by class, without class weights; R is K, or 2 for the negatives
            and positives of independent outputs. Each batch counts as the loss's mean counts it.
        masses: (F, R), or (F, 2, K) for outputs: the samples, counted in the same way.
        drawn: as `masses`, but each sample counts 1.
        form: "classes" or "outputs".
        batches: how many there were, of all processes together.
    """

    gradient: Tensor
    masses: Tensor
    drawn: Tensor
    form: Form
    batches: int


class BatchSums:
    """Sums over the batches of an epoch, without a wait for the device.

    A batch adds :math:`G_{kj} = Z^{-1} \\sum_{i: y_i = k} s_i\\, g_j(z_i, k)`, with :math:`Z` what the loss's mean
    divides by. A soft target is a mixture of samples of its classes, each with its part of the mass.

    Args:
        setup: what was done in training, or its loss.

    Raises:
        TypeError, ValueError: as `audit` does; LGL-INR with running statistics or a batch spread over processes.
    """

    def __init__(self, setup: SetupOrLoss) -> None:
        self.setup = as_setup(setup)
        if self.setup.logit_shift is not None:
            raise ValueError(
                "logit_shift must be None: it is added after training, and its batches do not have it"
            )
        self.divisor = _divisor(self.setup)
        self._batch_loss = _batch_loss(self.setup)
        self.stated: Stated | None = None
        self._state: tuple[Tensor, Tensor, Tensor] | None = None
        self._width, self._batches = 1, 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._spreads: bool | None = None
        self._places: dict[torch.device, dict[str, Tensor]] = {}
        self._parts_seen: Tensor | None = None

    @property
    def form(self) -> Form:
        """Return whether classes share a sample or each output is a problem of its own."""
        assert self.stated is not None
        return "outputs" if self.stated.binary or self.stated.several else "classes"

    def add(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch: logits and target as the loss took them."""
        if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
            raise TypeError("logits and target must be tensors, as the loss takes them")
        refuse_spread("logits", logits)
        refuse_spread("target", target)
        if not logits.is_floating_point() or logits.dim() == 0:
            raise TypeError(f"logits must be floating point rows, got {logits.dtype} of {logits.dim()} dimensions")
        rows = as_rows(logits.detach())
        if self.stated is None:
            self._start(rows)
        assert self.stated is not None
        if rows.shape[1] != self.stated.columns:
            raise ValueError(f"logits must have {self.stated.columns} columns, got {rows.shape[1]}")
        weights = None if sample_weight is None else sample_weight.detach().reshape(-1).to(rows.device).double()
        if weights is not None and weights.shape[0] != rows.shape[0]:
            raise ValueError(f"sample_weight must have {len(rows)} values, one a sample, got {len(weights)}")
        if rows.shape[0] == 0:
            return
        with torch.no_grad():
            z = rows if rows.device.type == "mps" else rows.double()
            if self.form == "outputs":
                self._add_outputs(z, _dense_target(target, logits, rows), weights)
            elif target.shape == logits.shape and logits.dim() > 1:
                self._add_soft(z, as_rows(target.detach()).to(z), weights)
            else:
                self._add_labels(z, target, logits, weights)

    def take(self) -> Sums:
        """Return the sums of all processes and begin again.

        Raises:
            ValueError: no batch was added, or a loss of several outputs that is not linear in parts of targets
                got parts.
        """
        if self._state is None or self.stated is None:
            raise ValueError("an epoch must have batches: update(logits, target) was not called")
        self._add_waiting()
        batches = self._gather()
        if batches == 0:
            raise ValueError("an epoch must have batches: update(logits, target) was not called")
        if self._parts_seen is not None and bool(self._parts_seen):
            raise ValueError(f"target must hold 0 and 1 for {self.setup.reading.name}, got parts between them")
        gradient, masses, drawn = (state.to("cpu", torch.float64, copy=True) for state in self._state)
        if self.form == "classes":  # the last row is what was ignored
            gradient, masses, drawn = gradient[:, :-1], masses[:, :-1], drawn[:, :-1]
        if self._closed:
            gradient = self._less_target(gradient, masses)
        used = masses.flatten(1).sum(1) > 0
        for state in self._state:
            state.zero_()
        self._width, self._batches, self._parts_seen = 1, 0, None
        return Sums(gradient[used], masses[used], drawn[used], self.form, batches)

    def _start(self, rows: Tensor) -> None:
        columns = rows.shape[1]
        if columns > MOST_CLASSES:
            raise ValueError(f"logits must have at most {MOST_CLASSES} columns to be watched, got {columns}")
        self.stated = Stated(self.setup, columns)
        blocks = BLOCKS if columns <= MANY_CLASSES else FEW_BLOCKS
        dtype = torch.float32 if rows.device.type == "mps" else torch.float64
        lines = columns + 1 if self.form == "classes" else 2
        masses = (blocks, lines) if self.form == "classes" else (blocks, 2, columns)
        self._state = tuple(  # type: ignore[assignment]
            torch.zeros(shape, dtype=dtype, device=rows.device)
            for shape in ((blocks, lines, columns), masses, masses)
        )

    @property
    def _closed(self) -> bool:
        """Whether sums of probabilities are enough, from which gradients follow."""
        return self._batch_loss is None and self.stated is not None and self.stated.plain

    def _join(self) -> None:
        """Join the blocks two by two."""
        assert self._state is not None
        for state in self._state:
            half = state[0::2] + state[1::2]
            state.zero_()[: len(half)] = half
        self._width *= 2

    def _vector(self, name: str, values: Tensor, like: Tensor) -> Tensor:
        """Return a vector on the device of the batches, copied there once."""
        place = self._places.setdefault(like.device, {})
        if name not in place:
            place[name] = values.to(like)
        return place[name]

    def _probabilities(self, z: Tensor) -> Tensor:
        assert self.stated is not None
        if self.setup.logit_adjustment is not None:
            z = z + self._vector("adjustment", self.setup.logit_adjustment, z)
        shared = self.form == "classes" and self.stated.link == "softmax"
        return torch.softmax(z, 1) if shared else torch.sigmoid(z)

    def _add_labels(self, z: Tensor, target: Tensor, logits: Tensor, weights: Tensor | None) -> None:
        if target.numel() != z.shape[0] or target.is_floating_point() or target.is_complex():
            raise ValueError(
                f"target must hold {len(z)} class labels or soft rows of shape {tuple(logits.shape)}, "
                f"got {str(target.dtype).removeprefix('torch.')} of shape {tuple(target.shape)}"
            )
        labels = target.reshape(-1)
        if not self._closed or weights is not None or z.numel() > MOST_NUMBERS:
            self._add_waiting()
            self._sum_labels(z, labels.to(z.device, torch.long), weights, 1)
            return
        if self._waiting and self._waiting[0][0].shape != z.shape:
            self._add_waiting()
        # Copies, for the caller may change the tensors before they are added.
        z = z.clone() if z.dtype == logits.dtype else z
        self._waiting.append((z, labels.to(z.device, torch.long, copy=True)))
        if len(self._waiting) == MOST_WAITING:
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Add the batches that wait, all of one size."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            with torch.no_grad():
                z, labels = (torch.cat(parts) for parts in zip(*waiting, strict=True))
                self._sum_labels(z, labels, None, len(waiting))

    def _sum_labels(self, z: Tensor, labels: Tensor, weights: Tensor | None, batches: int) -> None:
        """Sum the rows of batches of one size, that follow each other, by class."""
        size = z.shape[1]
        ignored = labels == self.setup.reading.ignore_index
        self._check_labels(labels, ignored, size)
        line = labels.masked_fill(ignored, size).reshape(batches, -1)
        line = line + (size + 1) * torch.arange(batches, device=z.device)[:, None]
        values = self._probabilities(z) if self._closed else self._gradient(z, labels, ignored)
        values = F.pad(values, (0, 1), value=1.0)  # the last column counts samples
        if weights is not None:
            values = values * weights[:, None]
        lines = batches * (size + 1)
        sums = (
            z.new_zeros(lines, size + 1).index_add_(0, line.reshape(-1), values).view(batches, size + 1, size + 1)
        )
        drawn, mean = sums[..., -1], sums
        if self.divisor == "weights":
            assert self.setup.class_weights is not None
            total = drawn[:, :-1] @ self._vector("class weights", self.setup.class_weights, z)
            mean = sums / total.clamp_(min=1e-30)[:, None, None]
        elif self.divisor == "count":
            mean = sums / (~ignored).view(batches, -1).sum(1).clamp_(min=1)[:, None, None]
        self._put(mean[..., :-1], mean[..., -1], drawn)

    def _check_labels(self, labels: Tensor, ignored: Tensor, size: int) -> None:
        bad = ~ignored & ((labels < 0) | (labels >= size))
        if labels.device.type != "cpu":
            assert_on_device(~bad.any(), f"target must hold labels from 0 to {size - 1}")
        elif bool(bad.any()):
            raise ValueError(
                f"target must hold labels from 0 to {size - 1}, or {self.setup.reading.ignore_index} to be "
                f"ignored, got {int(labels[bad][0])}"
            )

    def _put(self, gradient: Tensor, masses: Tensor, drawn: Tensor) -> None:
        """Add the sums of batches (B, ...) to their blocks, which are joined two by two when all are full."""
        assert self._state is not None
        blocks, done = self._state[0].shape[0], 0
        while done < len(gradient):
            if self._batches == blocks * self._width:
                self._join()
            stop = min(len(gradient), done + blocks * self._width - self._batches)
            order = torch.arange(self._batches, self._batches + stop - done, device=gradient.device)
            block = order.div(self._width, rounding_mode="floor")
            for state, part in zip(self._state, (gradient, masses, drawn), strict=True):
                # soft targets ignore none, and have no last line
                state.narrow(1, 0, part.shape[1]).index_add_(0, block, part[done:stop])
            self._batches += stop - done
            done = stop

    def _gradient(self, z: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        labels = labels.masked_fill(ignored, 0)
        if self._batch_loss is not None:
            loss, ignore = self._batch_loss, self.setup.reading.ignore_index
            return eager_gradient(loss, z, labels.masked_fill(ignored, ignore)).masked_fill(ignored[:, None], 0.0)
        if self._batches == 0 and self._width == 1:
            check_alone(self.setup, z, labels)
        return eager_gradient(self.setup.per_sample, z, labels).masked_fill(ignored[:, None], 0.0)

    def _add_soft(self, z: Tensor, target: Tensor, weights: Tensor | None) -> None:
        assert self.stated is not None
        reading = self.setup.reading
        if self._batch_loss is not None or self.stated.link != "softmax":
            raise ValueError(f"target must hold class labels for {reading.name}, got one value for each class")
        mass = target if weights is None else target * weights[:, None]
        if self._closed:
            sums = mass.T @ self._probabilities(z)
        else:
            if self._spreads is None:
                self._spreads = _is_linear(self.setup, z.shape[1])
            if not self._spreads:
                raise ValueError(
                    f"target must hold class labels for {reading.name}, which is not linear in soft ones"
                )
            sums = torch.einsum("nk,nkj->kj", mass, gradient_of_classes(self.setup, z))
        drawn = mass.sum(0)
        total: Tensor | float = 1.0
        if self.divisor == "weights" and isinstance(self.setup.loss, Loss):
            assert self.setup.class_weights is not None
            total = (drawn @ self._vector("class weights", self.setup.class_weights, z)).clamp(min=1e-30)
        elif self.divisor != "sum":  # torch divides soft targets by their number
            total = len(z)
        self._add_waiting()
        self._put((sums / total)[None], (drawn / total)[None], drawn[None])

    def _add_outputs(self, z: Tensor, target: Tensor, weights: Tensor | None) -> None:
        assert self.stated is not None
        kept = target != self.setup.reading.ignore_index
        own = target.to(z).masked_fill(~kept, 0.0)
        other = (1 - own).masked_fill(~kept, 0.0)
        if self._closed:
            p = self._probabilities(z)
            p = p.masked_fill(~kept, 0.0)
        else:
            parts = ((own != 0) & (own != 1)).any()
            self._parts_seen = parts if self._parts_seen is None else self._parts_seen | parts
            hard = own[:, 0].long() if self.stated.binary else own
            p = eager_gradient(self.setup.per_sample, z, hard).masked_fill(~kept, 0.0)
        if weights is not None:
            own, other = own * weights[:, None], other * weights[:, None]
        mass = torch.stack([other.sum(0), own.sum(0)])
        sums = torch.stack([(other * p).sum(0), (own * p).sum(0)])
        total: Tensor | float = 1.0 if self.divisor == "sum" else float(len(z))
        if self.divisor == "weights" and self.stated.binary:
            assert self.setup.class_weights is not None
            total = (self._vector("class weights", self.setup.class_weights, z) @ mass[:, 0]).clamp(min=1e-30)
        self._put((sums / total)[None], (mass / total)[None], mass[None])

    def _less_target(self, sums: Tensor, masses: Tensor) -> Tensor:
        """Return gradients from sums of probabilities: p - 1 for the own class, p for every other."""
        u = self.setup.pos_weight
        gradient = sums.clone()
        if self.form == "outputs":
            own = sums[:, 1] - masses[:, 1]
            gradient[:, 1] = own if u is None else own * u
        else:
            own = sums.diagonal(dim1=1, dim2=2) - masses
            gradient.diagonal(dim1=1, dim2=2).copy_(own if u is None else own * u)
        return gradient

    def _gather(self) -> int:
        """Add up all processes; return how many batches they had."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self._batches
        assert self._state is not None
        numbers = torch.tensor([self._width, self._batches], device=self._state[0].device)
        dist.all_reduce(numbers[:1], op=dist.ReduceOp.MAX)
        dist.all_reduce(numbers[1:], op=dist.ReduceOp.SUM)
        while self._width < int(numbers[0]):
            self._join()
        for state in self._state:
            dist.all_reduce(state)
        if self._parts_seen is not None:
            seen = self._parts_seen.int()
            dist.all_reduce(seen, op=dist.ReduceOp.MAX)
            self._parts_seen = seen > 0
        return int(numbers[1])


def as_outputs(sums: Sums) -> Sums:
    """Return the sums of classes under a one-vs-all loss as those of independent outputs."""
    own, masses = sums.gradient.diagonal(dim1=1, dim2=2), sums.masses
    gradient = torch.stack([sums.gradient.sum(1) - own, own], 1)
    masses, drawn = (torch.stack([m.sum(1, keepdim=True) - m, m], 1) for m in (masses, sums.drawn))
    return replace(sums, gradient=gradient, masses=masses, drawn=drawn, form="outputs")


def _divisor(setup: TrainingSetup) -> Literal["weights", "count", "sum"]:
    """Return what a batch's mean divides by. A loss without a module is taken for a plain mean."""
    loss = setup.loss
    if getattr(loss, "reduction", "mean") == "sum" or getattr(loss, "normalization", None) == "none":
        return "sum"
    if setup.class_weights is None:
        return "count"
    if isinstance(loss, nn.CrossEntropyLoss):
        return "weights" if loss.reduction == "mean" else "count"
    held = setup.options.get("normalization") if isinstance(loss, str) else getattr(loss, "normalization", None)
    return "weights" if held == "weights" else "count"


def _batch_loss(setup: TrainingSetup) -> LGLINRLoss | None:
    """Return a loss of the whole batch as a copy that adds up its columns, or None for a sum over samples."""
    if setup.in_negative is None:
        return None
    loss = setup.loss
    if isinstance(loss, str):
        held = {"pos_weight": setup.pos_weight, "logit_adjustment": setup.logit_adjustment}
        given = {name: value for name, value in held.items() if value is not None}
        loss = create_loss(loss, **{**setup.options, **given})  # type: ignore[arg-type]
    assert isinstance(loss, LGLINRLoss)
    if loss.statistics != "batch" or loss.process_group is not None:
        raise ValueError(
            "loss must balance each batch of this process by itself to be watched, "
            "got LGL-INR with running statistics or a batch that is spread over processes"
        )
    loss = copy.deepcopy(loss)
    loss.reduction = "sum"
    return loss


def _dense_target(target: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    """Return the target of independent outputs in the shape of the rows."""
    target = target.detach().to(rows.device)
    if target.shape == logits.shape:
        return as_rows(target)
    if rows.shape[1] == 1 and target.numel() == len(rows):
        return target.reshape(-1, 1)
    raise ValueError(f"target must have the shape {tuple(logits.shape)} of logits, got {tuple(target.shape)}")


def _is_linear(setup: TrainingSetup, size: int) -> bool:
    """Return whether the loss of a soft target is the mixture of those of its classes."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, size, generator=generator, dtype=torch.float64)
    soft = torch.rand(3, size, generator=generator, dtype=torch.float64)
    soft = soft / soft.sum(1, keepdim=True)
    held = setup.class_weights if setup.reading.held_in_soft else None
    device = getattr(getattr(setup.loss, "weight", None), "device", None) if held is not None else None
    z, soft = z.to(device or "cpu"), soft.to(device or "cpu")
    each = [setup.per_sample(z, torch.full((3,), k, device=z.device)) for k in range(size)]
    parts = soft if held is None else soft * held.to(soft)
    try:
        whole = setup.per_sample(z, soft)
    except (TypeError, ValueError, RuntimeError):
        return False
    return torch.allclose(whole, (parts * torch.stack(each, 1)).sum(1), rtol=1e-9)
