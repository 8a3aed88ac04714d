/* The gradient noise scale: unbiased estimates from inside micro-batches (streamfit/core/noise.py
 * has the formulas). Included by model.h. */
#ifndef STREAMFIT_NOISE_H
#define STREAMFIT_NOISE_H

#include "arithmetic.h"

/* the running means, in the order of the state; the first two are the sums of the measurements'
 * weights and of their squares */
enum { SF_WEIGHT, SF_WEIGHT_2, SF_SIGNAL, SF_NOISE, SF_SIGNAL_2, SF_NOISE_2, SF_PRODUCT, SF_MEANS };

typedef struct {
    int64_t every; /* measure one micro-batch in so many; 0: never */
    double decay;
    int now; /* the micro-batch at hand is measured */
    /* of the pending samples: sum of s |g|^2, and of s^2 */
    double squares, weight_2;
    int64_t n;
    double mean[SF_MEANS];
} sf_noise;

/* Take in the squared norm of a sample's gradient, times its weight squared. */
SF_INLINE void sf_add_square(sf_noise *noise, double squared, double weight) {
    noise->squares = fmin(noise->squares + squared / weight, DBL_MAX);
    noise->weight_2 = fmin(noise->weight_2 + weight * weight, DBL_MAX);
}

/* Take in a micro-batch: the sum of its weights, and the squared norm of its summed gradient. */
SF_INLINE void sf_add_measurement(sf_noise *noise, double weight, double squared) {
    const double q = noise->weight_2 / (weight * weight);
    if (!(q <= 0.9)) return; /* one sample, or nearly: it tells of no noise */
    const double mean = squared / (weight * weight);
    const double spread = (noise->squares / weight - mean) / (1.0 - q), signal = mean - q * spread;
    const double value[] = {1.0, 0.0, signal, spread, signal * signal, spread * spread,
                            signal * spread};
    uint64_t flags = sf_nonfinite(noise->squares * 2.0);
    for (int i = 0; i < SF_MEANS; i++) flags |= sf_nonfinite(value[i]);
    if (flags >> 63) return;
    const double decay = noise->decay, fresh = 1.0 - decay;
    for (int i = 0; i < SF_MEANS; i++) noise->mean[i] = decay * noise->mean[i] + fresh * value[i];
    noise->mean[SF_WEIGHT_2] = noise->mean[SF_WEIGHT_2] * decay + fresh * fresh;
    noise->n++;
}

/* The next size of micro-batches: the noise scale, at most twice or half the last size. */
SF_INLINE int64_t sf_follow_noise(const sf_noise *noise, int64_t size, int64_t minimum,
                                  int64_t maximum) {
    if (!noise->n) return size;
    const double signal = noise->mean[SF_SIGNAL], spread = noise->mean[SF_NOISE];
    const double most = fmin(2.0 * (double)size, (double)maximum);
    const double least = fmax(ceil(0.5 * (double)size), (double)minimum);
    /* a little more, or rounding would decide where simple numbers make a tie such as 7.5 */
    const double wanted = signal > 0.0 ? 1.0001 * (spread / signal) : INFINITY;
    return (int64_t)floor(fmin(fmax(wanted, least), most) + 0.5);
}

#endif
