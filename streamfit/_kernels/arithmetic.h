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

/* exp by Cody-Waite reduction and a Taylor polynomial on |r| <= ln(2)/2. The C library's exp
 * picks an implementation by processor and so may differ in the last bit between machines. */
SF_INLINE double sf_exp(double x) {
    if (!(x < 709.782712893384)) return x == x ? INFINITY : x;
    if (x < -745.2) return 0.0;
    double k = rint(x * 1.4426950408889634);
    double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = 1.0 + (r + r * r * p);
    /* two factors, because 2^k itself may not be a normal number */
    int64_t n = (int64_t)k, half = n / 2;
    uint64_t a = (uint64_t)(half + 1023) << 52, b = (uint64_t)(n - half + 1023) << 52;
    double two_a, two_b;
    memcpy(&two_a, &a, sizeof a);
    memcpy(&two_b, &b, sizeof b);
    return p * two_a * two_b;
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
    double e = sf_exp(-fabs(z));
    return (z >= 0 ? 1.0 : e) / (1.0 + e);
}

#endif
