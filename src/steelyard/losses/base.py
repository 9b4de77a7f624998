"""What every loss shares, done once: checks, options, weights, adjustment, ignored rows, reduction.

A loss is a class in a file of its own: a formula of rows and targets, its options, source and example. From the
class follow the function (`function_of`), the module, its name in `create_loss` and on the command line, and the
tests that every loss meets. Nothing here knows a loss by name.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from steelyard._common.checks import REDUCTIONS, Reduction, compute_dtype, dtype_name
from steelyard._common.spread import whole
from steelyard._common.text import nearest
from steelyard.losses.constant import constant_solution
from steelyard.losses.mixing import mixed, sample_weights
from steelyard.losses.options import NORMALIZATIONS, Link, LossFunction, Normalization, Option, option
from steelyard.losses.vectors import checked, held, on_device, take_from_torch
from steelyard.targets import (
    WORDS,
    Kind,
    Layout,
    TargetLike,
    Targets,
    are_plain,
    as_tensor,
    layout_of,
    read_dense,
    read_labels,
    read_sample_weight,
    rows_of,
)
from steelyard.weights.adjustments import initial_bias
from steelyard.weights.counts import Counts, count_tensor

Options = Mapping[str, Any]


class Prepared(NamedTuple):
    """What a formula is given, and what multiplies its losses.

    Attributes:
        rows: (M, K) logits in the dtype to compute in, with their adjustment, 0 where ignored.
        own: the loss's own options.
        factors: (M,) what multiplies each loss, or None.
        weights: (M,) what each sample weighs in a mean, or None.
    """

    layout: Layout
    rows: Tensor
    targets: Targets
    own: dict[str, Any]
    factors: Tensor | None
    weights: Tensor | None


def are_usual(target: Tensor, options: Options) -> bool:
    """Return whether no label is ignored or negative, and options say nothing else of where classes lie."""
    ignored, classes = options["ignore_index"], options["class_dim"]
    return (
        type(ignored) is int
        and ignored < 0
        and type(classes) is int
        and classes in (1, -1)
        and target.min().item() >= 0
    )


class Loss(nn.Module):
    r"""A loss of logits and targets; a subclass is one loss.

    .. math:: \text{loss} = \frac{1}{Z} \sum_i s_i\, c_{y_i}\, \ell(z_i, y_i)

    with :math:`\ell` the subclass's :attr:`formula`, :math:`c` = ``class_weights``, :math:`s` = ``sample_weight``
    and :math:`Z` by ``reduction`` and ``normalization``. A loss that is no sum over samples overrides
    :meth:`evaluate`.

    A subclass sets:

    Attributes:
        name: as `create_loss` takes it.
        formula: a function of rows (M, K) and :class:`Targets`, with the loss's own options as keywords, that
            returns (M,) losses.
        link: ``"softmax"`` where classes compete, ``"logistic"`` where each output is a binary problem.
        separable_over: ``"rows"``: a sum over samples; ``"columns"``: over outputs, of the whole batch.
        refuses: options of this class that the loss does not have, each with the reason.
        formula_text, law_text, posterior_text: its loss of a sample, balance law and posterior in a line each.
        use_text: when to use it, in a sentence.
    """

    name: ClassVar[str]
    formula: ClassVar[Callable[..., Tensor]]
    separable_over: ClassVar[Literal["rows", "columns"]] = "rows"
    why_labels: ClassVar[str | None] = None
    """Why the loss takes class labels only; None where it takes more."""
    torch_weight: ClassVar[str] = "class_weights"
    """Which option torch's `weight` is, in a checkpoint of its counterpart."""
    refuses: ClassVar[Mapping[str, str]] = {}
    law_text: ClassVar[str] = "Σᵢ w(yᵢ) ∂ℓ(zᵢ, yᵢ)/∂zⱼ = 0: pull equals push in every output"
    formula_text: ClassVar[str] = "see its file"
    needs: ClassVar[tuple[str, ...]] = ()
    """Options without which the loss is another one: :func:`~steelyard.create_loss` asks for one of them."""
    constant_factors: ClassVar[bool] = False
    """Whether factors of the formula are constants in its gradient, which is then no derivative of its value."""
    posterior_text: ClassVar[str] = "`q` with `Σₖ qₖ wₖ ∂ℓ(z, k)/∂z = 0`, by differentiation"
    use_text: ClassVar[str] = "As its source says."
    function: ClassVar[LossFunction]
    options: ClassVar[dict[str, Option]] = {}
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    own: ClassVar[tuple[str, ...]] = ()
    """Names of the options that go to the formula."""
    linked: ClassVar[tuple[str, ...]] = ()
    """Names of the options that belong to one link."""

    link: Link
    class_weights: Tensor | None = option(
        None, "(K,) weight of the samples of each class. Default: all 1.", kind="vector", low=0, per="class"
    )
    logit_adjustment: Tensor | None = option(
        None,
        "(K,) values that are added to the logits: with the log of the class frequencies "
        "(:func:`~steelyard.logit_adjustment`) the logits themselves become free of the training prior. "
        "Default: none.",
        kind="vector",
    )
    label_smoothing: float = option(
        0.0,
        "epsilon in [0, 1]: the target is 1 - epsilon of its own and epsilon / K of every class; of a multi-hot "
        "target, 1 - epsilon of its own and epsilon / 2.",
        kind="number",
        low=0,
        high=1,
    )
    ignore_index: int = option(-100, "label of positions that count for nothing.", kind="integer")
    reduction: Reduction = option(
        "mean",
        '``"mean"`` (see ``normalization``), ``"sum"``, or ``"none"`` for one loss per sample.',
        kind="choice",
        choices=REDUCTIONS,
    )
    normalization: Normalization = option(
        "count",
        'what ``"mean"`` divides by: ``"weights"``, the sum of the weights of the batch\'s samples (as torch\'s '
        'cross-entropy); ``"count"``, the number of samples not ignored (a sample\'s weight means the same in '
        'every batch of that size); ``"none"``, nothing: divide by a constant of yours.',
        kind="choice",
        choices=NORMALIZATIONS,
    )
    class_dim: int = option(1, "dimension of the classes in the logits; -1 where they come last.", kind="integer")
    validate: bool | None = option(
        None,
        "look at the values of target and weights. Default: on the CPU only, where it is free of synchronisation; "
        "elsewhere a label out of range fails in the device's own assertion.",
        kind="flag",
    )

    def __init_subclass__(cls, **rest: Any) -> None:
        """Collect the declared options; a loss takes those of this class that it does not refuse.

        A short way is not inherited: it has the formula of the class that defines it.
        """
        super().__init_subclass__(**rest)
        if "_quick" not in vars(cls):
            cls._quick = classmethod(Loss._quick.__func__)  # type: ignore[assignment,attr-defined]
        declared = {key: value for key, value in vars(cls).items() if isinstance(value, Option)}
        cls.own = tuple(key for key in declared if key not in Loss.options)
        shared = {key: value for key, value in Loss.options.items() if key not in cls.refuses}
        cls.options = {**declared, **{k: v for k, v in shared.items() if k not in declared}}
        cls.linked = tuple(key for key, one in cls.options.items() if one.link is not None)
        cls.defaults = {
            of: {k: v.default for k, v in cls.options.items() if v.of in ("both", of)}
            for of in ("module", "function")
        }
        for key, value in declared.items():
            if value.kind == "vector" or value.of != "both":
                delattr(cls, key)  # the instance has it
            else:
                setattr(cls, key, value.default)

    def __init__(self, *nameless: Any, **given: Any) -> None:
        super().__init__()
        if nameless:
            raise TypeError(f"{type(self).__name__} takes its options by name, such as {self.torch_weight}=...")
        for key, value in self.complete(given, of="module").items():
            setattr(self, key, value)

    def forward(self, logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None) -> Tensor:
        if sample_weight is None:
            found = self._quickly(logits, target, vars(self))
            if found is not None:
                return found
        return self.evaluate(logits, target, sample_weight, self.placed(logits))

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "weight":  # a property would let a parameter pass
            raise AttributeError(f"loss {self.name!r} has no weight, it has {self.torch_weight}")
        one = self.options.get(key)
        if one is None:
            super().__setattr__(key, value)
        elif one.kind != "vector":
            super().__setattr__(key, one.check(key, value))
        else:  # no buffer: see `vectors`
            vars(self)[key] = held(key, value, one)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move vectors and buffers to other devices; keep their values, and their dtypes unless a wider one is
        asked for."""
        before = {key: buffer for key, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, old in before.items():
            new = self._buffers[key]
            assert new is not None
            if old.is_meta and not new.is_meta:  # without values: as where nothing was seen yet
                self._buffers[key] = torch.zeros_like(old, device=new.device)
            else:
                self._buffers[key] = old.to(new.device, torch.promote_types(old.dtype, new.dtype))
        on_device(self, fn(torch.empty(0, device="cpu")).device)
        return self

    def reset_parameters(self) -> None:
        """Forget what running statistics have seen; for code that builds a model without values and fills it."""
        for buffer in self._buffers.values():
            if buffer is not None:
                nn.init.zeros_(buffer)

    @property
    def takes(self) -> tuple[Kind, ...]:
        """Return the kinds of targets that this loss can take."""
        return self.takes_under(self.link)

    def chosen(self) -> dict[str, Any]:
        """Return the options as they are now."""
        return {key: getattr(self, key, None) for key in self.options}

    def placed(self, beside: Tensor) -> dict[str, Any]:
        """Return the options as they are now, vectors on the device of a tensor."""
        return self.chosen() | (on_device(self, beside.device, beside) if isinstance(beside, Tensor) else {})

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample as trained, without the weight of its class: (N,) of (N, K) logits.

        It contains the logit adjustment, the weights of outputs and positives, and label smoothing. The balance
        laws are made of it.

        Args:
            logits: (N, K), or (N, 1) for one output.
            target: (N,) labels, or (N, K) multi-hot or soft, as the loss :attr:`takes`.

        Raises:
            TypeError: the loss is no sum over samples.
        """
        if self.separable_over != "rows":
            raise TypeError(f"{self.name} is a function of a whole batch: it has no loss of a sample")
        plain = {
            "class_weights": None,
            "reduction": "none",
            "class_dim": 1,
            "validate": False,
            "ignore_index": -100,
        }
        return self.evaluate(logits, target, None, self.placed(logits) | plain)

    def first_bias(self, class_counts: Counts, *, num_samples: int | None = None) -> Tensor:
        r"""Return the logits of a model that knows the class counts alone: a first bias for its head.

        .. math:: \arg\min_b \sum_k n_k\, \ell(b, k)

        It is the constant solution of this loss, with its adjustment, smoothing and weights of positives, but
        without class weights, so that learning starts at the class frequencies.

        Args:
            class_counts: K counts, as :func:`~steelyard.class_weights` takes them; positives of each output where
                ``num_samples`` is given.
            num_samples: N, of multi-label targets, in which a sample may have several classes or none.

        Returns:
            (K,) float32.

        Raises:
            ValueError: a class without samples, or an output without negatives: its bias is infinite.

        Example:
            >>> import steelyard
            >>> steelyard.create_loss("focal").first_bias([75, 25]).softmax(0)   # less sure than the counts
            tensor([0.6012, 0.3988])
        """
        start = initial_bias(class_counts, self.link, num_samples=num_samples).double()
        exact = copy.deepcopy(self).cpu()
        if exact.logit_adjustment is not None:  # of softmax adjusted by the log of the counts 0 is the solution
            start = torch.zeros_like(start)
        self._check_positives()
        counts = count_tensor(class_counts).double()
        return constant_solution(exact.per_sample, start, counts, num_samples).float()

    def _check_positives(self) -> None:
        u = getattr(self, "pos_weight", None)
        if u is not None and bool((u == 0).any()):
            raise ValueError("pos_weight must be positive for a first bias, got 0, whose bias is infinite")

    def extra_repr(self) -> str:
        shown = {k: v for k, v in self.chosen().items() if v is not None and not isinstance(v, Tensor)}
        vectors = {k: f"({len(v)},)" for k, v in self.chosen().items() if isinstance(v, Tensor)}
        return ", ".join(f"{k}={v}" for k, v in (shown | vectors).items())

    @classmethod
    def complete(cls, given: Options, *, of: Literal["module", "function"]) -> dict[str, Any]:
        """Return all options, checked: those given, and the defaults of the others.

        Raises:
            TypeError: an option that the loss does not have; if it refuses it, with the reason.
            ValueError, TypeError: a value that the option does not accept.
        """
        options = dict(cls.defaults[of])
        for key, value in given.items():
            if key in cls.refuses:
                raise TypeError(f"{cls.name} takes no {key}: {cls.refuses[key]}")
            if key not in options:
                raise TypeError(
                    f"loss {cls.name!r} has no option {key!r}{nearest(key, list(options))}; "
                    f"it takes {', '.join(options)}"
                )
            options[key] = cls.options[key].check(key, value)
        for key in cls.linked:
            cls.options[key].check_link(key, options.get(key), options.get("link", cls.link))
        return options

    @classmethod
    def _quickly(cls, logits: Tensor, target: TargetLike, options: Options) -> Tensor | None:
        """Return what :meth:`_quick` returns, None where it is not to be asked."""
        if not isinstance(logits, Tensor):
            return None
        labels = target if isinstance(target, Tensor) else as_tensor(target, logits.device)
        return cls._quick(logits, labels, options) if are_plain(logits, labels) else None

    @classmethod
    def _quick(cls, logits: Tensor, target: Tensor, options: Options) -> Tensor | None:
        """Return what :meth:`evaluate` returns, where a few of torch's operations give it, or None.

        A small batch spends its time on checks and on operations that it does not need. A loss may offer a short
        way for the usual case; all others, and what is wrong, go the general way.

        Args:
            logits, target: as :func:`~steelyard.targets.are_plain` finds them.
            options: all options; vectors on any device.
        """
        return None

    @classmethod
    def evaluate(
        cls, logits: Tensor, target: TargetLike, sample_weight: TargetLike | None, options: Options
    ) -> Tensor:
        """Return the loss under checked options; see the class for the formula."""
        layout, rows, targets, own, factors, weights = cls._prepare(logits, target, sample_weight, options)
        ignored = targets.is_ignored()
        losses = cls.formula(rows, targets, **own)
        if factors is not None:
            losses = losses * factors
        if ignored is not None:
            losses = losses.masked_fill(ignored, 0.0)
        if options["reduction"] == "none":
            return layout.restore(losses)
        total = losses.sum()
        if options["reduction"] == "sum" or options["normalization"] == "none":
            return total
        if options["normalization"] == "weights" and weights is not None:
            denominator = (weights if ignored is None else weights.masked_fill(ignored, 0.0)).sum()
        elif ignored is None:
            return total / max(losses.shape[0], 1)
        else:
            denominator = (~ignored).sum().to(total.dtype)
        return total / torch.where(denominator > 0, denominator, 1)  # nothing counts: the total is 0

    @classmethod
    def _prepare(
        cls, logits: Tensor, target: TargetLike, sample_weight: TargetLike | None, options: Options
    ) -> Prepared:
        """Return what the formula is given, and what multiplies its losses."""
        logits, target, sample_weight = whole(logits), whole(target), whole(sample_weight)
        layout, targets, rows, vectors = cls.read(logits, target, options)
        rows = rows.to(compute_dtype(logits))
        class_weights, ignored = vectors["class_weights"], targets.is_ignored()
        if ignored is not None:  # ignored rows may hold anything, NaN too
            rows = rows.masked_fill(ignored[:, None], 0.0)
        weights = sample_weights(targets, class_weights)  # (M,)
        factors = weights if targets.labels is not None else None  # those of dense targets are mixed in
        if targets.dense is not None:
            targets = mixed(
                targets, class_weights, options.get("label_smoothing", 0.0), options.get("link", cls.link)
            )
        if sample_weight is not None:
            sample = read_sample_weight(sample_weight, logits, layout.samples, options["validate"])
            factors, weights = (sample if w is None else w * sample for w in (factors, weights))
        own = {key: vectors.get(key, options[key]) for key in cls.own if cls.options[key].of != "module"}
        return Prepared(layout, rows, targets, own, factors, weights)

    @classmethod
    def read(
        cls, logits: Tensor, target: TargetLike, options: Options
    ) -> tuple[Layout, Targets, Tensor, dict[str, Tensor | None]]:
        """Return what is checked: layout, targets, rows (M, K) with their adjustment, vectors by name."""
        binary = cls.why_labels is None and options.get("link", cls.link) == "logistic"
        layout = layout_of(logits, options["class_dim"], binary=binary)
        targets = cls._read(logits, target, layout, options)
        outputs = 1 if layout.class_dim == -1 else logits.shape[layout.class_dim]
        vectors = checked(cls.options, options, logits, outputs, options.get("link", cls.link))
        rows, adjustment = rows_of(logits, layout), vectors["logit_adjustment"]
        return layout, targets, rows if adjustment is None else rows.to(adjustment.dtype) + adjustment, vectors

    @classmethod
    def takes_under(cls, link: Link) -> tuple[Kind, ...]:
        """Return the kinds of targets that the loss takes under a link."""
        beside: Kind = "soft" if link == "softmax" else "multi-hot"
        return ("labels",) if cls.why_labels is not None else ("labels", beside)

    @classmethod
    def _read(cls, logits: Tensor, target: TargetLike, layout: Layout, options: Options) -> Targets:
        """Return the targets, of a kind that the loss takes."""
        link, target = options.get("link", cls.link), as_tensor(target, logits.device)
        outputs = 1 if layout.class_dim == -1 else logits.shape[layout.class_dim]
        one_output = cls.why_labels is None and link == "logistic" and outputs == 1
        whole = target.shape == logits.shape and layout.class_dim != -1
        if one_output and not whole and not target.is_floating_point() and not target.is_complex():
            labels = read_labels(
                target,
                logits,
                layout.samples,
                num_labels=2,
                ignore_index=options["ignore_index"],
                validate=options["validate"],
            )
            return labels.as_one_output(compute_dtype(logits))
        if cls.why_labels is None and (whole or one_output):
            if link == "logistic" and outputs > 1 and options["class_weights"] is not None:
                raise ValueError(
                    f"class_weights of {cls.name} are for class labels: a sample of a multi-hot target has no one "
                    "class; pos_weight and output_weights weigh its outputs"
                )
            if link == "softmax" and options["ignore_index"] >= 0:
                raise ValueError(
                    f"ignore_index marks class labels, and a soft target has none: it must be negative, "
                    f"got {options['ignore_index']}"
                )
            return read_dense(
                target,
                logits,
                layout,
                soft=link == "softmax",
                ignore_index=options["ignore_index"],
                validate=options["validate"],
            )
        if whole or target.is_floating_point() or target.is_complex():
            came = f"got {dtype_name(target.dtype)} of shape {tuple(target.shape)}"
            if cls.why_labels is not None:
                why = f"; {cls.name} takes nothing else: {cls.why_labels}"
            else:
                beside = WORDS[cls.takes_under(link)[1]]
                why = f"; beside those {cls.name} takes {beside}, in the logits' shape {tuple(logits.shape)}"
            raise TypeError(f"target must hold {WORDS['labels']}, {came}{why}")
        return read_labels(
            target,
            logits,
            layout.samples,
            num_labels=outputs,
            ignore_index=options["ignore_index"],
            validate=options["validate"],
            smoothing=options.get("label_smoothing", 0.0),
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        take_from_torch(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


Loss.options = {key: value for key, value in vars(Loss).items() if isinstance(value, Option)}
for _key in Loss.options:
    delattr(Loss, _key)  # subclasses have the values
