"""Every private name of torch that this project uses, each behind a function with a fallback.

torch may drop such a name in any release. Then the fallback, built on public names, takes over: slower, or more
careful, never wrong.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

_functorch: Any = getattr(torch._C, "_functorch", None)
_autograd: Any = getattr(torch._C, "_autograd", None)
_is_wrapped: Any = getattr(_functorch, "is_functorch_wrapped_tensor", None)
_is_legacy_batched: Any = getattr(_functorch, "is_legacy_batchedtensor", None)
_dispatch_mode: Any = getattr(torch._C, "_get_dispatch_mode", None)
_mode_keys: Any = getattr(torch._C, "_TorchDispatchModeKey", None)
_keep_graph: Any = getattr(_autograd, "_get_current_graph_task_keep_graph", None)
_top_hooks: Any = getattr(_autograd, "_top_saved_tensors_default_hooks", None)
_assert_async: Any = getattr(torch, "_assert_async", None)
_transforms: Any = getattr(torch._C, "_are_functorch_transforms_active", None)
_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_LEVEL = "_current_level"  # of forward-mode derivatives, -1 outside
_softplus: Any = getattr(getattr(torch._C, "_nn", None), "softplus", None)
_CONSTANT = "_dynamo_marked_constant"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_when_traced(function: _Function) -> _Function:
    """Return the function, marked as `torch.compiler.assume_constant_result` marks it: what it returns when
    torch.compile traces a call is a constant of the graph.

    That decorator imports the compiler, which takes seconds. Without its mark torch.compile breaks the graph at a
    call.
    """
    vars(function)[_CONSTANT] = True
    return function


def is_transformed(x: Tensor) -> bool:
    """Whether a transformation of `torch.func` or a tracer holds x, so that its values cannot be read.

    Tracers are FakeTensorMode and make_fx. Without torch's own answer it is told by reading a value, which such a
    tensor refuses.
    """
    if _is_wrapped is not None and _dispatch_mode is not None and _mode_keys is not None:
        return records() or hasattr(x, "fake_mode") or bool(_is_wrapped(x))
    try:
        bool(x.reshape(-1)[:1].sum() == 0)
    except RuntimeError:
        return True
    return False


def records() -> bool:
    """Whether a tracer, such as make_fx, records what is done to tensors.

    Without torch's own answer, yes.
    """
    if _dispatch_mode is None or _mode_keys is None:
        return True
    return _dispatch_mode(_mode_keys.PROXY) is not None


def is_batched(x: Tensor) -> bool:
    """Whether x stands for several tensors: under `torch.vmap` or `is_grads_batched=True`.

    Without torch's own answer, yes: the caller then makes a new tensor instead of writing into one.
    """
    if _is_wrapped is None or _is_legacy_batched is None:
        return True
    return bool(_is_wrapped(x) or _is_legacy_batched(x))


def is_watched() -> bool:
    """Whether something looks on at torch's operations, so that what is done outside of them would be missed: a
    transformation of `torch.func`, a dispatch mode such as that of `make_fx`, forward-mode derivatives.

    Without torch's own answers, yes.
    """
    if _transforms is None or _modes is None or not hasattr(forward_ad, _LEVEL):
        return True
    return bool(_transforms()) or _modes() > 0 or getattr(forward_ad, _LEVEL) >= 0


def keeps_graph() -> bool:
    """Whether the backward pass that runs may be followed by another one through the same graph.

    Without torch's own answer, yes.
    """
    return True if _keep_graph is None else bool(_keep_graph())


def saves_elsewhere() -> bool:
    """Whether hooks take saved tensors, as gradient checkpointing and offloading to the CPU do.

    Without torch's own answer, yes.
    """
    if torch.compiler.is_compiling():
        return False
    return True if _top_hooks is None else _top_hooks(False) is not None


def assert_on_device(condition: Tensor, message: str) -> None:
    """Stop where a tensor of one bool is false, without waiting for the device.

    Without torch's own function the host waits for it.
    """
    if _assert_async is not None:
        _assert_async(condition, message)
    elif not bool(condition):
        raise RuntimeError(message)


def softplus(z: Tensor, out: Tensor | None = None) -> Tensor:
    """log(1 + exp(z)), exact in float64 too (threshold 40); written to `out` where one is given.

    torch's public function takes no `out`: without the private one a buffer more is made.
    """
    if _softplus is None:
        result = F.softplus(z, threshold=40.0)
        return result if out is None else out.copy_(result)
    softened: Tensor = _softplus(z, 1, 40) if out is None else _softplus(z, 1, 40, out=out)
    return softened
