/* LGL-INR of float32 logits on a CPU: losses of columns and their gradient, a tile of columns at a time.
 *
 * Plain C with OpenMP, so that one library serves every version of Python and of torch; native.py calls it.
 * With P and A the means of p = sigmoid(z) and of softplus(z) over the n rows of class k, and
 * v = exp(beta P - shift) / n, column j has D = sum of n v over the other classes of the batch and
 *
 *     loss_j = pos_weight_j mean softplus(-z_ij) over the rows of class j + sum of v (n A) / D
 *     gradient: -pos_weight_j sigmoid(-z_ij) / n_j                        rows of class j
 *               v / D p (1 + beta (A - sum of v (n A) / D) (1 - p))       rows of any other class
 *
 * without the bracket when the weights are detached. Rows come sorted by class. Loops over the columns of a tile are
 * free of branches, and the compiler makes vectors of them; P and A of a tile stay in cache between the two passes.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../vectors.h"

#define ABI 3        /* of the functions below: native.py takes no other */
#define WIDEST 128   /* columns of a tile, at most */
#define NARROWEST 16 /* a cache line of float32 */
#define ROOM 262144  /* floats of P, and of A, of a tile: together the cache of one core */
#define AHEAD 512    /* columns of coming rows, of logits and of gradient, that are fetched before their turn */
#define RUN 32       /* floats that are added up before their sum joins one in double: what keeps it exact */
/* P lies in [0, 1]: up to this beta, exp(beta P - max(beta, 0)) needs no maximum over the classes. */
#define FIXED_SHIFT_BETA 30.0f
#define FEW 32       /* up to so many columns, threads divide the rows and not the columns */
#define FLAT 1024    /* floats of rows that are worked on as if they were one row */
#define LANES 8      /* doubles of a vector: the number of few columns is rounded up to a multiple */

/* A line that another core wrote last moves twice if it is fetched as if to be read. No level of x86-64 above has the
 * instruction to fetch it to be written, so the processor is asked: once, as that is slow in a virtual machine. */
static int has_prefetchw;
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
__attribute__((constructor)) static void ask_for_prefetchw(void) {
    unsigned a, b, c = 0, d;
    has_prefetchw = __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 0x100);
}
#define PREFETCHW(x) __asm__ volatile("prefetchw %0" : : "m"(x))
#else
#define PREFETCHW(x) ((void)0)
#endif

typedef struct {
    const float *logits;
    int64_t logits_stride, first, num_classes, segments;
    const int64_t *order, *offsets, *labels;
    const float *pos_weight; /* or NULL */
    float beta;
    int detach_weights;
    float *loss, *grad; /* grad or NULL */
    int64_t grad_stride;
} Batch;

/* Let the cache fetch a tile's part of the row that comes some AHEAD columns after row i. Rows lie pages apart, where
 * a processor does not fetch ahead by itself. */
INLINE void fetch_ahead_of(const Batch *b, int64_t i, int64_t at, int width) {
    i += (AHEAD + width - 1) / width;
    if (i >= b->offsets[b->segments]) return;
    const float *z = b->logits + b->order[i] * b->logits_stride + at;
    for (int j = 0; j < width; j += NARROWEST) __builtin_prefetch(z + j, 0);
    if (!b->grad) return;
    const float *g = b->grad + b->order[i] * b->grad_stride + at;
    if (has_prefetchw)
        for (int j = 0; j < width; j += NARROWEST) PREFETCHW(g[j]);
    else
        for (int j = 0; j < width; j += NARROWEST) __builtin_prefetch(g + j, 1);
}

/* Sums of p and of softplus over rows [start, end) of one class, into p and a; the smaller of p and 1 - p into grad. */
INLINE void add_rows(const Batch *b, int64_t start, int64_t end, int64_t at, int width, float *restrict p,
                     float *restrict a) {
    for (int j = 0; j < width; j++) p[j] = 0, a[j] = 0;
    for (int64_t i = start; i < end; i++) {
        const float *restrict z = b->logits + b->order[i] * b->logits_stride + at;
        fetch_ahead_of(b, i, at, width);
        float unused[WIDEST];
        float *restrict g = b->grad ? b->grad + b->order[i] * b->grad_stride + at : unused;
        for (int j = 0; j < width; j++) {
            const float t = exp_of_negative(-fabsf(z[j])), less = t / (1.0f + t);
            g[j] = less;
            p[j] += z[j] > 0 ? 1.0f - less : less;
            a[j] += (z[j] < 0 ? 0.0f : z[j]) + log_of_one_plus(t); /* NaN of NaN */
        }
    }
}

/* From the sums of a class, p and a: v into p, A into a, and its part into total and sum. */
INLINE void weigh(const Batch *b, float n, int own, int width, const float *restrict shift, float *restrict p,
                  float *restrict a, float *restrict total, float *restrict sum) {
    const float share = 1.0f / n;
    for (int j = 0; j < width; j++) {
        const float x = b->beta * (p[j] * share) - shift[j];
        p[j] = exp_of_negative(x > 0 ? 0.0f : x) * share;
    }
    if (own >= 0) p[own] = 0; /* no negative of its own column */
    for (int j = 0; j < width; j++) {
        total[j] += p[j] * n;
        sum[j] += p[j] * a[j];
        a[j] *= share;
    }
}

/* Let a run of additions join the whole, and start another run. */
INLINE void join(int width, float *restrict run, double *restrict whole) {
    for (int j = 0; j < width; j++) whole[j] += run[j], run[j] = 0;
}

FOR_EACH_PROCESSOR
static void tile(const Batch *b, int64_t at, int width, int64_t spacing, float *room) {
    float total[WIDEST], sum[WIDEST], shift[WIDEST];
    double whole_p[WIDEST], whole_a[WIDEST], whole_total[WIDEST], whole_sum[WIDEST];
    int weighed = 0;
    float *const P = room, *const A = room + spacing * b->segments;
    const int fixed_shift = fabsf(b->beta) <= FIXED_SHIFT_BETA;
    for (int j = 0; j < width; j++) {
        total[j] = sum[j] = b->loss[at + j] = 0;
        whole_total[j] = whole_sum[j] = 0;
        shift[j] = fixed_shift ? fmaxf(b->beta, 0.0f) : -INFINITY;
    }
    for (int64_t s = 0; s < b->segments; s++) {
        const int64_t label = b->labels[s], start = b->offsets[s], end = b->offsets[s + 1];
        if (label >= b->num_classes) continue;
        float *restrict p = P + s * spacing, *restrict a = A + s * spacing;
        if (end - start <= RUN)
            add_rows(b, start, end, at, width, p, a);
        else {
            for (int j = 0; j < width; j++) whole_p[j] = whole_a[j] = 0;
            for (int64_t i = start; i < end; i += RUN) {
                add_rows(b, i, end < i + RUN ? end : i + RUN, at, width, p, a);
                join(width, p, whole_p), join(width, a, whole_a);
            }
            for (int j = 0; j < width; j++) p[j] = (float)whole_p[j], a[j] = (float)whole_a[j];
        }
        const int64_t column = label - b->first - at;
        const int own = column >= 0 && column < width ? (int)column : -1;
        if (own >= 0) { /* its positives, of which grad is set here; an infinite logit must not meet a weight of 0 */
            const float weight = (b->pos_weight ? b->pos_weight[label] : 1.0f) / (float)(end - start);
            double pull = 0;
            for (int64_t i = start; i < end; i++) {
                const float z = b->logits[b->order[i] * b->logits_stride + at + own];
                pull += log1pf(expf(-fabsf(z))) + (z > 0 ? 0.0f : -z);
            }
            b->loss[at + own] = weight * (float)pull;
            a[own] = 0;
        }
        if (fixed_shift) {
            weigh(b, (float)(end - start), own, width, shift, p, a, total, sum);
            if (++weighed % RUN == 0) join(width, total, whole_total), join(width, sum, whole_sum);
        } else
            for (int j = 0; j < width; j++) {
                const float x = b->beta * (p[j] / (float)(end - start));
                if (j != own && x > shift[j]) shift[j] = x;
            }
    }
    if (!fixed_shift)
        for (int64_t s = 0; s < b->segments; s++) {
            const int64_t label = b->labels[s], n = b->offsets[s + 1] - b->offsets[s], column = label - b->first - at;
            if (label >= b->num_classes) continue;
            weigh(b, (float)n, column >= 0 && column < width ? (int)column : -1, width, shift, P + s * spacing,
                  A + s * spacing, total, sum);
            if (++weighed % RUN == 0) join(width, total, whole_total), join(width, sum, whole_sum);
        }
    join(width, total, whole_total), join(width, sum, whole_sum);
    for (int j = 0; j < width; j++) {
        const double share = whole_total[j] == 0 ? 0 : 1 / whole_total[j]; /* no other class in the batch: 0, not NaN */
        total[j] = (float)share;
        sum[j] = (float)(whole_sum[j] * share);
        b->loss[at + j] += sum[j];
    }
    if (!b->grad) return;
    const float slope = b->detach_weights ? 0.0f : b->beta;
    for (int64_t s = 0; s < b->segments; s++) {
        const int64_t label = b->labels[s], start = b->offsets[s], end = b->offsets[s + 1];
        const int64_t column = label - b->first - at;
        const int ignored = label >= b->num_classes, own = !ignored && column >= 0 && column < width;
        float *restrict p = P + s * spacing, *restrict a = A + s * spacing;
        if (!ignored)
            for (int j = 0; j < width; j++) p[j] *= total[j], a[j] = slope == 0 ? 0.0f : slope * (a[j] - sum[j]);
        for (int64_t i = start; i < end; i++) {
            const float *restrict z = b->logits + b->order[i] * b->logits_stride + at;
            float *restrict g = b->grad + b->order[i] * b->grad_stride + at;
            fetch_ahead_of(b, i, at, width);
            if (ignored) {
                memset(g, 0, (size_t)width * sizeof(float));
                continue;
            }
            const float pull = own ? (z[column] > 0 ? g[column] : 1.0f - g[column]) : 0.0f; /* sigmoid(-z) */
            for (int j = 0; j < width; j++) {
                const float less = g[j], more = 1.0f - less;
                const float yes = z[j] > 0 ? more : less, no = z[j] > 0 ? less : more;
                g[j] = p[j] * yes * (1.0f + a[j] * no);
            }
            if (own)
                g[column] = -pull * (b->pos_weight ? b->pos_weight[label] : 1.0f) / (float)(end - start);
        }
    }
}

/* ---- Few columns: threads divide the rows, which are not sorted. ---- */

typedef struct {
    double p[FEW * FEW], a[FEW * FEW], pull[FEW]; /* sums over the rows of each class, by column */
    int64_t count[FEW], wrong;                    /* rows of each class; the first row of no class, or -1 */
} Sums;

typedef struct {
    float p[FEW * FEW], a[FEW * FEW], pull[FEW]; /* what a gradient is made of, by class and column */
} Slopes;

typedef struct {
    const float *logits;
    const int64_t *target;
    int64_t rows, num_classes, ignore_index;
    unsigned char *label; /* read once, as another thread may be writing them; num_classes where ignored */
    float *grad;          /* or NULL */
} Rows;

/* Add rows [start, end) to sums, and leave the smaller of p and 1 - p in the gradient. */
FOR_EACH_PROCESSOR
static void add_few(const Rows *b, int64_t start, int64_t end, Sums *sums) {
    const int size = (int)b->num_classes, lanes = (size + LANES - 1) / LANES * LANES, most = FLAT / size;
    float p[FLAT + FEW] = {0}, a[FLAT + FEW] = {0}, log_of[FLAT], unused[FLAT];
    for (int64_t i = start; i < end; i += most) {
        const int rows = (int)(end - i < most ? end - i : most);
        const float *restrict z = b->logits + i * size;
        float *restrict g = b->grad ? b->grad + i * size : unused;
        for (int j = 0; j < rows * size; j++) {
            const float t = exp_of_negative(-fabsf(z[j])), less = t / (1.0f + t), log_1p = log_of_one_plus(t);
            g[j] = less;
            p[j] = z[j] > 0 ? 1.0f - less : less;
            log_of[j] = log_1p;
            a[j] = (z[j] < 0 ? 0.0f : z[j]) + log_1p; /* NaN of NaN */
        }
        for (int r = 0; r < rows; r++) {
            const int64_t label = b->target[i + r];
            const int ignored = label == b->ignore_index;
            if (!ignored && (label < 0 || label >= size)) {
                sums->wrong = i + r;
                return;
            }
            b->label[i + r] = (unsigned char)(ignored ? size : label);
            if (ignored) continue;
            const int at = r * size, own = at + (int)label;
            double *restrict sum_p = sums->p + label * FEW, *restrict sum_a = sums->a + label * FEW;
            for (int l = 0; l < lanes; l += LANES) /* sums past the last column are never read */
                for (int j = l; j < l + LANES; j++) sum_p[j] += p[at + j], sum_a[j] += a[at + j];
            sums->pull[label] += log_of[own] + (z[own] > 0 ? 0.0f : -z[own]);
            sums->count[label]++;
        }
    }
}

/* From the sums of all rows: the losses of columns, and what their gradient is made of. */
static void weigh_few(const Rows *b, const Sums *sums, const float *pos_weight, double beta, int detach_weights,
                      float *loss, Slopes *slopes) {
    const int size = (int)b->num_classes;
    for (int j = 0; j < size; j++) {
        double top = -INFINITY, total = 0, sum = 0, v[FEW];
        for (int k = 0; k < size; k++) {
            const double x = beta * sums->p[k * FEW + j] / (double)sums->count[k];
            if (k != j && sums->count[k] && x > top) top = x;
        }
        for (int k = 0; k < size; k++) { /* its own class is no negative */
            const double n = (double)sums->count[k];
            v[k] = 0;
            if (k == j || n == 0) continue;
            const double x = beta * sums->p[k * FEW + j] / n - top;
            const float near = (float)x; /* exp of doubles would ask for a newer glibc than torch does */
            v[k] = exp_of_negative(near) * (1 + (x - near)) / n;
            if (v[k] == 0) continue; /* an infinite logit must not meet a weight of 0 */
            total += v[k] * n, sum += v[k] * sums->a[k * FEW + j];
        }
        const double share = total == 0 ? 0 : 1 / total; /* no other class in the batch: 0, not NaN */
        sum *= share;
        const double n = (double)sums->count[j], weight = n == 0 ? 0 : (pos_weight ? pos_weight[j] : 1.0f) / n;
        loss[j] = (float)((n == 0 ? 0 : weight * sums->pull[j]) + sum);
        slopes->pull[j] = (float)weight;
        for (int k = 0; k < size; k++) {
            const double A = k == j || !sums->count[k] ? 0 : sums->a[k * FEW + j] / (double)sums->count[k];
            slopes->p[k * FEW + j] = (float)(v[k] * share);
            slopes->a[k * FEW + j] = detach_weights || beta == 0 ? 0.0f : (float)(beta * (A - sum));
        }
    }
}

/* Make the gradient of rows [start, end), which holds the smaller of p and 1 - p so far. */
FOR_EACH_PROCESSOR
static void grad_few(const Rows *b, int64_t start, int64_t end, const Slopes *slopes) {
    const int size = (int)b->num_classes, lanes = (size + LANES - 1) / LANES * LANES, most = FLAT / size;
    float p[FLAT + FEW], a[FLAT + FEW], pull[FLAT];
    for (int64_t i = start; i < end; i += most) {
        const int rows = (int)(end - i < most ? end - i : most);
        const float *restrict z = b->logits + i * size;
        float *restrict g = b->grad + i * size;
        for (int r = 0; r < rows; r++) {
            const int label = b->label[i + r], at = r * size, of = (label < size ? label : 0) * FEW;
            for (int l = 0; l < lanes; l += LANES) /* what is past the last column is overwritten by the next row */
                for (int j = l; j < l + LANES; j++) p[at + j] = slopes->p[of + j], a[at + j] = slopes->a[of + j];
            if (label >= size) continue;
            const float less = g[at + label];
            pull[r] = slopes->pull[label] * (z[at + label] > 0 ? less : 1.0f - less); /* sigmoid(-z) */
        }
        for (int j = 0; j < rows * size; j++) {
            const float less = g[j], more = 1.0f - less;
            const float yes = z[j] > 0 ? more : less, no = z[j] > 0 ? less : more;
            g[j] = p[j] * yes * (1.0f + a[j] * no);
        }
        for (int r = 0; r < rows; r++) {
            const int label = b->label[i + r];
            if (label < size)
                g[r * size + label] = -pull[r];
            else
                memset(g + r * size, 0, (size_t)size * sizeof(float));
        }
    }
}

/* Losses (num_classes,) of the columns of logits (rows, num_classes), and their gradient, all without gaps, for few
 * columns. Returns 0; 1 if there was no memory to work in; or -1 - i if the label of row i is neither a class nor
 * ignored. */
int64_t lgl_inr_few(const float *logits, int64_t rows, int64_t num_classes, const int64_t *target,
                    int64_t ignore_index, const float *pos_weight, float beta, int detach_weights, float *loss,
                    float *grad, int threads) {
    if (num_classes < 1 || num_classes > FEW) return 1;
    Sums *sums = calloc((size_t)threads, sizeof(Sums));
    unsigned char *label = malloc((size_t)rows + 1);
    int64_t wrong = -1;
    if (sums && label) {
        const Rows batch = {logits, target, rows, num_classes, ignore_index, label, grad};
        Slopes slopes;
        memset(&slopes, 0, sizeof slopes);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int t = 0; t < threads; t++) {
                sums[t].wrong = -1;
                add_few(&batch, rows * t / threads, rows * (t + 1) / threads, sums + t);
            }
#pragma omp single
            {
                for (int t = threads - 1; t >= 0; t--)
                    if (sums[t].wrong >= 0) wrong = sums[t].wrong;
                if (wrong < 0) {
                    for (int t = 1; t < threads; t++)
                        for (int k = 0; k < num_classes; k++) {
                            for (int j = 0; j < num_classes; j++) {
                                sums->p[k * FEW + j] += sums[t].p[k * FEW + j];
                                sums->a[k * FEW + j] += sums[t].a[k * FEW + j];
                            }
                            sums->pull[k] += sums[t].pull[k];
                            sums->count[k] += sums[t].count[k];
                        }
                    weigh_few(&batch, sums, pos_weight, beta, detach_weights, loss, &slopes);
                }
            }
#pragma omp for schedule(static)
            for (int t = 0; t < threads; t++)
                if (grad && wrong < 0) grad_few(&batch, rows * t / threads, rows * (t + 1) / threads, &slopes);
        }
    }
    const int failed = !sums || !label;
    free(sums);
    free(label);
    return failed ? 1 : wrong < 0 ? 0 : -1 - wrong;
}

INLINE int digit_of(int64_t key, int digit) { return (int)(key >> (8 * digit)) & 255; }

int lgl_inr_abi(void) { return ABI; }

/* Sort the rows by label into order (rows,). Rows of one class stay in their order, and ignored rows come last. There
 * is a segment for each class: segments start at offsets (rows + 1,) and have labels (rows,), num_classes if ignored.
 * Returns the number of segments, or -1 - i if the label of row i is neither a class nor ignored. */
int64_t lgl_inr_segments(const int64_t *target, int64_t rows, int64_t num_classes, int64_t ignore_index,
                         int64_t *order, int64_t *offsets, int64_t *labels) {
    int digits = 1; /* of a key, to base 256 */
    while (digits < 8 && num_classes >> (8 * digits)) digits++;
    int64_t *from = digits % 2 ? labels : order, *to = digits % 2 ? order : labels; /* the last to is order */
    /* One read of each label, which another thread may be writing: keys stay where offsets go later. */
    int64_t *const key = offsets;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t label = target[i];
        if (label != ignore_index && (label < 0 || label >= num_classes)) return -1 - i;
        key[i] = label == ignore_index ? num_classes : label;
        from[i] = i;
    }
    for (int digit = 0; digit < digits; digit++) {
        int64_t place[257] = {0};
        for (int64_t i = 0; i < rows; i++) place[1 + digit_of(key[i], digit)]++;
        for (int v = 0; v < 256; v++) place[v + 1] += place[v];
        for (int64_t i = 0; i < rows; i++) to[place[digit_of(key[from[i]], digit)]++] = from[i];
        int64_t *const filled = to;
        to = from, from = filled;
    }
    for (int64_t i = 0; i < rows; i++) labels[i] = key[order[i]];
    int64_t segments = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t label = labels[i]; /* segments <= i: not overwritten yet */
        if (segments == 0 || labels[segments - 1] != label) offsets[segments] = i, labels[segments++] = label;
    }
    offsets[segments] = rows;
    return segments;
}

/* Losses (width,) of the columns from class `first` on, and the gradient (N, width) of each in its own logits.
 * Rows of label `num_classes` are ignored. Returns 0, or 1 where there was no memory to work in. */
int lgl_inr_columns(const float *logits, int64_t logits_stride, int64_t width, int64_t first, int64_t num_classes,
                    const int64_t *order, const int64_t *offsets, const int64_t *labels, int64_t segments,
                    const float *pos_weight, float beta, int detach_weights, float *loss, float *grad,
                    int64_t grad_stride, int threads) {
    if (segments == 0 || width == 0) { /* no rows or no columns */
        for (int64_t j = 0; j < width; j++) loss[j] = 0;
        return 0;
    }
    const Batch batch = {logits, logits_stride, first, num_classes, segments, order, offsets, labels,
                         pos_weight, beta, detach_weights, loss, grad, grad_stride};
    /* Tiles of equal width, about as many to each thread. And the same ones in every call with as many rows: a gradient
     * that is made again in the same memory then stays with its core, which halves the time where cores share no cache. */
    int64_t most = ROOM / segments / NARROWEST * NARROWEST;
    most = most > WIDEST ? WIDEST : most < NARROWEST ? NARROWEST : most;
    const int64_t tiles = ((width + threads - 1) / threads + most - 1) / most * threads;
    const int64_t spacing = ((width + tiles - 1) / tiles + NARROWEST - 1) / NARROWEST * NARROWEST;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(2 * sizeof(float) * (size_t)(spacing * segments));
#pragma omp for schedule(static)
        for (int64_t at = 0; at < width; at += spacing) {
            if (room)
                tile(&batch, at, (int)(width - at < spacing ? width - at : spacing), spacing, room);
            else
#pragma omp atomic write
                failed = 1;
        }
        free(room);
    }
    return failed;
}
