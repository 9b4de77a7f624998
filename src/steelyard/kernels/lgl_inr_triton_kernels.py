"""The device code of `lgl_inr_triton`, which says what it computes. Importing this module imports triton.

All programs own BLOCK_J columns and walk over rows, BLOCK_N at a time. The batch comes sorted by label in `plan`,
one int32 tensor: the number of classes with several rows, that of classes present, the number of rows that count;
then for each of S segments its start, its row count and its label, classes with several rows first, then those
of one row, then empty ones; then the N rows in sorted order, those that do not count last.

The K columns of z are those of the classes from `first` on. Vectors of columns start with z's first column.
"""

import triton
import triton.language as tl


@triton.jit
def _terms(z, own):
    """sigmoid(s), sigmoid(-s) and softplus(s) of s = -z for a row's own column and z elsewhere.

    One exponential and one division: special functions, not bandwidth, bind this loop. Hence log(1 + t) on
    [0, 1] as t + t^2 q(t), where q interpolates (log(1 + t) - t) / t^2 at nine Chebyshev nodes: relative error
    below 2e-7 at any t, which log(1 + t) itself in float32 does not give at small t.
    """
    s = tl.where(own, -z, z)
    t = tl.exp(-tl.abs(s))
    inverse = 1.0 / (1.0 + t)
    q = -4.466211601265708e-3
    q = q * t + 2.522405434666260e-2
    q = q * t - 6.675772506317361e-2
    q = q * t + 1.156184544646635e-1
    q = q * t - 1.584756572045947e-1
    q = q * t + 1.985410623120243e-1
    q = q * t - 2.498652616818728e-1
    q = q * t + 3.333284188737135e-1
    q = q * t - 4.999999698308403e-1
    softplus = tl.maximum(s, 0.0) + (t + t * (t * q))
    return tl.where(s >= 0, 1.0, t) * inverse, tl.where(s >= 0, t, 1.0) * inverse, softplus


@triton.jit
def _load(z, stride, bias, rows, in_rows, cols, in_cols):
    """float32 of z[rows, cols], plus the bias of the columns if any; offsets in int64, as N K may pass 2^31."""
    at = rows.to(tl.int64)[:, None] * stride + cols[None, :]
    value = tl.load(z + at, mask=in_rows[:, None] & in_cols[None, :], other=0.0).to(tl.float32)
    if bias is not None:
        value += bias[None, :]
    return value


@triton.jit
def _class_means(
    z, stride, bias, rows_of_class, n, own, cols, in_cols, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr
):
    """Means of sigmoid and softplus over the n rows of one class, (BLOCK_J,) each."""
    p_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    a_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    for i in range(0, n, BLOCK_N):
        at = i + tl.arange(0, BLOCK_N)
        in_rows = at < n
        rows = tl.load(rows_of_class + at, mask=in_rows, other=0)
        p, _, a = _terms(_load(z, stride, bias, rows, in_rows, cols, in_cols), own[None, :])
        p_sum += tl.where(in_rows[:, None], p, 0.0)
        a_sum += tl.where(in_rows[:, None], a, 0.0)
    count = n.to(tl.float32)
    return tl.sum(p_sum, 0) / count, tl.sum(a_sum, 0) / count


# `first` changes from launch to launch and nothing is gained by knowing it.
@triton.jit(do_not_specialize=["first"])
def statistics(
    z, stride, bias, plan, partial, N, K, S, first, beta, shift, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr
):
    """Sums over this program's share of the classes, into partial (splits, 3, K): of e = exp(beta P - shift) and
    of e A over the column's negative classes, and the mean of softplus(-z) over its own."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K
    names = first + cols  # of their classes
    if bias is not None:
        bias = tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    several = tl.load(plan)
    present = tl.load(plan + 1)
    starts = plan + 3
    counts = starts + S
    labels = counts + S
    order = labels + S

    # Classes of one row: each row of a tile is a class, so nothing waits for the end of a class.
    total = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    weighted = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    positive = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    for start in range(several + split * BLOCK_N, present, splits * BLOCK_N):
        segment = start + tl.arange(0, BLOCK_N)
        in_rows = segment < present
        rows = tl.load(order + tl.load(starts + segment, mask=in_rows, other=0), mask=in_rows, other=0)
        own = names[None, :] == tl.load(labels + segment, mask=in_rows, other=-1)[:, None]
        p, _, a = _terms(_load(z, stride, bias, rows, in_rows, cols, in_cols), own)
        # Zeroed twice: a logit of -inf in its own column has a = inf, and 0 inf is not 0.
        e = tl.where(in_rows[:, None] & ~own, tl.exp(beta * p - shift), 0.0)
        total += e
        weighted += e * tl.where(own, 0.0, a)
        positive += tl.where(own, a, 0.0)
    total_j = tl.sum(total, 0)
    weighted_j = tl.sum(weighted, 0)
    positive_j = tl.sum(positive, 0)

    for segment in range(split, several, splits):
        own = names == tl.load(labels + segment)
        P, A = _class_means(
            z,
            stride,
            bias,
            order + tl.load(starts + segment),
            tl.load(counts + segment),
            own,
            cols,
            in_cols,
            BLOCK_N,
            BLOCK_J,
        )
        e = tl.where(own, 0.0, tl.exp(beta * P - shift))
        total_j += e
        weighted_j += e * tl.where(own, 0.0, A)
        positive_j += tl.where(own, A, 0.0)

    at = partial + split.to(tl.int64) * 3 * K + cols
    tl.store(at, total_j, mask=in_cols)
    tl.store(at + K, weighted_j, mask=in_cols)
    tl.store(at + 2 * K, positive_j, mask=in_cols)


@triton.jit
def finish(partial, splits, pos_weight, loss, total, average, K, BLOCK_J: tl.constexpr):
    """Add the shares up: D = sum e, Abar = sum e A / D, and the column's loss."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K
    D = tl.zeros((BLOCK_J,), tl.float32)
    T = tl.zeros((BLOCK_J,), tl.float32)
    L = tl.zeros((BLOCK_J,), tl.float32)
    for _ in range(splits):
        D += tl.load(partial + cols, mask=in_cols, other=0.0)
        T += tl.load(partial + K + cols, mask=in_cols, other=0.0)
        L += tl.load(partial + 2 * K + cols, mask=in_cols, other=0.0)
        partial += 3 * K
    # D = 0 exactly where the batch holds no negative of the column; NaN stays NaN.
    A = tl.where(D == 0, 0.0, T / tl.where(D == 0, 1.0, D))
    if pos_weight is not None:
        L *= tl.load(pos_weight + cols, mask=in_cols, other=0.0)
    tl.store(total + cols, D, mask=in_cols)
    tl.store(average + cols, A, mask=in_cols)
    tl.store(loss + cols, L + A, mask=in_cols)


@triton.jit
def _store_gradient(grad, rows, in_rows, cols, in_cols, K, g):
    at = rows.to(tl.int64)[:, None] * K + cols[None, :]
    tl.store(grad + at, g.to(grad.dtype.element_ty), mask=in_rows[:, None] & in_cols[None, :])


@triton.jit(do_not_specialize=["first"])
def gradient(
    z,
    stride,
    bias,
    plan,
    grad_loss,
    pos_weight,
    total,
    average,
    grad,
    N,
    K,
    S,
    first,
    beta,
    shift,
    DETACH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """grad (N, K) of the column losses times grad_loss, over this program's share of the classes."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K
    names = first + cols  # of their classes
    if bias is not None:
        bias = tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    several = tl.load(plan)
    present = tl.load(plan + 1)
    counted = tl.load(plan + 2)
    starts = plan + 3
    counts = starts + S
    labels = counts + S
    order = labels + S

    upstream = tl.load(grad_loss + cols, mask=in_cols, other=0.0)
    D = tl.load(total + cols, mask=in_cols, other=1.0)
    Abar = tl.load(average + cols, mask=in_cols, other=0.0)
    push = tl.where(D == 0, 0.0, upstream / tl.where(D == 0, 1.0, D))
    pull = -upstream
    if pos_weight is not None:
        pull *= tl.load(pos_weight + cols, mask=in_cols, other=0.0)

    for start in range(several + split * BLOCK_N, present, splits * BLOCK_N):  # classes of one row
        segment = start + tl.arange(0, BLOCK_N)
        in_rows = segment < present
        rows = tl.load(order + tl.load(starts + segment, mask=in_rows, other=0), mask=in_rows, other=0)
        own = names[None, :] == tl.load(labels + segment, mask=in_rows, other=-1)[:, None]
        p, q, a = _terms(_load(z, stride, bias, rows, in_rows, cols, in_cols), own)
        g = push[None, :] * tl.exp(beta * p - shift) * p
        if not DETACH:
            g *= 1.0 + tl.where(own, 0.0, beta * (a - Abar[None, :])) * q
        g = tl.where(own, pull[None, :] * p, g)
        _store_gradient(grad, rows, in_rows, cols, in_cols, K, g)

    for segment in range(split, several, splits):
        n = tl.load(counts + segment)
        rows_of_class = order + tl.load(starts + segment)
        own = names == tl.load(labels + segment)
        P, A = _class_means(z, stride, bias, rows_of_class, n, own, cols, in_cols, BLOCK_N, BLOCK_J)
        scale = tl.where(own, pull, push * tl.exp(beta * P - shift)) / n.to(tl.float32)
        b = tl.where(own, 0.0, beta * (A - Abar))
        for i in range(0, n, BLOCK_N):  # the rows again: the tile was just read, so it comes from the cache
            at = i + tl.arange(0, BLOCK_N)
            in_rows = at < n
            rows = tl.load(rows_of_class + at, mask=in_rows, other=0)
            p, q, _ = _terms(_load(z, stride, bias, rows, in_rows, cols, in_cols), own[None, :])
            g = scale[None, :] * p
            if not DETACH:
                g *= 1.0 + b[None, :] * q
            _store_gradient(grad, rows, in_rows, cols, in_cols, K, g)

    for start in range(counted + split * BLOCK_N, N, splits * BLOCK_N):  # rows that count for nothing
        at = start + tl.arange(0, BLOCK_N)
        in_rows = at < N
        rows = tl.load(order + at, mask=in_rows, other=0)
        _store_gradient(grad, rows, in_rows, cols, in_cols, K, tl.zeros((BLOCK_N, BLOCK_J), tl.float32))


# TRITON_INTERPRET was set before the import: tensors of the CPU will do.
INTERPRETED = not isinstance(statistics, triton.JITFunction)
