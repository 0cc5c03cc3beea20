/* Exact sums: the same in any order, and in whatever parts they were made. A sum is an integer in
 * units of the smallest double, in digits of 32 bits that carry late (a long accumulator, after U.
 * Kulisch). */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "parallel.h"

enum {
    MANTISSA = 52,
    DIGIT = 32,
    SMALLEST = 1074, /* the unit is 2^-1074 */
    ROWS = 1024      /* whose squares are made together */
};
_Static_assert((2046 + MANTISSA) / DIGIT + 2 < DN_EXACT_DIGITS, "room for carries");

static inline void add_number(dn_exact_sum *sum, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int exponent = (int)(bits >> MANTISSA & 0x7ff);
    if (exponent == 0x7ff || bits >> 63) { /* there are no negative squares */
        sum->other += x;
        return;
    }
    uint64_t mantissa = bits & (((uint64_t)1 << MANTISSA) - 1);
    if (exponent) mantissa |= (uint64_t)1 << MANTISSA;
    const int at = exponent ? exponent - 1 : 0, shift = at % DIGIT;
    int64_t *digits = sum->digits + at / DIGIT;
    const uint64_t low = mantissa << shift, high = shift ? mantissa >> (64 - shift) : 0;
    digits[0] += (int64_t)(low & UINT32_MAX);
    digits[1] += (int64_t)(low >> DIGIT);
    digits[2] += (int64_t)high;
}

void dn__exact_add(dn_exact_sum *sum, const dn_exact_sum *other) {
    for (int i = 0; i < DN_EXACT_DIGITS; i++) sum->digits[i] += other->digits[i];
    sum->other += other->other;
}

double dn__exact_value(const dn_exact_sum *sum) {
    uint64_t digits[DN_EXACT_DIGITS], carry = 0;
    int top = -1;
    if (sum->other != 0) return sum->other; /* infinite or nan */
    for (int i = 0; i < DN_EXACT_DIGITS; i++) {
        carry += (uint64_t)sum->digits[i];
        digits[i] = carry & UINT32_MAX;
        carry >>= DIGIT;
        if (digits[i]) top = i;
    }
    double value = 0;
    for (int i = top; i >= 0 && i > top - 3; i--)
        value += ldexp((double)digits[i], DIGIT * i - SMALLEST);
    return value;
}

typedef struct rows_of {
    size_t row_size;
    const dn_real *block;
    double *squares;
} rows_of;
static void square_rows(const void *context, size_t from, size_t n) {
    const rows_of *r = context;
    for (size_t i = from; i < from + n; i++)
        r->squares[i] = dn__sum_squares(r->row_size, r->block + i * r->row_size);
}

void dn__exact_add_rows(dn_exact_sum *sum, size_t rows, size_t row_size, const dn_real *block) {
    double squares[ROWS];
    for (size_t n; rows; rows -= n, block += n * row_size) {
        n = rows < ROWS ? rows : ROWS;
        const rows_of r = {row_size, block, squares};
        dn__parallel_ranges(n, 0.06 * (double)row_size, 1, square_rows, &r);
        for (size_t i = 0; i < n; i++) add_number(sum, squares[i]);
    }
}
