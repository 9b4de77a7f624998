"""A linear classifier at the optimum of its loss over all rows, with a penalty on its matrix."""

import torch
from torch import Tensor, nn

from steelyard.notation import LossSpec
from steelyard.training.fitting import Fitted
from steelyard.training.learners.base import Learner, Setting, Task, check_on_cpu, refuse_late_weights
from steelyard.training.networks import Network
from steelyard.training.predicting import predict_features
from steelyard.training.recipe import Diverged

_TOLERANCE = 1e-7  # largest entry of the gradient, of a loss scaled to be at most 1 where the search starts
_MOST_STEPS = 5000


class LinearLearner(Learner):
    r"""A linear classifier, found by L-BFGS in float64 over all rows at once.

    .. math:: \min_{W, b} \; L(W h + b) + \frac{\lambda}{2} \lVert W \rVert^2

    with :math:`L` any registered loss, LGL-INR over all rows too, and :math:`\lambda` tuned. The bias
    has no penalty, so the balance law of the loss holds at the optimum. Nothing is random.
    """

    name = "linear"
    tuned = "penalty"
    settings = ("penalties",)
    has_decay = True

    def check(self, spec: LossSpec) -> None:
        """Refuse what is of epochs and batches, and what has no value to search along."""
        refuse_late_weights(self.name, spec)
        if spec.entry.constant_factors:
            raise ValueError(
                f"learner {self.name} needs a loss whose gradient is that of its value, got {spec.label!r}"
            )

    def check_inputs(self, inputs: Tensor, num_classes: int, setting: Setting) -> None:
        """Accept images too: a row is then all pixels."""
        check_on_cpu(self.name, setting)

    def fit(self, task: Task, setting: Setting) -> Fitted:
        """Return the classifier as a network without hidden layer; its features are the inputs."""
        inputs, target = task.train
        size = len(task.class_counts)
        loss = task.spec.loss(task.class_counts, len(target))
        network = Network(inputs, size, nn.Flatten(), inputs[0].numel()).eval()
        weight, bias = minimise(loss, predict_features(network, inputs), target, size, penalty=task.rate)
        with torch.no_grad():
            network.head.weight.copy_(weight)
            network.head.bias.copy_(bias)
        return Fitted(network, [])

    def words(self, setting: Setting) -> str:
        """Return how the optimum is found."""
        return "a linear classifier, to the optimum of the loss over all training rows"


def minimise(
    loss: nn.Module, features: Tensor, target: Tensor, size: int, *, penalty: float
) -> tuple[Tensor, Tensor]:
    """Return the matrix (K, D) and the bias (K,), float64, at which loss and penalty are least.

    Raises:
        Diverged: the gradient did not come near 0.
    """
    h = features.double()
    centre = h.mean(0)
    h = h - centre  # the bias then hardly depends on the matrix
    weight = torch.zeros(size, h.shape[1], dtype=h.dtype, requires_grad=True)
    bias = torch.zeros(size, dtype=h.dtype, requires_grad=True)
    with torch.no_grad():
        scale = max(1.0, float(loss(h @ weight.T + bias, target)))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MOST_STEPS,
        history_size=50,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss(h @ weight.T + bias, target) / scale
        value = value + penalty / (2 * scale) * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        closure()
    assert weight.grad is not None
    assert bias.grad is not None
    reached = float(max(weight.grad.abs().max(), bias.grad.abs().max()))
    if not reached <= 1e-5:  # NaN too
        raise Diverged(f"no optimum was found at penalty {penalty:g}: the gradient is {reached:.2g}")
    weight, bias = weight.detach(), bias.detach()
    return weight, bias - weight @ centre
