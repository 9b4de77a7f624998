"""What class weights and label smoothing make of targets: a soft target is a mixture of samples of its classes."""

from torch import Tensor

from steelyard.losses.options import Link
from steelyard.targets import Targets


def sample_weights(targets: Targets, class_weights: Tensor | None) -> Tensor | None:
    """Return what each sample weighs by its class, (M,)."""
    if class_weights is None:
        return None
    if targets.labels is not None:
        return class_weights[targets.labels]
    assert targets.dense is not None
    if targets.dense.shape[1] == 1:  # one binary output: two classes
        return class_weights[0] + targets.dense[:, 0] * (class_weights[1] - class_weights[0])
    return targets.dense @ class_weights


def mixed(targets: Targets, class_weights: Tensor | None, smoothing: float, link: Link) -> Targets:
    """Return dense targets with smoothing and class weights in them: a soft target mixes samples of its
    classes."""
    T = targets.dense
    assert T is not None
    if link == "softmax":
        T = T if class_weights is None else T * class_weights
        if smoothing:
            T = (1 - smoothing) * T + smoothing / T.shape[1] * T.sum(1, keepdim=True)
        return targets._replace(dense=T)
    others = 1 - T
    if class_weights is not None:  # before smoothing: a sample's weight multiplies its whole loss
        T, others = T * class_weights[1], others * class_weights[0]
    if smoothing:
        half = smoothing / 2
        T, others = (1 - half) * T + half * others, (1 - half) * others + half * T
    if targets.ignored is not None:
        T, others = T.masked_fill(targets.ignored, 0.0), others.masked_fill(targets.ignored, 0.0)
    return targets._replace(dense=T, others=others)
