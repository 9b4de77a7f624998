"""The device code of `lgl_inr_triton`, which says what it computes. Importing this module imports triton.

All programs own BLOCK_J columns and walk over rows: over those of one class BLOCK_N at a time, over classes of one
row BLOCK_S at a time. The batch comes sorted by label in `plan`, one int32 tensor:

- five numbers: of long classes, which have more than RUN rows; of classes with several rows, long ones included;
  of classes present; of rows that count; of runs, the pieces of at most RUN rows that long classes are cut into;
- the start, the row count and the label of each of S segments: long classes, then the others of several rows,
  then those of one row, then empty ones;
- the first row of each segment: of a class of one row, the row;
- the first run of each of the L segments that may be long, and for each of at most M runs its segment;
- the N rows in sorted order, those that do not count last.

The K columns of z are those of the classes from `first` on. Vectors of columns start with z's first column. VEC
divides K and the stride of z: arithmetic says so, and so the compiler learns that it may load so many at once, and
no more, which would take registers.

Most tiles of classes of one row hold no row in its own column and lack none: what is not there is not looked for,
which saves 30% of the instructions forward and 16% backward. P of a class is kept as P - 1/2: exp(beta P) needs no
more digits, and for classes of one row the sigmoid's two branches become a sign.

Sums over many classes of few rows are taken in stretches of _STRETCH terms a lane, and these added up; those over
many runs and over the shares of programs, in float64, which would take too many registers where logits are read.
"""

import triton
import triton.language as tl

HEAD = tl.constexpr(5)  # numbers in front of a plan
RUN = tl.constexpr(1024)
_STRETCH = tl.constexpr(32)


@triton.jit
def _exp2(x):
    """2^x, 0 instead of a subnormal number: triton's own spends three more instructions on those."""
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _reciprocal(x):
    """1 / x of numbers from 1 to 2: a division spends three more instructions on very large and small ones."""
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _terms(s):
    """t = exp(-|s|), 1 / (1 + t), which is the larger of sigmoid(s) and sigmoid(-s), and softplus(s).

    One exponential and one division, and log(1 + t) on [0, 1] as t r(t), where r is the polynomial of degree 8,
    r(0) = 1, of least relative error, 3e-8; with rounding it stays below 2.5e-7 at any t, which log(1 + t) itself
    in float32 does not give at small t.
    """
    t = _exp2(tl.abs(s) * -1.4426950408889634)  # log2(e)
    r = 5.36481901691252e-3
    r = r * t - 3.006577253211882e-2
    r = r * t + 7.920450593250887e-2
    r = r * t - 1.375380004886992e-1
    r = r * t + 1.915365397110934e-1
    r = r * t - 2.485716345004408e-1
    r = r * t + 3.332132259502222e-1
    r = r * t - 4.99996479626613e-1
    r = r * t + 1.0
    return t, _reciprocal(1.0 + t), t * r + tl.maximum(s, 0.0)


@triton.jit
def _off_half(s, larger):
    """sigmoid(s) - 1/2, given the larger of sigmoid(s) and sigmoid(-s)."""
    sign = s.to(tl.int32, bitcast=True) & -0x80000000
    return ((larger - 0.5).to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def _sigmoids(s, t, larger):
    """sigmoid(s) and sigmoid(-s), to all their digits where they are small."""
    smaller = t * larger
    return tl.where(s >= 0, larger, smaller), tl.where(s >= 0, smaller, larger)


@triton.jit
def _exponent(beta, shift):
    """a and b of exp(beta P - shift) = 2^(a (P - 1/2) + b)."""
    return beta * 1.4426950408889634, (beta * 0.5 - shift) * 1.4426950408889634


@triton.jit
def _offsets(rows, stride, cols, VEC: tl.constexpr):
    """Of a tile's elements, in int64, as N K may pass 2^31."""
    return rows.to(tl.int64)[:, None] * (stride // VEC) * VEC + cols[None, :]


@triton.jit
def _load(z, stride, bias, rows, in_rows, cols, in_cols, VEC: tl.constexpr):
    """float32 of z[rows, cols], plus the bias of the columns if any. No `in_rows`: all is there, columns too."""
    at = _offsets(rows, stride, cols, VEC)
    if in_rows is None:
        value = tl.load(z + at).to(tl.float32)
    else:
        value = tl.load(z + at, mask=in_rows[:, None] & in_cols[None, :], other=0.0).to(tl.float32)
    if bias is not None:
        value += bias[None, :]
    return value


@triton.jit
def _strangers(labels, start, present, first, K, BLOCK_S: tl.constexpr, BLOCK_J: tl.constexpr):
    """Whether the tile of the BLOCK_S classes of one row from `start` on is full, columns too, and holds no row in
    its own column."""
    left = tl.program_id(0) * BLOCK_J
    least = tl.load(labels + start)  # labels ascend
    most = tl.load(labels + tl.minimum(start + BLOCK_S, present) - 1)
    apart = (least >= first + left + BLOCK_J) | (most < first + left)
    return (start + BLOCK_S <= present) & (left + BLOCK_J <= K) & apart


@triton.jit
def _singles(z, stride, bias, first_rows, labels, segment, present, names, cols, in_cols, VEC: tl.constexpr):
    """Of any tile of one-row classes: the rows, which of them are there, which elements are in their own column,
    and the logits, negated there."""
    in_rows = segment < present
    rows = tl.load(first_rows + segment, mask=in_rows, other=0)
    own = names[None, :] == tl.load(labels + segment, mask=in_rows, other=-1)[:, None]
    s = _load(z, stride, bias, rows, in_rows, cols, in_cols, VEC)
    return rows, in_rows, own, tl.where(own, -s, s)


@triton.jit
def _sections(plan, S, L, M):
    """Where the parts of the plan begin: of each segment its start, count, label and first row; first runs, the
    segments of runs, and the order of rows."""
    starts = plan + HEAD
    first_run = starts + 4 * S
    return starts, starts + S, starts + 2 * S, starts + 3 * S, first_run, first_run + L, first_run + L + M


@triton.jit
def _run(run, starts, counts, first_run, segment_of_run):
    """The segment of a run, the place of its first row in the order, and its number of rows."""
    segment = tl.load(segment_of_run + run)
    skipped = (run - tl.load(first_run + segment)) * RUN
    return segment, tl.load(starts + segment) + skipped, tl.minimum(tl.load(counts + segment) - skipped, RUN)


@triton.jit
def _sums(
    z,
    stride,
    bias,
    order,
    n,
    own,
    cols,
    in_cols,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Sums of sigmoid - 1/2 and of softplus over the n rows that `order` lists, (BLOCK_J,) each."""
    p_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    a_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
    for i in range(0, n, BLOCK_N):
        at = i + tl.arange(0, BLOCK_N)
        in_rows = at < n
        rows = tl.load(order + at, mask=in_rows, other=0)
        s = _load(z, stride, bias, rows, in_rows, cols, in_cols, VEC)
        s = tl.where(own[None, :], -s, s)
        t, larger, a = _terms(s)
        p, _q = _sigmoids(s, t, larger)  # a sum of p - 1/2 would lose digits where p is small
        p_sum += tl.where(in_rows[:, None], p, 0.0)
        a_sum += tl.where(in_rows[:, None], a, 0.0)
    return tl.sum(p_sum, 0) - 0.5 * n, tl.sum(a_sum, 0)


# `first` changes from launch to launch and nothing is gained by knowing it; VEC tells what is to be known of K and
# the stride.
@triton.jit(do_not_specialize=["first", "K", "stride"])
def runs(
    z,
    stride,
    bias,
    plan,
    run_sums,
    K,
    S,
    L,
    M,
    first,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Sums of sigmoid - 1/2 and of softplus over each run, into run_sums (M, 2, K)."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K // VEC * VEC
    if bias is not None:
        bias = tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)
    starts, counts, labels, _first_rows, first_run, segment_of_run, order = _sections(plan, S, L, M)
    for run in range(tl.program_id(1), tl.load(plan + 4), tl.num_programs(1)):
        segment, start, n = _run(run, starts, counts, first_run, segment_of_run)
        own = first + cols == tl.load(labels + segment)
        p_sum, a_sum = _sums(z, stride, bias, order + start, n, own, cols, in_cols, VEC, BLOCK_N, BLOCK_J)
        at = run_sums + tl.cast(run, tl.int64) * 2 * K + cols
        tl.store(at, p_sum, mask=in_cols)
        tl.store(at + K, a_sum, mask=in_cols)


@triton.jit(do_not_specialize=["K"])
def join(run_sums, plan, means, K, S, L, M, VEC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_J: tl.constexpr):
    """P - 1/2 and A of long classes, means of sigmoid - 1/2 and of softplus, into means (L, 2, K), of the sums of
    their runs."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K // VEC * VEC
    _starts, counts, _labels, _first_rows, first_run, _segment_of_run, _order = _sections(plan, S, L, M)
    for segment in range(tl.program_id(1), tl.load(plan), tl.num_programs(1)):
        n = tl.load(counts + segment)
        run = tl.load(first_run + segment)
        end = run + (n + RUN - 1) // RUN
        p_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float64)
        a_sum = tl.zeros((BLOCK_N, BLOCK_J), tl.float64)
        for i in range(run, end, BLOCK_N):
            of_class = i + tl.arange(0, BLOCK_N)
            mask = (of_class < end)[:, None] & in_cols[None, :]
            at = run_sums + of_class.to(tl.int64)[:, None] * 2 * K + cols[None, :]
            p_sum += tl.load(at, mask=mask, other=0.0).to(tl.float64)
            a_sum += tl.load(at + K, mask=mask, other=0.0).to(tl.float64)
        at = means + tl.cast(segment, tl.int64) * 2 * K + cols
        tl.store(at, (tl.sum(p_sum, 0) / n.to(tl.float64)).to(tl.float32), mask=in_cols)
        tl.store(at + K, (tl.sum(a_sum, 0) / n.to(tl.float64)).to(tl.float32), mask=in_cols)


@triton.jit(do_not_specialize=["first", "K", "stride"])
def statistics(
    z,
    stride,
    bias,
    plan,
    means,
    partial,
    K,
    S,
    L,
    M,
    first,
    beta,
    shift,
    LONG: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Sums over this program's share of the classes, into partial (splits, 3, K): of e = exp(beta P - shift) and
    of e A over the column's negative classes, and the mean of softplus(-z) over its own. LONG says that there may
    be long classes, whose P - 1/2 and A are in means (L, 2, K)."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K // VEC * VEC
    names = first + cols  # of their classes
    if bias is not None:
        bias = tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    starts, counts, labels, first_rows, _first_run, _segment_of_run, order = _sections(plan, S, L, M)
    several = tl.load(plan + 1)
    present = tl.load(plan + 2)
    rate, level = _exponent(beta, shift)
    total_j = tl.zeros((BLOCK_J,), tl.float32)
    weighted_j = tl.zeros((BLOCK_J,), tl.float32)
    positive_j = tl.zeros((BLOCK_J,), tl.float32)  # of one term that is not 0

    # Classes of one row: each row of a tile is a class, so nothing waits for the end of a class.
    step = splits * BLOCK_S
    for stretch in range(several + split * BLOCK_S, present, step * _STRETCH):
        total = tl.zeros((BLOCK_S, BLOCK_J), tl.float32)
        weighted = tl.zeros((BLOCK_S, BLOCK_J), tl.float32)
        for start in range(stretch, tl.minimum(present, stretch + step * _STRETCH), step):
            segment = start + tl.arange(0, BLOCK_S)
            if _strangers(labels, start, present, first, K, BLOCK_S, BLOCK_J):
                s = _load(z, stride, bias, tl.load(first_rows + segment), None, cols, in_cols, VEC)
                _t, larger, a = _terms(s)
                e = _exp2(rate * _off_half(s, larger) + level)
                total += e
                weighted += e * a
            else:
                rows, in_rows, own, s = _singles(
                    z, stride, bias, first_rows, labels, segment, present, names, cols, in_cols, VEC
                )
                _t, larger, a = _terms(s)
                # Added or not, as a product with 0 will not do: a may be infinite.
                pushes = in_rows[:, None] & ~own
                e = _exp2(rate * _off_half(s, larger) + level)
                total += tl.where(pushes, e, 0.0)
                weighted = tl.where(pushes, weighted + e * a, weighted)
                positive_j += tl.sum(tl.where(own, a, 0.0), 0)
        total_j += tl.sum(total, 0)
        weighted_j += tl.sum(weighted, 0)

    short = 0
    if LONG:
        short = tl.load(plan)
    for stretch in range(short + split, several, splits * _STRETCH):
        total = tl.zeros((BLOCK_J,), tl.float32)
        weighted = tl.zeros((BLOCK_J,), tl.float32)
        for segment in range(stretch, tl.minimum(several, stretch + splits * _STRETCH), splits):
            own = names == tl.load(labels + segment)
            rows = order + tl.load(starts + segment)
            n = tl.load(counts + segment)
            p_sum, a_sum = _sums(z, stride, bias, rows, n, own, cols, in_cols, VEC, BLOCK_N, BLOCK_J)
            e = tl.where(own, 0.0, _exp2(rate * (p_sum / n.to(tl.float32)) + level))
            A = a_sum / n.to(tl.float32)
            total += e
            weighted += e * tl.where(own, 0.0, A)
            positive_j += tl.where(own, A, 0.0)
        total_j += total
        weighted_j += weighted

    if LONG:
        for segment in range(split, tl.load(plan), splits):
            own = names == tl.load(labels + segment)
            at = means + tl.cast(segment, tl.int64) * 2 * K + cols
            e = tl.where(own, 0.0, _exp2(rate * tl.load(at, mask=in_cols, other=0.0) + level))
            A = tl.load(at + K, mask=in_cols, other=0.0)
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
    D = tl.zeros((BLOCK_J,), tl.float64)
    T = tl.zeros((BLOCK_J,), tl.float64)
    positive = tl.zeros((BLOCK_J,), tl.float64)
    for _ in range(splits):
        D += tl.load(partial + cols, mask=in_cols, other=0.0).to(tl.float64)
        T += tl.load(partial + K + cols, mask=in_cols, other=0.0).to(tl.float64)
        positive += tl.load(partial + 2 * K + cols, mask=in_cols, other=0.0).to(tl.float64)
        partial += 3 * K
    # D = 0 exactly where the batch holds no negative of the column; NaN stays NaN.
    A = tl.where(D == 0, 0.0, T / tl.where(D == 0, 1.0, D))
    if pos_weight is not None:
        positive *= tl.load(pos_weight + cols, mask=in_cols, other=0.0).to(tl.float64)
    tl.store(total + cols, D.to(tl.float32), mask=in_cols)
    tl.store(average + cols, A.to(tl.float32), mask=in_cols)
    tl.store(loss + cols, (positive + A).to(tl.float32), mask=in_cols)


@triton.jit
def _store_gradient(grad, rows, in_rows, cols, in_cols, K, g, VEC: tl.constexpr):
    at = _offsets(rows, K, cols, VEC)
    if in_rows is None:
        tl.store(grad + at, g.to(grad.dtype.element_ty))
    else:
        tl.store(grad + at, g.to(grad.dtype.element_ty), mask=in_rows[:, None] & in_cols[None, :])


@triton.jit
def _rows_of_class(
    z,
    stride,
    bias,
    order,
    n,
    own,
    cols,
    in_cols,
    scale,
    b,
    grad,
    K,
    DETACH: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The gradient of the n rows that `order` lists, all of one class: scale p (1 + b q)."""
    for i in range(0, n, BLOCK_N):
        at = i + tl.arange(0, BLOCK_N)
        in_rows = at < n
        rows = tl.load(order + at, mask=in_rows, other=0)
        s = _load(z, stride, bias, rows, in_rows, cols, in_cols, VEC)
        s = tl.where(own[None, :], -s, s)
        t, larger, _softplus = _terms(s)
        p, q = _sigmoids(s, t, larger)
        g = scale[None, :] * p
        if not DETACH:
            g *= 1.0 + b[None, :] * q
        _store_gradient(grad, rows, in_rows, cols, in_cols, K, g, VEC)


@triton.jit(do_not_specialize=["first", "K", "stride"])
def gradient(
    z,
    stride,
    bias,
    plan,
    means,
    grad_loss,
    pos_weight,
    total,
    average,
    grad,
    N,
    K,
    S,
    L,
    M,
    first,
    beta,
    shift,
    DETACH: tl.constexpr,
    LONG: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """grad (N, K) of the column losses times grad_loss, over this program's share of classes and of runs."""
    cols = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    in_cols = cols < K // VEC * VEC
    names = first + cols  # of their classes
    if bias is not None:
        bias = tl.load(bias + cols, mask=in_cols, other=0.0).to(tl.float32)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    starts, counts, labels, first_rows, first_run, segment_of_run, order = _sections(plan, S, L, M)
    several = tl.load(plan + 1)
    present = tl.load(plan + 2)
    counted = tl.load(plan + 3)

    rate, level = _exponent(beta, shift)
    upstream = tl.load(grad_loss + cols, mask=in_cols, other=0.0)
    D = tl.load(total + cols, mask=in_cols, other=1.0)
    Abar = tl.load(average + cols, mask=in_cols, other=0.0)
    push = tl.where(D == 0, 0.0, upstream / tl.where(D == 0, 1.0, D))
    pull = -upstream
    if pos_weight is not None:
        pull *= tl.load(pos_weight + cols, mask=in_cols, other=0.0)
    # Spread here: inside the loop this would go through shared memory, tile by tile.
    push_row, pull_row, slope_row = push[None, :], pull[None, :], (beta * Abar)[None, :]

    for start in range(several + split * BLOCK_S, present, splits * BLOCK_S):  # classes of one row
        segment = start + tl.arange(0, BLOCK_S)
        if _strangers(labels, start, present, first, K, BLOCK_S, BLOCK_J):
            rows = tl.load(first_rows + segment)
            s = _load(z, stride, bias, rows, None, cols, in_cols, VEC)
            t, larger, a = _terms(s)
            p, q = _sigmoids(s, t, larger)
            g = _exp2(rate * _off_half(s, larger) + level) * (push_row * p)
            if not DETACH:
                g *= 1.0 + (beta * a - slope_row) * q
            _store_gradient(grad, rows, None, cols, in_cols, K, g, VEC)
        else:
            rows, in_rows, own, s = _singles(
                z, stride, bias, first_rows, labels, segment, present, names, cols, in_cols, VEC
            )
            t, larger, a = _terms(s)
            p, q = _sigmoids(s, t, larger)
            g = _exp2(rate * _off_half(s, larger) + level) * (push_row * p)
            if not DETACH:
                g *= 1.0 + tl.where(own, 0.0, beta * a - slope_row) * q
            g = tl.where(own, pull_row * p, g)
            _store_gradient(grad, rows, in_rows, cols, in_cols, K, g, VEC)

    short = 0
    if LONG:
        short = tl.load(plan)
    for segment in range(short + split, several, splits):
        n = tl.load(counts + segment)
        rows = order + tl.load(starts + segment)
        own = names == tl.load(labels + segment)
        p_sum, a_sum = _sums(z, stride, bias, rows, n, own, cols, in_cols, VEC, BLOCK_N, BLOCK_J)
        number = n.to(tl.float32)
        scale = tl.where(own, pull, push * _exp2(rate * (p_sum / number) + level)) / number
        b = tl.where(own, 0.0, beta * (a_sum / number - Abar))
        # The rows again: they were just read, so they come from the cache.
        _rows_of_class(z, stride, bias, rows, n, own, cols, in_cols, scale, b, grad, K, DETACH, VEC, BLOCK_N)

    if LONG:
        for run in range(split, tl.load(plan + 4), splits):
            segment, start, n = _run(run, starts, counts, first_run, segment_of_run)
            own = names == tl.load(labels + segment)
            at = means + tl.cast(segment, tl.int64) * 2 * K + cols
            P = tl.load(at, mask=in_cols, other=0.0)
            A = tl.load(at + K, mask=in_cols, other=0.0)
            number = tl.load(counts + segment).to(tl.float32)
            scale = tl.where(own, pull, push * _exp2(rate * P + level)) / number
            b = tl.where(own, 0.0, beta * (A - Abar))
            _rows_of_class(
                z, stride, bias, order + start, n, own, cols, in_cols, scale, b, grad, K, DETACH, VEC, BLOCK_N
            )

    for start in range(counted + split * BLOCK_N, N, splits * BLOCK_N):  # rows that count for nothing
        at = start + tl.arange(0, BLOCK_N)
        in_rows = at < N
        rows = tl.load(order + at, mask=in_rows, other=0)
        zeros = tl.zeros((BLOCK_N, BLOCK_J), tl.float32)
        _store_gradient(grad, rows, in_rows, cols, in_cols, K, zeros, VEC)


# TRITON_INTERPRET was set before the import: tensors of the CPU will do, and no machine code.
INTERPRETED = tl.constexpr(not isinstance(statistics, triton.JITFunction))
