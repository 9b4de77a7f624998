"""Logits and features of a trained network."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits (N, K), float32 on the CPU, of inputs (N, ...), in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).float().cpu() for part in inputs.split(at_once(inputs))])


def at_once(inputs: Tensor) -> int:
    """Return how many inputs an evaluation takes at a time: a thousand small ones."""
    return min(1024, max(16, 2**22 // inputs[0].numel()))


@torch.no_grad()
def predict_features(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the features (N, D), float32 on the CPU, of inputs (N, ...): what the network's head multiplies."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network.forward_features(part.to(device)) for part in inputs.split(at_once(inputs))]  # type: ignore[operator]
    return torch.cat([part.float().cpu() for part in parts])
