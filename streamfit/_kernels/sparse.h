/* Samples as sparse rows: columns in rising order, each once. */
#ifndef STREAMFIT_SPARSE_H
#define STREAMFIT_SPARSE_H

#include <stdint.h>
#include <string.h>

typedef struct {
    double value;
    int32_t column;
} sf_entry;

/* Ask memory for what will be read soon. */
static inline void sf_prefetch(const void *address) {
#ifdef __GNUC__
    __builtin_prefetch(address);
#else
    (void)address;
#endif
}

#define SF_BUCKETS 256

/* Sort entries by column, those of one column by value. Columns of hashed names are spread evenly,
 * so entries are put into buckets by the high bits first and are nearly in order then. */
static inline void sf_sort_entries(sf_entry *entry, sf_entry *spare, int64_t n, int64_t n_columns) {
    if (n > 24) {
        int shift = 0;
        while ((n_columns - 1) >> shift >= SF_BUCKETS) shift++;
        uint32_t place[SF_BUCKETS] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++) place[entry[i].column >> shift]++;
        for (int b = 0; b < SF_BUCKETS; b++) {
            const uint32_t here = place[b];
            place[b] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++) spare[place[entry[i].column >> shift]++] = entry[i];
        memcpy(entry, spare, n * sizeof *entry);
    }
    for (int64_t i = 1; i < n; i++) {
        const sf_entry e = entry[i];
        int64_t j = i;
        for (; j > 0 && (entry[j - 1].column > e.column ||
                         (entry[j - 1].column == e.column && entry[j - 1].value > e.value)); j--)
            entry[j] = entry[j - 1];
        entry[j] = e;
    }
}

/* Write sorted entries as a row; the values of one column are added up. Returns its length. */
static inline int64_t sf_write_row(const sf_entry *entry, int64_t n, double *value, int32_t *column) {
    int64_t length = 0;
    for (int64_t i = 0; i < n; i++) {
        if (length && column[length - 1] == entry[i].column) {
            value[length - 1] += entry[i].value;
        } else {
            column[length] = entry[i].column;
            value[length++] = entry[i].value;
        }
    }
    return length;
}

/* Sort columns, each of which is there once: eight bits at a time, the lowest first. */
static inline void sf_sort_columns(int32_t *column, int32_t *spare, int64_t n, int64_t n_columns) {
    for (int shift = 0; shift < 32 && (n_columns - 1) >> shift; shift += 8) {
        int64_t place[SF_BUCKETS] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++) place[column[i] >> shift & (SF_BUCKETS - 1)]++;
        for (int b = 0; b < SF_BUCKETS; b++) {
            const int64_t here = place[b];
            place[b] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++) spare[place[column[i] >> shift & (SF_BUCKETS - 1)]++] = column[i];
        memcpy(column, spare, n * sizeof *column);
    }
}

/* MurmurHash3, x86, 32 bits (Appleby 2011, public domain). */
static inline uint32_t sf_murmur3(const unsigned char *data, int64_t n, uint32_t seed) {
    uint32_t h = seed;
#define SF_ROTATE(x, r) ((x) << (r) | (x) >> (32 - (r)))
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint32_t k = (uint32_t)data[i] | (uint32_t)data[i + 1] << 8 | (uint32_t)data[i + 2] << 16 |
                     (uint32_t)data[i + 3] << 24;
        k *= 0xcc9e2d51u;
        h ^= SF_ROTATE(k, 15) * 0x1b873593u;
        h = SF_ROTATE(h, 13) * 5 + 0xe6546b64u;
    }
    uint32_t k = 0;
    if (n - i >= 3) k ^= (uint32_t)data[i + 2] << 16;
    if (n - i >= 2) k ^= (uint32_t)data[i + 1] << 8;
    if (n - i >= 1) {
        k ^= data[i];
        k *= 0xcc9e2d51u;
        h ^= SF_ROTATE(k, 15) * 0x1b873593u;
    }
#undef SF_ROTATE
    h ^= (uint32_t)n;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

#endif
