"""What torch's tracers ask of the losses: tensors without values, and graphs of standard operations."""

import torch
from torch import Tensor

from steelyard._common.private_torch import records


def beside_fake(value: Tensor, beside: Tensor) -> Tensor:
    """Return a tensor that a module holds as a FakeTensor where the one beside it is one, else as it is.

    Under make_fx it stays: a tensor that the graph did not see made would become a constant without values.
    """
    if torch.compiler.is_compiling() or not hasattr(beside, "fake_mode") or records():
        return value
    fake: Tensor = value if hasattr(value, "fake_mode") else beside.fake_mode.from_tensor(value)
    return fake


def exports_to_onnx() -> bool:
    """Return whether this call is traced for ONNX, which has no place for operators of ours."""
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
