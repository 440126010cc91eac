// Rows of activations in the form that a matrix product reads them.
//
// A row is padded with zeros to a multiple of 32 numbers. Quantized weights are multiplied with rows of int8 in groups
// of 32: the numbers, then per group of 32 the scale, then per group of 16 the sum of what the numbers stand for.
#pragma once

#include <algorithm>

#include "vec.h"

namespace sage {

enum Form : int32_t { FLOAT_ROWS, BFLOAT_ROWS, INT8_ROWS };

constexpr int GROUP = 32;

inline int padded(int n) { return (n + GROUP - 1) / GROUP * GROUP; }

inline size_t row_bytes(int form, int width) {
    const size_t n = padded(width);
    const size_t bytes = form == FLOAT_ROWS ? 4 * n : form == BFLOAT_ROWS ? 2 * n : n + 4 * (n / 32) + 4 * (n / 16);
    return (bytes + 63) / 64 * 64;
}

inline const float* group_scales(const uint8_t* row, int padded_width) {
    return reinterpret_cast<const float*>(row + padded_width);
}
inline const float* group_sums(const uint8_t* row, int padded_width) {
    return group_scales(row, padded_width) + padded_width / 32;
}

// Writes 32 numbers at `column`, a multiple of 32, of a row.
inline void write_group(int form, uint8_t* row, int padded_width, int column, const float* x) {
    const Vec a = load(x), b = load(x + LANES);
    if (form == FLOAT_ROWS) {
        float* to = reinterpret_cast<float*>(row) + column;
        store(to, a), store(to + LANES, b);
        return;
    }
    if (form == BFLOAT_ROWS) {
        uint16_t* to = reinterpret_cast<uint16_t*>(row) + column;
        to_bfloat(to, a), to_bfloat(to + LANES, b);
        return;
    }
    const Vec zero = splat(0.0f);
    const float range = largest(max(max(a, zero - a), max(b, zero - b)));
    const float scale = range / 127.0f, inverse = range > 0 ? 127.0f / range : 0.0f;
    float numbers[GROUP];
    store(numbers, round(a * splat(inverse))), store(numbers + LANES, round(b * splat(inverse)));
    int8_t* to = reinterpret_cast<int8_t*>(row) + column;
    for (int i = 0; i < GROUP; i++) to[i] = int8_t(numbers[i]);
    float* scales = const_cast<float*>(group_scales(row, padded_width));
    float* sums = const_cast<float*>(group_sums(row, padded_width));
    scales[column / 32] = scale;
    sums[column / 16] = sum(load(numbers)) * scale;  // whole numbers below 2^24: exact
    sums[column / 16 + 1] = sum(load(numbers + LANES)) * scale;
}

// Writes a whole row; what is at `x` beyond `width`, up to the padding, must be writable.
inline void write_row(int form, uint8_t* row, int width, float* x) {
    const int n = padded(width);
    std::fill(x + width, x + n, 0.0f);
    for (int column = 0; column < n; column += GROUP) write_group(form, row, n, column, x + column);
}

}  // namespace sage
