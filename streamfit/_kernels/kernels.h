/* The arithmetic of streamfit: everything that a weight depends on is computed in these headers.
 *
 *     arithmetic.h  bits, exp, log      losses.h  values and slopes
 *     model.h       the model, schedules                  noise.h   the gradient noise scale
 *     rows.h        rows of numbers: dot product, gradient, standardizing   (for double and float)
 *     steps.h       one optimizer step over a range of weights              (for double and float)
 *     each.h        plain models that learn every row at once               (for double and float)
 *     learn.h       the update, and the loop over rows                      (for double and float)
 *
 * Fixed-lane arithmetic. A floating-point sum depends on the order of its terms, so every
 * reduction here has one order, written in the source: element j goes to partial sum j mod 8,
 * and one fixed tree combines the eight. Vector units of any width then give the same bits.
 * Build with -ffp-contract=off (no fused multiply-add) and without -ffast-math.
 *
 * Sparse is dense. A sparse row's columns rise, so its products reach their lanes in the dense
 * order; what is left out would have added 0. Only the sign of a zero can differ, which nothing
 * here depends on (and which digests leave out).
 *
 * A micro-batch's gradient is a sum, so rows are added to `grad` one by one and never kept. The
 * first row of a micro-batch is assigned rather than added to zero; so a micro-batch of one can
 * go straight from the row to the update, with the same bits and no gradient in between.
 *
 * An update is computed into `next_*`. Only when every number in it is finite do the two sets
 * of pointers change places; otherwise nothing has happened, and the micro-batch is dropped. */
#ifndef STREAMFIT_KERNELS_H
#define STREAMFIT_KERNELS_H

#include "model.h"
#include "sparse.h"

/* One baseline and one AVX2 version of each entry point, chosen when the program starts. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && \
    !defined(__clang__) && !defined(SF_BASELINE)
#define SF_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SF_CLONES
#endif

#define REAL double
#define F(name) sf_##name##_f64
#define BITS uint64_t
#define EXPONENT 0x7ff0000000000000u
#define ONE_MORE 0x0010000000000000u
#include "rows.h"
#include "steps.h"
#include "each.h"
#include "learn.h"
#undef REAL
#undef F
#undef BITS
#undef EXPONENT
#undef ONE_MORE

#define REAL float
#define F(name) sf_##name##_f32
#define BITS uint32_t
#define EXPONENT 0x7f800000u
#define ONE_MORE 0x00800000u
#include "rows.h"
#include "steps.h"
#include "each.h"
#include "learn.h"

#endif
