/* The log partition function of scaled and shifted float64 logits, summed over rows, and its derivatives:
 *
 *     sum over rows of a log sum over j of exp(s z_j + b_j),     sum of a p . z,     sum of a p
 *
 * Plain C with OpenMP; native.py calls it. A tile of rows stays in cache, and loops over its numbers are free of
 * branches: the compiler makes vectors of them. Each thread adds up its own rows, and the sums of the threads are added
 * in their order. So the same number of threads gives the same result to the last bit.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../vectors.h"

#define ABI 1     /* of the functions below: native.py takes no other */
#define TILE 1024 /* doubles of a tile, or one row */
#define LANES 8   /* maxima and sums of a row that are taken side by side */

typedef struct {
    const double *logits, *weights, *shift;
    double scale;
    int64_t columns;
} Moved;

/* exp(x) of x <= 0, to 2 units in the last place; 0 below -708, where float64 ends; NaN of NaN. */
INLINE double exp_of_negative_double(double x) {
    const double least = -708.0, magic = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    double y = x < least ? least : x, power = y * 1.4426950408889634 + magic;
    int64_t bits;
    memcpy(&bits, &power, 8);
    power -= magic;
    /* y - power log(2), in two parts: the first ends in zeros enough for its product to be exact */
    const double r = (y - power * 6.93147180369123816490e-01) - power * 1.90821492927058770002e-10;
    double e = 1.0 / 6227020800; /* r in [-0.35, 0.35]: the series, to r^13 */
    e = e * r + 1.0 / 479001600;
    e = e * r + 1.0 / 39916800;
    e = e * r + 1.0 / 3628800;
    e = e * r + 1.0 / 362880;
    e = e * r + 1.0 / 40320;
    e = e * r + 1.0 / 5040;
    e = e * r + 1.0 / 720;
    e = e * r + 1.0 / 120;
    e = e * r + 1.0 / 24;
    e = e * r + 1.0 / 6;
    e = e * r + 0.5;
    e = e * (r * r) + r + 1.0;
    bits = (int64_t)((uint64_t)(bits - 0x4338000000000000 + 1023) << 52); /* 2^power */
    double scale;
    memcpy(&scale, &bits, 8);
    return x < least ? 0.0 : e * scale;
}

INLINE double largest_of(const double *restrict x, int64_t n) {
    double lane[LANES], most = x[0]; /* a NaN may be passed over, but it stays in the row */
    int64_t j = 0;
    if (n >= LANES) {
        for (int l = 0; l < LANES; l++) lane[l] = x[l];
        for (j = LANES; j + LANES <= n; j += LANES)
            for (int l = 0; l < LANES; l++) lane[l] = x[j + l] > lane[l] ? x[j + l] : lane[l];
        for (int l = 0; l < LANES; l++) most = lane[l] > most ? lane[l] : most;
    }
    for (; j < n; j++) most = x[j] > most ? x[j] : most;
    return most;
}

/* Add the rows [first, last) to out: the value, the derivative in scale, those in shift (columns,). */
FOR_EACH_PROCESSOR
static void add_rows(const Moved *m, int64_t first, int64_t last, double *restrict x, double *restrict most,
                     double *restrict out) {
    const int64_t columns = m->columns, rows = columns < TILE ? TILE / columns : 1;
    const double *restrict shift = m->shift, scale = m->scale;
    double *restrict by_shift = out + 2;
    for (int64_t start = first; start < last; start += rows) {
        const int64_t size = last - start < rows ? last - start : rows;
        const double *restrict z = m->logits + start * columns;
        for (int64_t i = 0; i < size; i++) {
            double *restrict y = x + i * columns;
            for (int64_t j = 0; j < columns; j++) y[j] = z[i * columns + j] * scale + shift[j];
            most[i] = largest_of(y, columns);
            for (int64_t j = 0; j < columns; j++) y[j] -= most[i];
        }
        for (int64_t j = 0; j < size * columns; j++) x[j] = exp_of_negative_double(x[j]);
        for (int64_t i = 0; i < size; i++) {
            const double *restrict e = x + i * columns, *restrict of = z + i * columns;
            double lane[LANES] = {0}, moment[LANES] = {0}, total = 0, mean = 0;
            int64_t j = 0;
            for (; j + LANES <= columns; j += LANES)
                for (int l = 0; l < LANES; l++) lane[l] += e[j + l], moment[l] += e[j + l] * of[j + l];
            if (j)
                for (int l = 0; l < LANES; l++) total += lane[l], mean += moment[l];
            for (; j < columns; j++) total += e[j], mean += e[j] * of[j];
            const double a = m->weights[start + i], share = a / total;
            out[0] += a * (most[i] + log1p(total - 1)); /* log would ask for a newer glibc than torch does */
            out[1] += share * mean;
            for (j = 0; j < columns; j++) by_shift[j] += share * e[j];
        }
    }
}

int log_partition_abi(void) { return ABI; }

/* Put the value and its derivatives in scale and in shift into out (2 + columns,), for (rows, columns) logits without
 * gaps. Returns 0, or 1 if there was no memory to work in. */
int log_partition_sums(const double *logits, const double *weights, int64_t rows, int64_t columns, double scale,
                       const double *shift, double *out, int threads) {
    const Moved moved = {logits, weights, shift, scale, columns};
    const int64_t room = columns < TILE ? TILE : columns, width = 2 + columns;
    double *const work = calloc((size_t)(threads * (room + TILE + width)), sizeof(double));
    if (!work) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        double *const own = work + t * (room + TILE + width);
        add_rows(&moved, rows * t / threads, rows * (t + 1) / threads, own, own + room, own + room + TILE);
    }
    for (int64_t j = 0; j < width; j++) out[j] = 0;
    for (int t = 0; t < threads; t++) {
        const double *const sums = work + t * (room + TILE + width) + room + TILE;
        for (int64_t j = 0; j < width; j++) out[j] += sums[j];
    }
    free(work);
    return 0;
}
