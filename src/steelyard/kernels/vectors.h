/* What the compiled kernels share: versions of a function for newer processors, and exp and log in loops that the
 * compiler makes vectors of. */
#ifndef STEELYARD_VECTORS_H
#define STEELYARD_VECTORS_H
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(NO_CLONES)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

/* exp(x) of x <= 0, to 2 units in the last place; 0 below -87, where float32 ends; NaN of NaN. */
INLINE float exp_of_negative(float x) {
    const float least = -87.0f, magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float y = x < least ? least : x, power = y * 1.44269504f + magic;
    int32_t bits;
    memcpy(&bits, &power, 4);
    power -= magic;
    const float r = (y - power * 0.693359375f) + power * 2.12194440e-4f; /* y - power log(2), in two parts */
    float e = 1.0f / 5040; /* r in [-0.35, 0.35]: the series, to r^7 */
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * (r * r) + r + 1.0f;
    bits = (int32_t)((uint32_t)(bits - 0x4B400000 + 127) << 23); /* 2^power */
    float scale;
    memcpy(&scale, &bits, 4);
    return x < least ? 0.0f : e * scale;
}

/* log(1 + t) of t in [0, 1]: t r(t), r the polynomial of degree 8 with r(0) = 1 of least relative error, 3e-8. */
INLINE float log_of_one_plus(float t) {
    float r = 5.36481901691252e-3f;
    r = r * t - 3.006577253211882e-2f;
    r = r * t + 7.920450593250887e-2f;
    r = r * t - 1.375380004886992e-1f;
    r = r * t + 1.915365397110934e-1f;
    r = r * t - 2.485716345004408e-1f;
    r = r * t + 3.332132259502222e-1f;
    r = r * t - 4.99996479626613e-1f;
    r = r * t + 1.0f;
    return t * r;
}

#endif
