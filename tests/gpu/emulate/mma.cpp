/*
 * Tensor-core instructions on the CPU. All figures are the PTX manual's: of lane l, group g = l / 4 and t = l % 4.
 */
#include <ht_emulated_mma.h>

#include "tests/gpu/emulate/emulate.h"

/* What each lane gives: its four registers of A, its two of B. */
struct fragments {
    uint32_t a[4], b[2];
};

/* Two bf16 in a word, the first in the low half. */
static void unpack(double to[2], const unsigned char *word) {
    uint32_t bits;
    memcpy(&bits, word, sizeof bits);
    to[0] = (double)__uint_as_float(bits << 16);
    to[1] = (double)__uint_as_float(bits & 0xffff0000u);
}

/* A [16, 16]: register i of lane (g, t) holds row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the one after it. */
static void a_row(double to[16], const ht_emulated_lane *lanes, int row) {
    for (int col = 0; col < 16; col += 2) {
        int lane = row % 8 * 4 + col % 8 / 2, i = row / 8 + 2 * (col / 8);
        unpack(to + col, lanes[lane] + offsetof(fragments, a) + 4 * i);
    }
}
/* B [16, 8]: register i holds rows 2 t + 8 i and the one after it, of column g. */
static void b_column(double to[16], const ht_emulated_lane *lanes, int col) {
    for (int row = 0; row < 16; row += 2) {
        int lane = col * 4 + row % 8 / 2, i = row / 8;
        unpack(to + row, lanes[lane] + offsetof(fragments, b) + 4 * i);
    }
}

/* D [16, 8]: element i holds row g + 8 (i / 2), column 2 t + i % 2. The products are exact, their sum is rounded once. */
void ht_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line) {
    fragments given;
    memcpy(given.a, a, sizeof given.a);
    memcpy(given.b, b, sizeof given.b);
    const ht_emulated_lane *lanes = ht_emulated_exchange(~0u, &given, sizeof given, file, line);
    int g = ht_emulated_lane_id / 4, t = ht_emulated_lane_id % 4;
    double rows[2][16], cols[2][16];
    for (int half = 0; half < 2; half++) {
        a_row(rows[half], lanes, g + 8 * half);
        b_column(cols[half], lanes, 2 * t + half);
    }
    for (int i = 0; i < 4; i++) {
        double sum = (double)d[i];
        for (int k = 0; k < 16; k++)
            sum += rows[i / 2][k] * cols[i % 2][k];
        d[i] = (float)sum;
    }
}

/* Lane 8 m + r gives the address of row r of matrix m, 8 elements; the rows as they are at that moment. */
static const ht_emulated_lane *rows(const void *row, const char *file, int line) {
    if ((uintptr_t)row % 16) ht_emulated_fail("ldmatrix: an address is not a multiple of 16", file, line);
    ht_emulated_reads(row, 16);
    return ht_emulated_exchange(~0u, row, 16, file, line);
}

/* Register m: row g, columns 2 t and 2 t + 1 of matrix m. */
void ht_ldmatrix(uint32_t (&r)[4], const void *row, const char *file, int line) {
    const ht_emulated_lane *lanes = rows(row, file, line);
    int g = ht_emulated_lane_id / 4, t = ht_emulated_lane_id % 4;
    for (int m = 0; m < 4; m++)
        memcpy(&r[m], lanes[8 * m + g] + 4 * t, 4);
}

/* Register m: rows 2 t and 2 t + 1, column g of matrix m. */
void ht_ldmatrix_trans(uint32_t (&r)[4], const void *row, const char *file, int line) {
    const ht_emulated_lane *lanes = rows(row, file, line);
    int g = ht_emulated_lane_id / 4, t = ht_emulated_lane_id % 4;
    for (int m = 0; m < 4; m++)
        for (int half = 0; half < 2; half++)
            memcpy((char *)&r[m] + 2 * half, lanes[8 * m + 2 * t + half] + 2 * g, 2);
}

void ht_prefetch(const void *from, unsigned bytes) {
    if (((uintptr_t)from | bytes) % 16) ht_emulated_fail("prefetch: not a multiple of 16", __FILE__, __LINE__);
    const volatile unsigned char *at = (const volatile unsigned char *)from;
    for (unsigned i = 0; i < bytes; i += 16)
        (void)at[i];
}

/* Both sides are touched here, where a sanitizer sees it; NaN until the copy is waited for. */
void ht_emulated_copy(void *to, const void *from, int bytes, int size, const char *file, int line) {
    if (((uintptr_t)to | (uintptr_t)from) % (unsigned)size)
        ht_emulated_fail("cp.async: an address is not a multiple of the size", file, line);
    unsigned char all[16] = {0};
    ht_emulated_reads(from, (size_t)bytes);
    memcpy(all, from, (size_t)bytes);
    memset(to, 0xff, (size_t)size);
    ht_emulated_copy_begin(to, all, size);
}
