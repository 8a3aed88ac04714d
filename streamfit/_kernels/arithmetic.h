/* Bits and elementary functions. Everything that the C library would compute differently from one
 * processor to the next is written out here (see kernels.h). */
#ifndef STREAMFIT_ARITHMETIC_H
#define STREAMFIT_ARITHMETIC_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SF_LANES 8
#define SF_INLINE static inline __attribute__((always_inline))

SF_INLINE uint64_t sf_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* Bit 63 is set exactly when x is NaN or infinite; flags of many numbers combine by |. */
SF_INLINE uint64_t sf_nonfinite(double x) {
    return (sf_bits(x) & 0x7ff0000000000000u) + 0x0010000000000000u;
}

SF_INLINE int sf_isfinite(double x) { return !(sf_nonfinite(x) >> 63); }

SF_INLINE double sf_power_of_two(int64_t n) {
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* exp(x) / 2^n for the `n` that is left, by Cody-Waite reduction and a Taylor polynomial on
 * |r| <= ln(2)/2. The C library's exp picks an implementation by processor and so may differ in the
 * last bit between machines. */
SF_INLINE double sf_exp_fraction(double x, int64_t *n) {
    /* adding 1.5 * 2^52 rounds to an integer and leaves it in the lowest bits */
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const double k = shifted - 6755399441055744.0;
    const double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    /* sum of r^k / k! from k = 2 on, divided by r^2: in pairs, so that few terms wait for others
     * (Estrin's scheme; this order is as fixed as any) */
    const double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    const double p0 = 0.5 + r * (1.0 / 6.0), p1 = 1.0 / 24.0 + r * (1.0 / 120.0);
    const double p2 = 1.0 / 720.0 + r * (1.0 / 5040.0);
    const double p3 = 1.0 / 40320.0 + r * (1.0 / 362880.0);
    const double p4 = 1.0 / 3628800.0 + r * (1.0 / 39916800.0);
    const double p5 = 1.0 / 479001600.0 + r * (1.0 / 6227020800.0);
    const double p = ((p0 + r2 * p1) + r4 * (p2 + r2 * p3)) + r8 * (p4 + r2 * p5);
    *n = (int64_t)(sf_bits(shifted) - sf_bits(6755399441055744.0));
    return 1.0 + (r + r2 * p);
}

SF_INLINE double sf_exp(double x) {
    if (!(x < 709.782712893384)) return x == x ? INFINITY : x;
    if (x < -745.2) return 0.0;
    int64_t n;
    const double p = sf_exp_fraction(x, &n);
    if (n > -1022 && n < 1024) return p * sf_power_of_two(n);
    /* two factors, because 2^k itself is not a normal number */
    return p * sf_power_of_two(n / 2) * sf_power_of_two(n - n / 2);
}

/* The same for numbers from SF_EXP_NORMAL to 0, whose exp is a normal number: without a branch, so
 * that a loop becomes one over vectors. */
#define SF_EXP_NORMAL -708.0
SF_INLINE double sf_exp_normal(double x) {
    int64_t n;
    const double p = sf_exp_fraction(x, &n);
    return p * sf_power_of_two(n);
}

/* Natural logarithm of a positive number, and a power of one: our own, for the same reason. */
SF_INLINE double sf_log(double x) {
    int64_t e = 0;
    if (x < DBL_MIN) {
        x *= 18014398509481984.0; /* 2^54, out of the numbers below the normal ones */
        e = -54;
    }
    uint64_t bits = sf_bits(x);
    e += (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* log m = 2 atanh(s) by its series, |s| <= 0.172 */
    const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
    double p = 1.0 / 23.0;
    for (int k = 21; k >= 3; k -= 2) p = p * s2 + 1.0 / k;
    const double k = (double)e;
    return k * 6.93147180369123816490e-01 +
           (2.0 * s + (2.0 * s * s2 * p + k * 1.90821492927058770002e-10));
}

SF_INLINE double sf_pow(double x, double y) {
    if (y == 0.5) return sqrt(x);
    if (y == floor(y) && y >= 0.0 && y <= 64.0) { /* few enough to multiply */
        double power = 1.0;
        for (int i = 0; i < (int)y; i++) power *= x;
        return power;
    }
    return sf_exp(y * sf_log(x));
}

/* (1 + cos(x)) / 2 for x in [0, pi], as the square of the cosine of x / 2. */
SF_INLINE double sf_half_cosine(double x) {
    const double z = -0.25 * x * x;
    double c = 1.0;
    for (int k = 24; k >= 2; k -= 2) c = 1.0 + c * z / (double)(k * (k - 1));
    return c * c;
}

SF_INLINE double sf_sigmoid(double z) {
    const double e = sf_exp(-fabs(z)), least = z >= 0 ? 1.0 : 0.0;
    /* 1 or, for z < 0, e: as the greater of two, which waits less for e than a choice by z */
    return (e > least ? e : least) / (1.0 + e);
}

/* z, drawn smoothly into (-bound, bound); what is not finite stays so. */
SF_INLINE double sf_squash(double z, double bound) {
    if (!(fabs(z) < 1e150)) return sf_isfinite(z) ? (z > 0 ? bound : -bound) : z;
    const double r = z / bound;
    return z / sqrt(1.0 + r * r);
}

#endif
