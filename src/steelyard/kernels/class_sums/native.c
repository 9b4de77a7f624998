/* Sums by class of what a row of float32 logits gives, in double: probabilities, softplus, centred logits.
 *
 * Plain C, so that one library serves every version of Python and of torch; native.py calls it. Each row i of class k
 * adds (u, v) to the sums of its fold and class, and of its class:
 *
 *     SOFTMAX   u = p = softmax(z)       v = p^2
 *     SIGMOID   u = p = sigmoid(z)       v = p^2
 *     SOFTPLUS  u = log(1 + exp(z))      v = sigmoid(z) sigmoid(-z)
 *     CENTRED   u = z - mean of z        v = u^2
 *
 * A tile of rows stays in cache, and loops over its numbers are free of branches: the compiler makes vectors of them.
 * The rows of a part are sorted by class, so the sums of a class stay in cache too. One thread does all the work in one
 * order, so the same rows give the same sums to the last bit. Another thread reads the next rows of a file meanwhile.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../vectors.h"

#define ABI 1     /* of the functions below: native.py takes no other */
#define PART 8192 /* rows that are sorted at a time */
#define TILE 2048 /* floats of a tile, or one row */
#define LANES 16  /* maxima and sums of a row that are taken side by side */

enum { SOFTMAX, SIGMOID, SOFTPLUS, CENTRED };

typedef struct {
    const float *logits;
    int64_t stride, columns;
    double *first, *second; /* (folds, classes, columns), and (classes, columns) or (columns,) */
    int64_t second_stride;  /* columns, or 0 */
} Sums;

INLINE float largest_of(const float *restrict z, int64_t n) {
    float lane[LANES], most = z[0]; /* a NaN may be passed over, but it stays in the row */
    int64_t j = 0;
    if (n >= LANES) {
        for (int l = 0; l < LANES; l++) lane[l] = z[l];
        for (j = LANES; j + LANES <= n; j += LANES)
            for (int l = 0; l < LANES; l++) lane[l] = z[j + l] > lane[l] ? z[j + l] : lane[l];
        for (int l = 0; l < LANES; l++) most = lane[l] > most ? lane[l] : most;
    }
    for (; j < n; j++) most = z[j] > most ? z[j] : most;
    return most;
}

INLINE double sum_of(const float *restrict z, int64_t n) {
    double lane[LANES] = {0}, sum = 0;
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += z[j + l];
    if (j)
        for (int l = 0; l < LANES; l++) sum += lane[l];
    for (; j < n; j++) sum += z[j];
    return sum;
}

/* Replace the logits x of some rows by u, and put v of SOFTPLUS into y. add_row makes the rest. */
INLINE void evaluate(int kind, int64_t rows, int64_t columns, float *restrict x, float *restrict y) {
    const int64_t size = rows * columns;
    if (kind == SOFTMAX) {
        for (int64_t i = 0; i < rows; i++) {
            float *restrict z = x + i * columns;
            const float most = largest_of(z, columns);
            for (int64_t j = 0; j < columns; j++) z[j] -= most;
        }
        for (int64_t j = 0; j < size; j++) x[j] = exp_of_negative(x[j]);
        for (int64_t i = 0; i < rows; i++) {
            float *restrict p = x + i * columns;
            const float share = (float)(1 / sum_of(p, columns));
            for (int64_t j = 0; j < columns; j++) p[j] *= share;
        }
    } else if (kind == SIGMOID) {
        for (int64_t j = 0; j < size; j++) {
            const float t = exp_of_negative(-fabsf(x[j])), less = t / (1.0f + t);
            x[j] = x[j] > 0 ? 1.0f - less : less;
        }
    } else if (kind == SOFTPLUS) {
        for (int64_t j = 0; j < size; j++) {
            const float t = exp_of_negative(-fabsf(x[j])), more = 1.0f / (1.0f + t);
            x[j] = (x[j] < 0 ? 0.0f : x[j]) + log_of_one_plus(t); /* NaN of NaN */
            y[j] = t * more * more;
        }
    }
}

INLINE void add_row(int kind, int64_t columns, const float *restrict x, const float *restrict y,
                    double *restrict first, double *restrict second) {
    const double mean = kind == CENTRED ? sum_of(x, columns) / (double)columns : 0;
    for (int64_t j = 0; j < columns; j++) {
        const double u = x[j] - mean;
        first[j] += u;
        second[j] += kind == SOFTPLUS ? y[j] : u * u;
    }
}

/* Add the rows at order[0], ..., order[rows - 1]: the i-th to the sums of cell[i] and of label[i]. */
INLINE void add_rows(int kind, const Sums *s, int64_t rows, const int32_t *order, const int64_t *cell,
                     const int64_t *label, float *restrict x, float *restrict y) {
    const int64_t columns = s->columns, most = columns < TILE ? TILE / columns : 1;
    for (int64_t start = 0; start < rows; start += most) {
        const int64_t size = rows - start < most ? rows - start : most;
        for (int64_t i = 0; i < size; i++)
            memcpy(x + i * columns, s->logits + order[start + i] * s->stride, (size_t)columns * sizeof(float));
        evaluate(kind, size, columns, x, y);
        for (int64_t i = 0; i < size; i++) {
            const int64_t row = order[start + i];
            add_row(kind, columns, x + i * columns, y + i * columns, s->first + cell[row] * columns,
                    s->second + label[row] * s->second_stride);
        }
    }
}

FOR_EACH_PROCESSOR
static void add_part(int kind, const Sums *s, int64_t rows, const int32_t *order, const int64_t *cell,
                     const int64_t *label, float *x, float *y) {
    if (kind == SOFTMAX)
        add_rows(SOFTMAX, s, rows, order, cell, label, x, y);
    else if (kind == SIGMOID)
        add_rows(SIGMOID, s, rows, order, cell, label, x, y);
    else if (kind == SOFTPLUS)
        add_rows(SOFTPLUS, s, rows, order, cell, label, x, y);
    else
        add_rows(CENTRED, s, rows, order, cell, label, x, y);
}

int class_sums_abi(void) { return ABI; }

/* Add (rows, columns) logits, rows `stride` apart, to the sums. A class takes the folds in turn, from where `counts`
 * (folds, classes) says that it stopped. The rows are added to `counts`, which may be NULL if there is one fold. Rows
 * of label ignore_index count for nothing.
 * Returns 0; 1 if there was no memory to work in; or -1 - i if the label of row i is neither a class nor ignored. The
 * rows before i may have been added then. */
int64_t class_sums_add(int kind, const float *logits, int64_t stride, int64_t rows, int64_t columns,
                       const int64_t *labels, int64_t classes, int64_t ignore_index, int64_t folds, int64_t *counts,
                       double *first, double *second, int64_t second_stride) {
    const int64_t part = rows < PART ? rows : PART, room = columns < TILE ? TILE : columns;
    int64_t *const turn = malloc(sizeof(int64_t) * (size_t)(2 * classes + 1 + 2 * part));
    int32_t *const order = malloc(sizeof(int32_t) * (size_t)(part + 1));
    float *const x = malloc(2 * sizeof(float) * (size_t)room);
    int64_t failed = turn && order && x ? 0 : 1;
    for (int64_t k = 0; k < classes && !failed; k++) {
        turn[k] = k;
        for (int64_t f = 0; counts && f < folds; f++) turn[k] += counts[f * classes + k];
        turn[k] %= folds;
    }
    for (int64_t at = 0; at < rows && !failed; at += part) {
        int64_t *const place = turn + classes, *const cell = place + classes + 1, *const label = cell + part;
        const int64_t size = rows - at < part ? rows - at : part;
        int64_t used = 0;
        memset(place, 0, sizeof(int64_t) * (size_t)(classes + 1));
        for (int64_t i = 0; i < size && !failed; i++) {
            const int64_t k = label[i] = labels[at + i]; /* read once: another thread may be writing it */
            if (k == ignore_index) continue;
            if (k < 0 || k >= classes) {
                failed = -1 - (at + i);
                continue;
            }
            cell[i] = turn[k] * classes + k;
            turn[k] = turn[k] + 1 < folds ? turn[k] + 1 : 0;
            if (counts) counts[cell[i]]++;
            place[k + 1]++, used++;
        }
        if (failed) break;
        for (int64_t k = 0; k < classes; k++) place[k + 1] += place[k];
        for (int64_t i = 0; i < size; i++)
            if (label[i] != ignore_index) order[place[label[i]]++] = (int32_t)i;
        const Sums sums = {logits + at * stride, stride, columns, first, second, second_stride};
        add_part(kind, &sums, used, order, cell, label, x, x + room);
    }
    free(turn), free(order), free(x);
    return failed;
}
