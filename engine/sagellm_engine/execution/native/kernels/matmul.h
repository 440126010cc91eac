// The inner loops of matrix products: up to four tiles of outputs by up to twelve rows, in registers.
//
// Each number is summed over the inputs in their order, in one accumulator, whatever the number of rows and tiles, so
// it does not depend on which other rows are computed with it.
#pragma once

#include "weights.h"

namespace sage {

constexpr int MAX_ROWS = 12;   // of one call
constexpr int MAX_TILES = 4;   // of one call
constexpr int PANEL = LANES * MAX_TILES;

using Row = const uint8_t*;

// How many rows one call takes with so many tiles: the sums fill the registers.
constexpr int rows_at_once(int num_tiles) { return num_tiles > 2 ? MAX_ROWS / 2 : MAX_ROWS; }

// What memory to ask for meanwhile: from `offset` bytes after the weights on, `part` of what is read.
//
// Weights are read once for some rows and then again for the next ones. Only the first time do they come from memory,
// so each of these passes asks for its part of what will be read next: memory is never idle.
struct Ahead {
    size_t offset;
    float part;

    // In pass `pass` of `passes` over weights of `bytes` bytes, for weights `distance` bytes further on.
    static Ahead of(int pass, int passes, size_t bytes, size_t distance) {
        return {distance + bytes * pass / passes, 1.0f / float(passes)};
    }
};

#if defined(__AVX512BF16__)

template <int T, int R>
inline void bfloat_tiles(const Row* weights, const Row* rows, int ins, float* out, Ahead ahead) {
    __m512 sums[R][T];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) sums[r][t] = _mm512_setzero_ps();
    const size_t step = size_t(64 * ahead.part);
    size_t next = ahead.offset;
    for (int pair = 0; pair < ins / 2; pair++, next += step) {
        __m512bh w[T];
        for (int t = 0; t < T; t++) {
            w[t] = __m512bh(_mm512_loadu_si512(weights[t] + size_t(pair) * 64));
            __builtin_prefetch(weights[t] + next, 0, 2);
        }
        for (int r = 0; r < R; r++) {
            const __m512bh x = __m512bh(_mm512_set1_epi32(reinterpret_cast<const int32_t*>(rows[r])[pair]));
            for (int t = 0; t < T; t++) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], w[t], x);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) _mm512_storeu_ps(out + r * PANEL + t * LANES, sums[r][t]);
}

#endif

template <int KIND, int T, int R>
inline void float_tiles(const Row* weights, const Row* rows, int ins, float* out, Ahead ahead) {
    Vec sums[R][T];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) sums[r][t] = splat(0.0f);
    constexpr int STEP = KIND == BFLOAT16 ? 2 : 1;
    constexpr size_t BYTES = KIND == FLOAT16 ? 32 : 64;
    const size_t step = size_t(BYTES * ahead.part);
    size_t next = ahead.offset;
    for (int k = 0; k < ins; k += STEP, next += step) {
        for (int part = 0; part < STEP; part++) {
            Vec w[T];
            for (int t = 0; t < T; t++) {
                const uint8_t* at = weights[t] + size_t(k / STEP) * BYTES;
                if (part == 0) __builtin_prefetch(weights[t] + next, 0, 2);
                if constexpr (KIND == FLOAT32) w[t] = load(reinterpret_cast<const float*>(at));
                else if constexpr (KIND == FLOAT16) w[t] = from_half(reinterpret_cast<const uint16_t*>(at));
                else w[t] = part == 0 ? even_bfloats(at) : odd_bfloats(at);
            }
            for (int r = 0; r < R; r++) {
                const Vec x = splat(reinterpret_cast<const float*>(rows[r])[k + part]);
                for (int t = 0; t < T; t++) sums[r][t] = fma(w[t], x, sums[r][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) store(out + r * PANEL + t * LANES, sums[r][t]);
}

// Sixteen sums of integer products: += four inputs of each output, times the same four of a row.
#if defined(__AVX512VNNI__)

struct Sums { __m512i v; };
struct Fours { __m512i v; };  // unsigned bytes, four of each output

inline Sums no_sums() { return {_mm512_setzero_si512()}; }
inline Fours low_halves(const uint8_t* p) {
    return {_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(15))};
}
inline Fours high_halves(const uint8_t* p) {
    return {_mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4), _mm512_set1_epi8(15))};
}
inline Fours fours(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Sums dot(Sums sums, Fours w, int32_t x) { return {_mm512_dpbusd_epi32(sums.v, w.v, _mm512_set1_epi32(x))}; }
inline Sums plus(Sums a, Sums b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Vec floats(Sums sums) { return {_mm512_cvtepi32_ps(sums.v)}; }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct Sums { __m256i a, b; };
struct Fours { __m256i a, b; };

inline Sums no_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256i bytes_at(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Fours low_halves(const uint8_t* p) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(bytes_at(p), mask), _mm256_and_si256(bytes_at(p + 32), mask)};
}
inline Fours high_halves(const uint8_t* p) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi16(bytes_at(p), 4), mask),
            _mm256_and_si256(_mm256_srli_epi16(bytes_at(p + 32), 4), mask)};
}
inline Fours fours(const uint8_t* p) { return {bytes_at(p), bytes_at(p + 32)}; }
inline __m256i dot(__m256i sums, __m256i w, __m256i x) {
    // Unsigned times signed bytes would overflow 16 bits, so even and odd bytes are multiplied apart.
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}
inline Sums dot(Sums sums, Fours w, int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {dot(sums.a, w.a, all), dot(sums.b, w.b, all)};
}
inline Sums plus(Sums a, Sums b) { return {_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)}; }
inline Vec floats(Sums sums) {  // also where Vec is AVX-512, which came before its integer products
    int32_t x[LANES];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), sums.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x + 8), sums.b);
    return from_ints(x);
}

#else

struct Sums { int32_t x[LANES]; };
struct Fours { uint8_t x[4 * LANES]; };

inline Sums no_sums() { return {}; }
template <class F>
inline Fours bytes(const uint8_t* p, F f) {
    Fours r;
    for (int i = 0; i < 4 * LANES; i++) r.x[i] = uint8_t(f(p[i]));
    return r;
}
inline Fours low_halves(const uint8_t* p) { return bytes(p, [](int b) { return b & 15; }); }
inline Fours high_halves(const uint8_t* p) { return bytes(p, [](int b) { return b >> 4; }); }
inline Fours fours(const uint8_t* p) { return bytes(p, [](int b) { return b; }); }
inline Sums dot(Sums sums, const Fours& w, int32_t x) {
    int8_t four[4];
    std::memcpy(four, &x, 4);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) sums.x[i] += int32_t(w.x[4 * i + j]) * four[j];
    return sums;
}
inline Sums plus(Sums a, Sums b) {
    for (int i = 0; i < LANES; i++) a.x[i] += b.x[i];
    return a;
}
inline Vec floats(const Sums& sums) { return from_ints(sums.x); }

#endif

template <int KIND, int R>
inline void integer_tile(const uint8_t* weights, const Row* rows, int ins, float unit, float* out, Ahead ahead) {
    constexpr int HALVES = KIND == INT8_HALVES ? 2 : 1, FOURS = 8 / HALVES;
    const size_t bytes = group_bytes(KIND);
    Vec sums[R];
    const float *scales[R], *totals[R];
    for (int r = 0; r < R; r++) {
        sums[r] = splat(0.0f);
        scales[r] = group_scales(rows[r], ins), totals[r] = group_sums(rows[r], ins);
    }
    const size_t step = size_t(float(bytes) * ahead.part);
    const uint8_t* next = weights + ahead.offset;
    for (int group = 0; group < ins / GROUP; group++, weights += bytes, next += step) {
        for (size_t line = 0; line < step; line += 64) __builtin_prefetch(next + line, 0, 2);
        for (int half = 0; half < HALVES; half++) {
            const uint8_t* from = weights + half * (bytes / HALVES);
            Fours w[FOURS];
            for (int i = 0; i < FOURS; i++) {
                if constexpr (KIND == INT4) w[i] = i % 2 ? high_halves(from + i / 2 * 64) : low_halves(from + i / 2 * 64);
                else w[i] = fours(from + i * 64);
            }
            const uint16_t* numbers = reinterpret_cast<const uint16_t*>(from + (KIND == INT4 ? 256 : FOURS * 64));
            const Vec scale = from_half(numbers), minimum = from_half(numbers + LANES);
            for (int r = 0; r < R; r++) {
                const int32_t* x = reinterpret_cast<const int32_t*>(rows[r] + group * GROUP) + half * FOURS;
                Sums even = no_sums(), odd = no_sums();
                for (int i = 0; i < FOURS; i += 2) even = dot(even, w[i], x[i]), odd = dot(odd, w[i + 1], x[i + 1]);
                const float* total = totals[r] + 2 * group + half;
                sums[r] = fma(floats(plus(even, odd)), scale * splat(scales[r][group]), sums[r]);
                sums[r] = fma(minimum, splat(HALVES == 2 ? total[0] : total[0] + total[1]), sums[r]);
            }
        }
    }
    for (int r = 0; r < R; r++) store(out + r * PANEL, sums[r] * splat(unit));
}

template <int T, int R>
inline void tiles(int kind, const Row* weights, const float* units, const Row* rows, int ins, float* out, Ahead ahead) {
    switch (kind) {
        case FLOAT32: return float_tiles<FLOAT32, T, R>(weights, rows, ins, out, ahead);
        case FLOAT16: return float_tiles<FLOAT16, T, R>(weights, rows, ins, out, ahead);
        case BFLOAT16:
#if defined(__AVX512BF16__)
            return bfloat_tiles<T, R>(weights, rows, ins, out, ahead);
#else
            return float_tiles<BFLOAT16, T, R>(weights, rows, ins, out, ahead);
#endif
    }
    for (int t = 0; t < T; t++) {
        if (kind == INT4) integer_tile<INT4, R>(weights[t], rows, ins, units[t], out + t * LANES, ahead);
        else if (kind == INT8) integer_tile<INT8, R>(weights[t], rows, ins, units[t], out + t * LANES, ahead);
        else integer_tile<INT8_HALVES, R>(weights[t], rows, ins, units[t], out + t * LANES, ahead);
    }
}

template <int T, int R = rows_at_once(T)>
inline void some_tiles(int count, int kind, const Row* weights, const float* units, const Row* rows, int ins, float* out,
                       Ahead ahead) {
    if constexpr (R > 1) {
        if (count < R) return some_tiles<T, R - 1>(count, kind, weights, units, rows, ins, out, ahead);
    }
    tiles<T, R>(kind, weights, units, rows, ins, out, ahead);
}

// out[r * PANEL + t * 16 + …] = rows[r] · weights[t]ᵀ, without bias, for T tiles and up to rows_at_once(T) rows.
//
// `ins` is the padded number of inputs.
inline void multiply(int num_tiles, int num_rows, int kind, const Row* weights, const float* units, const Row* rows,
                     int ins, float* out, Ahead ahead) {
    switch (num_tiles) {
        case 1: return some_tiles<1>(num_rows, kind, weights, units, rows, ins, out, ahead);
        case 2: return some_tiles<2>(num_rows, kind, weights, units, rows, ins, out, ahead);
        case 3: return some_tiles<3>(num_rows, kind, weights, units, rows, ins, out, ahead);
        default: return some_tiles<4>(num_rows, kind, weights, units, rows, ins, out, ahead);
    }
}

}  // namespace sage
