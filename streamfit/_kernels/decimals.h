/* Decimal numbers, as JSON writes them, as the nearest doubles.
 *
 * A number is w * 10^q with an integer w. Its product with the 128 highest bits of 10^q nearly always
 * has the bits that decide how to round: D. Lemire, "Number parsing at a gigabyte per second",
 * Software: Practice and Experience 51 (2021), with M. Eisel. Whatever it does not decide, and what is
 * no normal double (but for 0), is left to the caller's slower way, as is w of more than 19 digits. */
#ifndef STREAMFIT_DECIMALS_H
#define STREAMFIT_DECIMALS_H

#include <stdint.h>
#include <string.h>

enum { SF_LEAST_POWER = -342, SF_MOST_POWER = 308, SF_MOST_DIGITS = 19 };

typedef struct {
    uint64_t high, low;
} sf_power;

typedef unsigned __int128 sf_product;

/* The double nearest to w * 10^q, to even between two; returns 0 where that is not decided. */
static inline int sf_nearest_double(uint64_t w, int64_t q, const sf_power *powers, double *value) {
    *value = 0.0;
    if (w == 0) return 1;
    if (q < SF_LEAST_POWER || q > SF_MOST_POWER) return 0;
    const sf_power *power = powers + (q - SF_LEAST_POWER);
    const int shift = __builtin_clzll(w);
    w <<= shift;
    const sf_product product = (sf_product)w * power->high;
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    if ((high & 0x1FF) == 0x1FF) { /* a carry could reach the bits that are kept */
        const uint64_t more = (uint64_t)((sf_product)w * power->low >> 64);
        low += more;
        high += low < more;
    }
    if (low == UINT64_MAX && (q < -27 || q > 55)) return 0;
    const int upper = (int)(high >> 63);
    uint64_t mantissa = high >> (upper + 9); /* one bit more than a double has */
    int64_t exponent = ((217706 * q) >> 16) + 63 + 1023 + upper - shift; /* 217706 / 2^16: log2(10) */
    if (low <= 1 && q >= -4 && q <= 23 && (mantissa & 3) == 1 && mantissa << (upper + 9) == high)
        mantissa--; /* exactly between two */
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if (mantissa >> 53) {
        mantissa >>= 1;
        exponent++;
    }
    if (exponent <= 0 || exponent >= 0x7FF) return 0;
    const uint64_t bits = (mantissa & 0xFFFFFFFFFFFFF) | (uint64_t)exponent << 52;
    memcpy(value, &bits, sizeof bits);
    return 1;
}

static inline const char *sf_read_digits(const char *at, uint64_t *w) {
    for (; (unsigned char)(*at - '0') < 10; at++) *w = 10 * *w + (uint64_t)(*at - '0');
    return at;
}

/* Read the number at `at`, in a text that ends with a NUL. Returns where it ends; NULL if it is none in
 * JSON's grammar, or one that is left to the slower way. */
static inline const char *sf_read_number(const char *at, const sf_power *powers, double *value,
                                         int *is_integer) {
    const int negative = *at == '-';
    const char *const first = at + negative;
    uint64_t w = 0;
    int64_t q = 0;
    at = sf_read_digits(first, &w);
    int64_t digits = at - first;
    if (digits == 0 || (*first == '0' && digits > 1)) return NULL;
    *is_integer = 1;
    if (*at == '.') {
        const char *const fraction = at + 1;
        at = sf_read_digits(fraction, &w);
        q = fraction - at;
        if (q == 0) return NULL;
        digits -= q;
        *is_integer = 0;
    }
    if (digits > SF_MOST_DIGITS) {
        for (const char *zero = first; *zero == '0' || *zero == '.'; zero++) digits -= *zero == '0';
        if (digits > SF_MOST_DIGITS) return NULL;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        const int down = *at == '-';
        at += down || *at == '+';
        const char *const start = at;
        uint64_t power = 0;
        at = sf_read_digits(at, &power);
        if (at == start || at - start > 9) return NULL;
        q += down ? -(int64_t)power : (int64_t)power;
        *is_integer = 0;
    }
    if (!sf_nearest_double(w, q, powers, value)) return NULL;
    if (negative && (w != 0 || !*is_integer)) *value = -*value; /* the integer -0 is 0 */
    return at;
}

#endif
