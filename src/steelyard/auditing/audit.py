"""All the laws for one model: is it where its loss should have left it, and if not, where is it?"""

from collections.abc import Sequence

import torch

from steelyard._common.checks import Vector, check_number, check_vector
from steelyard.auditing.gather import Evidence, Rows, Values, as_tensor
from steelyard.auditing.hypotheses import Scales
from steelyard.auditing.outputs import audit_outputs
from steelyard.auditing.report import AuditReport
from steelyard.auditing.stated import SetupOrLoss


def audit(
    logits: Rows,
    target: Rows,
    setup: SetupOrLoss,
    *,
    class_counts: Vector | None = None,
    class_names: Sequence[str] | None = None,
    values: Values = "logits",
    class_dim: int = 1,
    drop_invalid: bool = False,
    tolerance: float = 1e-9,
) -> AuditReport:
    r"""Return an audit: what is said of a model's training, weighed against what the model does.

    The law of the stated loss is one hypothesis; that the weights were never applied, applied twice, applied in
    another order, or that the loss was another, are others. Each has a misfit,
    :math:`\sum_j |\text{pull}_j - \text{push}_j| / \sum_j (\text{pull}_j + \text{push}_j)`, and the model tells
    which it fits. What is used of the weights is their total effect
    :math:`w_k s_k e^{t_k}`: class weights, sampler, and a shift of the logits after training.

    Args:
        logits: (N, K) or (N, K, d1, ...) of the samples that the model was trained on; (N, 1) or (N,) for one
            binary output. A tensor, an array or a sequence.
        target: (N,) or (N, d1, ...) labels from 0 to K - 1; 0 and 1 of any dtype for one output; (N, K) multi-hot
            for a loss of outputs that stand for themselves, such as ``torch.nn.BCEWithLogitsLoss``. -100, or what
            the loss ignores, is left out.
        setup: what was done in training: a :class:`~steelyard.TrainingSetup`, or only its loss: a loss object of
            ours or of torch, a name, or a function of logits and target that gives the loss of each sample. One
            binary output is audited as the softmax of (0, z), which it is.
        class_counts: (K,) training samples of each class. Default: what the setup says, else those of ``target``,
            which is right for the training set; needed for any other.
        class_names: K, for the words. Default: what the setup says, else "class 0" and so on.
        values: ``"probabilities"`` where they are given in place of logits. Rows then sum to 1 up to half a unit
            of the last decimal that the numbers show, times the classes: at least 0.001, at most 0.1.
        class_dim: dimension of the classes in the logits: 1, or -1 for libraries that keep them last.
        drop_invalid: leave rows with NaN or infinite numbers out instead of refusing them.
        tolerance: mean probabilities up to this count as no confusion when groups of classes are formed.

    Returns:
        The report. Intervals are 95%, from the delete-a-group jackknife over samples (up to 1500 classes): how far
        another sample of the same network would lie, not another training.

    Raises:
        TypeError, ValueError: an argument of another type, shape or value than described, or rows that cannot be
            audited.

    Source:
        Laws: Li, Li, Pan, Zhu, AAAI 2020; for losses other than softmax and logistic derived for this project. The
        audit is this project's; its thresholds were set on small networks trained on digits with planted faults.

    Example:
        >>> target = torch.arange(300) % 3
        >>> logits = torch.eye(3)[target] + torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
        >>> report = audit(logits, target, "softmax")
        >>> report.faults, report.residual.misfit < 0.05
        ((), True)
    """
    z, y = as_tensor("logits", logits), as_tensor("target", target)
    if z.dim() == 0 or y.dim() == 0 or len(z) != len(y):
        lengths = " and ".join(str(len(x)) if x.dim() else "a single number" for x in (z, y))
        raise ValueError(f"logits and target must be of the same length, got {lengths}")
    columns = 1 if z.dim() == 1 else z.shape[class_dim if class_dim in (1, -1) else 1]
    evidence = Evidence(columns, setup, values=values, class_dim=class_dim, drop_invalid=drop_invalid)
    evidence.update(z, y)
    return audit_evidence(evidence, class_counts=class_counts, class_names=class_names, tolerance=tolerance)


def audit_evidence(
    evidence: Evidence,
    *,
    class_counts: Vector | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: float = 1e-9,
) -> AuditReport:
    """Return the audit of samples gathered in a stream; arguments and errors are those of :func:`audit`."""
    evidence.check()
    size, setup = evidence.num_classes, evidence.stated.setup
    class_names = setup.class_names if class_names is None else class_names
    names = tuple(class_names) if class_names is not None else tuple(f"class {k}" for k in range(size))
    if len(names) != size:
        raise ValueError(f"class_names must be {size} names, got {len(names)}")
    tolerance = check_number("tolerance", tolerance, low=0, high=1)
    given = setup.class_counts
    if class_counts is not None:
        given = check_vector("class_counts", class_counts, size, low=0, class_names=class_names)
    if evidence.stated.several:
        return audit_outputs(evidence, given, names)
    seen = evidence.metric.class_counts
    counts = seen.double()
    if given is not None:  # classes without samples here are not observed, whatever training had
        counts = torch.where(seen == 0, 0.0, given)
        if float(counts.sum()) == 0:
            raise ValueError("class_counts must have samples of the classes that target has, got none")
    return Scales(evidence, counts, names, tolerance, given).report()
