"""Slow, obvious float64 versions of every loss and law: loops over samples and classes, nothing clever."""

import functools

import torch
from torch import Tensor


def softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, torch.zeros_like(z))


def adjustable(loss):
    @functools.wraps(loss)
    def adjusted(logits, target, *, logit_adjustment=0.0, **options):
        return loss(logits + logit_adjustment, target, **options)

    return adjusted


@adjustable
def softmax(logits, target, *, class_weights=None, label_smoothing=0.0, normalization="weights", **rest):
    samples, weights = [], []
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        log_p = z - torch.logsumexp(z, 0)
        w = class_weights[y] if class_weights is not None else torch.ones_like(z[0])
        smooth = sum(log_p) / len(z) if label_smoothing else 0.0
        samples.append(-w * ((1 - label_smoothing) * log_p[y] + label_smoothing * smooth))
        weights.append(w)
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def logistic(
    logits, target, *, output_weights=None, pos_weight=None, class_weights=None, normalization="count", **rest
):
    samples, weights = [], []
    outputs = logits.shape[1]
    one = torch.ones(max(outputs, 2), dtype=logits.dtype)
    v, u, c = (one if w is None else w for w in (output_weights, pos_weight, class_weights))
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        total = torch.zeros_like(z[0])
        for j in range(outputs):
            positive = y == 1 if outputs == 1 else y == j
            total = total + v[j] * (u[j] * softplus(-z[j]) if positive else softplus(z[j]))
        samples.append(c[y] * total)
        weights.append(c[y])
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def focal(logits, target, *, gamma=2.0, link="softmax", class_weights=None, normalization="count", **rest):
    samples, weights = [], []
    outputs = logits.shape[1]
    one = torch.ones(max(outputs, 2), dtype=logits.dtype)
    c, u, v = (
        one if w is None else w for w in (class_weights, rest.get("pos_weight"), rest.get("output_weights"))
    )
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        if link == "softmax":
            log_p = z - torch.logsumexp(z, 0)
            others = torch.cat([z[:y], z[y + 1 :]])
            log_miss = torch.logsumexp(others, 0) - torch.logsumexp(z, 0) if len(others) else z[0] * 0 - torch.inf
            total = -torch.exp(gamma * log_miss) * log_p[y] if len(others) else z[0] * 0
        else:
            total = torch.zeros_like(z[0])
            for j in range(outputs):
                positive = y == 1 if outputs == 1 else y == j
                s = z[j] if positive else -z[j]
                total = total + v[j] * (u[j] if positive else 1) * torch.exp(-gamma * softplus(s)) * softplus(-s)
        samples.append(c[y] * total)
        weights.append(c[y])
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def class_smoothing(logits, target, *, class_smoothing=None, class_weights=None, normalization="count", **rest):
    samples, weights = [], []
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        log_p = z - torch.logsumexp(z, 0)
        c = class_weights[y] if class_weights is not None else torch.ones_like(z[0])
        e = 0.0 if class_smoothing is None else class_smoothing[y]
        samples.append(-c * ((1 - e) * log_p[y] + (sum(e * x / len(z) for x in log_p) if e else 0.0)))
        weights.append(c)
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def poly1(logits, target, *, epsilon=1.0, class_weights=None, normalization="count", **rest):
    samples, weights = [], []
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        p = torch.softmax(z, 0)
        others = torch.cat([p[:y], p[y + 1 :]]).sum()
        c = class_weights[y] if class_weights is not None else torch.ones_like(z[0])
        samples.append(
            c * (epsilon * others - (torch.log1p(-others) if others < 0.5 else torch.log_softmax(z, 0)[y]))
        )
        weights.append(c)
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def asymmetric(
    logits, target, *, gamma_pos=1.0, gamma_neg=4.0, clip=0.05, class_weights=None, normalization="count", **rest
):
    samples, weights = [], []
    outputs = logits.shape[1]
    one = torch.ones(max(outputs, 2), dtype=logits.dtype)
    c, u, v = (
        one if w is None else w for w in (class_weights, rest.get("pos_weight"), rest.get("output_weights"))
    )
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        total = torch.zeros_like(z[0])
        for j in range(outputs):
            p, miss = torch.sigmoid(z[j]), torch.sigmoid(-z[j])
            if y == 1 if outputs == 1 else y == j:
                total = total + v[j] * u[j] * miss**gamma_pos * softplus(-z[j])
            elif p > clip:
                q = p - clip if z[j] < 0 else 1 - miss - clip
                total = total + v[j] * q**gamma_neg * (-torch.log(miss + clip) if clip else softplus(z[j]))
        samples.append(c[y] * total)
        weights.append(c[y])
    return mean_of_samples(samples, weights, logits, normalization, rest.get("reduction", "mean"))


@adjustable
def margin_softmax(logits, target, *, scale=1.0, **rest):
    samples, weights = [], []
    one = torch.ones(logits.shape[1], dtype=logits.dtype)
    vectors = (rest.get(key) for key in ("class_weights", "logit_factors", "confidence_margins"))
    c, d, rho = (one if given is None else given for given in vectors)
    m = rest.get("margins")
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        own = scale * (d[y] * z[y] - (0.0 if m is None else m[y]))
        others = [(scale * d[j] * z[j] - own) / rho[y] for j in range(len(z)) if j != y]
        samples.append(c[y] * softplus(torch.logsumexp(torch.stack(others), 0)) if others else z[0] * 0)
        weights.append(c[y])
    return mean_of_samples(
        samples, weights, logits, rest.get("normalization", "weights"), rest.get("reduction", "mean")
    )


@adjustable
def seesaw(
    logits, target, *, class_counts=None, mitigation=0.8, compensation=2.0, floor=1e-2, class_weights=None, **rest
):
    samples, weights = [], []
    one = torch.ones(logits.shape[1], dtype=logits.dtype)
    c, n = (one if class_weights is None else class_weights), (one if class_counts is None else class_counts)
    n = n.clamp(min=1)
    for z, y in zip(logits, target.tolist(), strict=True):
        if y == rest.get("ignore_index", -100):
            continue
        sigma = torch.softmax(z.detach(), 0)
        terms = []
        for j in range(len(z)):
            if j != y:
                M = (n[j] / n[y]) ** mitigation if n[j] < n[y] else one[0]
                log_C = compensation * (torch.log_softmax(z.detach(), 0)[j] - sigma[y].clamp(min=floor).log())
                terms.append(z[j] + M.log() + log_C.clamp(min=0))
        samples.append(c[y] * softplus(torch.logsumexp(torch.stack(terms), 0) - z[y]) if terms else z[0] * 0)
        weights.append(c[y])
    return mean_of_samples(
        samples, weights, logits, rest.get("normalization", "count"), rest.get("reduction", "mean")
    )


def eqlv2(logits, target, *, gradient_ratio=None, gamma=12.0, mu=0.8, alpha=4.0, pos_weight=None, **rest):
    one = torch.ones(logits.shape[1], dtype=logits.dtype)
    r = one if gradient_ratio is None else 1 / (1 + torch.exp(-gamma * (gradient_ratio - mu)))
    q = (1 + alpha * (1 - r)) * (one if pos_weight is None else pos_weight)
    v = rest.pop("output_weights", None)
    return logistic(logits, target, output_weights=r * (one if v is None else v), pos_weight=q / r, **rest)


def mean_of_samples(samples, weights, logits, normalization, reduction):
    if not samples:
        return logits.sum() * 0
    if reduction == "none":
        return torch.stack(samples)
    total = torch.stack(samples).sum()
    if reduction == "sum" or normalization == "none":
        return total
    denominator = torch.stack(weights).sum() if normalization == "weights" else len(samples)
    return total / denominator


@adjustable
def lgl_inr(logits, target, *, beta=1.0, detach_weights=False, output_weights=None, pos_weight=None, **rest):
    labels, num_classes = target.tolist(), logits.shape[1]
    rows = {k: [i for i, y in enumerate(labels) if y == k] for k in range(num_classes)}
    rows = {k: v for k, v in rows.items() if v}
    probabilities = {k: torch.sigmoid(logits[v]).mean(0).unbind() for k, v in rows.items()}
    pushes = {k: softplus(logits[v]).mean(0).unbind() for k, v in rows.items()}
    columns = []
    for j in range(num_classes):
        loss = torch.zeros_like(logits[:0].sum())
        if j in rows:
            pull = softplus(-logits[rows[j], j]).mean()
            loss = loss + (pull if pos_weight is None else pull * pos_weight[j])
        others = [k for k in rows if k != j]
        if others:
            P = torch.stack([probabilities[k][j] for k in others])
            A = torch.stack([pushes[k][j] for k in others])
            omega = torch.softmax(beta * P, 0)
            loss = loss + ((omega.detach() if detach_weights else omega) * A).sum()
        columns.append(loss if output_weights is None else loss * output_weights[j])
    columns = torch.stack(columns) + logits.sum(0) * 0 if not rows else torch.stack(columns)
    reduction = rest.get("reduction", "mean")
    return columns if reduction == "none" else columns.sum() if reduction == "sum" else columns.mean()


ORACLES = {
    "asymmetric": asymmetric,
    "class-smoothing": class_smoothing,
    "poly1": poly1,
    "focal": focal,
    "softmax": softmax,
    "logistic": logistic,
    "lgl-inr": lgl_inr,
    "eqlv2": eqlv2,
    "margin-softmax": margin_softmax,
    "seesaw": seesaw,
}
