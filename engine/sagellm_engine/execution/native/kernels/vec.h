// Sixteen floats at a time: AVX-512, AVX2, or plain loops that the compiler turns into what the CPU has.
//
// Every multiply-add is written out as fma(), and the compiler may not fuse others (-ffp-contract=off): results must
// not depend on which template a row went through.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace sage {

constexpr int LANES = 16;

#if defined(__AVX512F__)

struct Vec { __m512 v; };

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec splat(float a) { return {_mm512_set1_ps(a)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec times_power_of_2(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }
inline Vec from_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void to_half(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec from_bfloat(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
// The even and the odd ones of 32 bfloat16 numbers.
inline Vec even_bfloats(const void* p) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))}; }
inline Vec odd_bfloats(const void* p) {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(int(0xffff0000))))};
}
inline Vec from_ints(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct Vec { __m256 a, b; };

#define SAGE_BOTH(expression_a, expression_b) return {expression_a, expression_b}
inline Vec load(const float* p) { SAGE_BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
inline Vec splat(float x) { SAGE_BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
inline Vec fma(Vec x, Vec y, Vec z) { SAGE_BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
inline Vec operator+(Vec x, Vec y) { SAGE_BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
inline Vec operator-(Vec x, Vec y) { SAGE_BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
inline Vec operator*(Vec x, Vec y) { SAGE_BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
inline Vec operator/(Vec x, Vec y) { SAGE_BOTH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
inline Vec max(Vec x, Vec y) { SAGE_BOTH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
inline Vec min(Vec x, Vec y) { SAGE_BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
inline Vec round(Vec x) { SAGE_BOTH(_mm256_round_ps(x.a, NEAREST), _mm256_round_ps(x.b, NEAREST)); }
inline __m256 power_of_2(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Vec times_power_of_2(Vec x, Vec n) {
    SAGE_BOTH(_mm256_mul_ps(x.a, power_of_2(n.a)), _mm256_mul_ps(x.b, power_of_2(n.b)));
}
inline Vec from_half(const uint16_t* p) {
    SAGE_BOTH(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
              _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8))));
}
inline void to_half(uint16_t* p, Vec x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, NEAREST));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, NEAREST));
}
inline __m256 widened(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Vec from_bfloat(const uint16_t* p) { SAGE_BOTH(widened(p), widened(p + 8)); }
inline Vec even_bfloats(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    SAGE_BOTH(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(q), 16)),
              _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(q + 1), 16)));
}
inline Vec odd_bfloats(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
    SAGE_BOTH(_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(q), upper)),
              _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(q + 1), upper)));
}
inline Vec from_ints(const int32_t* p) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    SAGE_BOTH(_mm256_cvtepi32_ps(_mm256_loadu_si256(q)), _mm256_cvtepi32_ps(_mm256_loadu_si256(q + 1)));
}
inline float sum(Vec x) {
    const __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}
inline float largest(Vec x) {
    const __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}
#undef SAGE_BOTH

#else

struct Vec { float x[LANES]; };

template <class F>
inline Vec each(F f) {
    Vec r;
    for (int i = 0; i < LANES; i++) r.x[i] = f(i);
    return r;
}
inline float from_bits(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint32_t bits_of(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}
inline Vec load(const float* p) { return each([&](int i) { return p[i]; }); }
inline void store(float* p, Vec a) { std::memcpy(p, a.x, sizeof a.x); }
inline Vec splat(float a) { return each([&](int) { return a; }); }
inline Vec operator+(Vec a, Vec b) { return each([&](int i) { return a.x[i] + b.x[i]; }); }
inline Vec operator-(Vec a, Vec b) { return each([&](int i) { return a.x[i] - b.x[i]; }); }
inline Vec operator*(Vec a, Vec b) { return each([&](int i) { return a.x[i] * b.x[i]; }); }
inline Vec operator/(Vec a, Vec b) { return each([&](int i) { return a.x[i] / b.x[i]; }); }
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__FP_FAST_FMAF)
    return each([&](int i) { return std::fmaf(a.x[i], b.x[i], c.x[i]); });
#else
    return a * b + c;
#endif
}
inline Vec max(Vec a, Vec b) { return each([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; }); }
inline Vec min(Vec a, Vec b) { return each([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; }); }
inline Vec round(Vec a) { return each([&](int i) { return std::nearbyintf(a.x[i]); }); }
inline Vec times_power_of_2(Vec a, Vec n) {
    return each([&](int i) { return a.x[i] * from_bits(uint32_t(int32_t(n.x[i]) + 127) << 23); });
}
inline float sum(Vec a) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a.x[i] += a.x[i + width];
    return a.x[0];
}
inline float largest(Vec a) {
    float m = a.x[0];
    for (int i = 1; i < LANES; i++) m = a.x[i] > m ? a.x[i] : m;
    return m;
}
inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x400) return from_bits(sign | ((magnitude << 13) + 0x38000000));
    const float tiny = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24: a subnormal
    return sign ? -tiny : tiny;
}
inline uint16_t float_to_half(float f) {
    const uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (magnitude < 0x38800000) return uint16_t(sign | uint32_t(std::nearbyintf(from_bits(magnitude) * 16777216.0f)));
    return uint16_t(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
inline Vec from_half(const uint16_t* p) { return each([&](int i) { return half_to_float(p[i]); }); }
inline void to_half(uint16_t* p, Vec a) {
    for (int i = 0; i < LANES; i++) p[i] = float_to_half(a.x[i]);
}
inline Vec from_bfloat(const uint16_t* p) { return each([&](int i) { return from_bits(uint32_t(p[i]) << 16); }); }
inline Vec even_bfloats(const void* p) {
    const uint16_t* q = static_cast<const uint16_t*>(p);
    return each([&](int i) { return from_bits(uint32_t(q[2 * i]) << 16); });
}
inline Vec odd_bfloats(const void* p) {
    const uint16_t* q = static_cast<const uint16_t*>(p);
    return each([&](int i) { return from_bits(uint32_t(q[2 * i + 1]) << 16); });
}
inline Vec from_ints(const int32_t* p) { return each([&](int i) { return float(p[i]); }); }

#endif

// The nearest bfloat16, ties to even; NaN stays NaN.
inline uint16_t to_bfloat(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void to_bfloat(uint16_t* p, Vec a) {
#if defined(__AVX512BF16__)
    const __m256bh narrow = _mm512_cvtneps_pbh(a.v);
    std::memcpy(p, &narrow, 32);
#else
    float x[LANES];
    store(x, a);
    for (int i = 0; i < LANES; i++) p[i] = to_bfloat(x[i]);
#endif
}

// e^x for x <= 88, within 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
inline Vec exp(Vec x) {
    x = max(min(x, splat(88.0f)), splat(-87.0f));
    const Vec n = round(x * splat(1.44269504088896341f));
    const Vec f = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
    Vec p = splat(1.9875691500e-4f);
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = fma(p, f, splat(c));
    return times_power_of_2(fma(p, f * f, f + splat(1.0f)), n);
}

inline Vec tanh(Vec x) {
    const Vec e = exp(max(min(x + x, splat(40.0f)), splat(-40.0f)));
    return (e - splat(1.0f)) / (e + splat(1.0f));
}

}  // namespace sage
