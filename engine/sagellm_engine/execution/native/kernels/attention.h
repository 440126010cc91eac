// Attention over the paged cache, 64 keys at a time with a running maximum (FlashAttention, Dao et al., 2022).
//
// A line is one query head of one row. Its keys are visited in tiles of 64 that begin at multiples of 64, and each tile
// is computed in the same order whatever other lines share it. So a line's result has the same bits whether its
// row is decoded, part of a prompt, or part of a chunk of one.
#pragma once

#include <vector>

#include "weights.h"

namespace sage {

constexpr int TILE = 64;
constexpr int MAX_LINES = 48;
constexpr int BLOCK_LINES = 6;  // whose sums are in registers together
constexpr float LOWEST = -3e38f;

// The cache of one layer: (blocks, keys and values, kv_heads, block_size, head_dim).
struct Cache {
    uint8_t* data;
    int kind, kv_heads, block_size, head_dim;

    size_t head_bytes() const { return size_t(head_dim) * (kind == FLOAT32 ? 4 : 2); }
    uint8_t* at(const int32_t* blocks, int position, int part, int head) const {
        const size_t block = size_t(blocks[position / block_size]) * 2 + part;
        return data + ((block * kv_heads + head) * block_size + position % block_size) * head_bytes();
    }
    void write(uint8_t* to, const float* from) const {
        for (int i = 0; i < head_dim; i += LANES) {
            float x[LANES] = {};
            const int n = std::min(LANES, head_dim - i);
            std::memcpy(x, from + i, 4 * n);
            uint16_t narrow[LANES];
            if (kind == FLOAT32) std::memcpy(to + 4 * i, x, 4 * n);
            else {
                if (kind == FLOAT16) to_half(narrow, load(x));
                else to_bfloat(narrow, load(x));
                std::memcpy(to + 2 * i, narrow, 2 * n);
            }
        }
    }
};

#if defined(__AVX512F__)
// to[i * stride + j] = rows[j][i], for 16 rows of 16 words.
inline void transpose(const uint8_t* const* rows, uint32_t* to, int stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(rows[i]);
    for (int i = 0; i < 16; i += 2)
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++) {
            b[i + 8 * half] = _mm512_shuffle_i32x4(a[i + 8 * half], a[i + 4 + 8 * half], 0x88);
            b[i + 4 + 8 * half] = _mm512_shuffle_i32x4(a[i + 8 * half], a[i + 4 + 8 * half], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_si512(to + i * stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}
#else
inline void transpose(const uint8_t* const* rows, uint32_t* to, int stride) {
    for (int j = 0; j < 16; j++)
        for (int i = 0; i < 16; i++) std::memcpy(to + i * stride + j, rows[j] + 4 * i, 4);
}
#endif

// Queries, keys and values as words of one float32, or of two bfloat16 where the CPU multiplies those in pairs.
#if defined(__AVX512BF16__)
inline bool in_pairs(int kind) { return kind == BFLOAT16; }
inline Vec pair_fma(Vec a, uint32_t b, Vec sums) {
    return {_mm512_dpbf16_ps(sums.v, __m512bh(a.v), __m512bh(_mm512_set1_epi32(int(b))))};
}
#else
inline bool in_pairs(int) { return false; }
inline Vec pair_fma(Vec, uint32_t, Vec sums) { return sums; }
#endif

template <bool PAIRS>
inline Vec word_fma(Vec a, uint32_t b, Vec sums) {
    if constexpr (PAIRS) return pair_fma(a, b, sums);
    float number;
    std::memcpy(&number, &b, 4);
    return fma(a, splat(number), sums);
}

// sums[l][v] += over `words` of table[word][16 v …] times line l's word, in registers.
template <bool PAIRS, int L, int V>
inline void accumulate(const uint32_t* table, int table_stride, const uint32_t* const* lines, int words,
                       float* const* sums) {
    Vec s[L][V];
    for (int l = 0; l < L; l++)
        for (int v = 0; v < V; v++) s[l][v] = load(sums[l] + v * LANES);
    for (int word = 0; word < words; word++) {
        Vec t[V];
        for (int v = 0; v < V; v++)
            t[v] = load(reinterpret_cast<const float*>(table + size_t(word) * table_stride + v * LANES));
        for (int l = 0; l < L; l++)
            for (int v = 0; v < V; v++) s[l][v] = word_fma<PAIRS>(t[v], lines[l][word], s[l][v]);
    }
    for (int l = 0; l < L; l++)
        for (int v = 0; v < V; v++) store(sums[l] + v * LANES, s[l][v]);
}

template <bool PAIRS, int V, int L = BLOCK_LINES>
inline void accumulate_lines(int count, const uint32_t* table, int table_stride, const uint32_t* const* lines, int words,
                             float* const* sums) {
    if constexpr (L > 1) {
        if (count < L) return accumulate_lines<PAIRS, V, L - 1>(count, table, table_stride, lines, words, sums);
    }
    accumulate<PAIRS, L, V>(table, table_stride, lines, words, sums);
}

// As above for any number of columns, 64 at a time.
template <bool PAIRS>
inline void accumulate(int count, int columns, const uint32_t* table, int table_stride, const uint32_t* const* lines,
                       int words, float* const* sums) {
    for (int from = 0; from < columns; from += 64) {
        float* part[BLOCK_LINES];
        for (int l = 0; l < count; l++) part[l] = sums[l] + from;
        const uint32_t* at = table + from;
        switch (std::min(4, (columns - from) / LANES)) {
            case 1: accumulate_lines<PAIRS, 1>(count, at, table_stride, lines, words, part); break;
            case 2: accumulate_lines<PAIRS, 2>(count, at, table_stride, lines, words, part); break;
            case 3: accumulate_lines<PAIRS, 3>(count, at, table_stride, lines, words, part); break;
            default: accumulate_lines<PAIRS, 4>(count, at, table_stride, lines, words, part);
        }
    }
}

struct Shape {
    int heads, kv_heads, head_dim, window;  // window 0: all tokens
    float scale, softcap;                   // softcap 0: none
};

// One thread's memory for `attend`.
class Attention {
  public:
    explicit Attention(int head_dim) : dim_(padded(head_dim)) {
        keys_.resize(size_t(dim_) * TILE), values_.resize(size_t(dim_) * TILE), staged_.resize(size_t(TILE) * dim_ * 4);
        queries_.resize(size_t(MAX_LINES) * dim_), weights_.resize(size_t(MAX_LINES) * TILE);
        outputs_.resize(size_t(MAX_LINES) * dim_), zeros_.resize(size_t(dim_) * 4 + 64);
    }

    // Rows `first` … `last - 1` of a span at KV head `head`: row i is at position `start` + i, its queries at
    // queries + i · query_stride, and its result goes to out + i · out_stride.
    void attend(const Shape& shape, const Cache& cache, const int32_t* blocks, int head, int start, int first, int last,
                const float* queries, size_t query_stride, float* out, size_t out_stride) {
        if (in_pairs(cache.kind)) run<true>(shape, cache, blocks, head, start, first, last, queries, query_stride, out, out_stride);
        else run<false>(shape, cache, blocks, head, start, first, last, queries, query_stride, out, out_stride);
    }

  private:
    template <bool PAIRS>
    void run(const Shape& shape, const Cache& cache, const int32_t* blocks, int head, int start, int first, int last,
             const float* queries, size_t query_stride, float* out, size_t out_stride) {
        const int group = shape.heads / shape.kv_heads, lines = (last - first) * group, dim = shape.head_dim;
        const int words = PAIRS ? dim_ / 2 : dim_;
        for (int line = 0; line < lines; line++) {
            const float* from = queries + (first + line / group) * query_stride + size_t(head * group + line % group) * dim;
            uint32_t* to = queries_.data() + size_t(line) * dim_;
            float row[512] = {};
            std::memcpy(row, from, 4 * size_t(dim));
            if constexpr (PAIRS)
                for (int i = 0; i < dim_; i += LANES) to_bfloat(reinterpret_cast<uint16_t*>(to) + i, load(row + i));
            else std::memcpy(to, row, 4 * size_t(dim_));
            largest_[line] = LOWEST, total_[line] = 0;
        }
        std::fill(outputs_.begin(), outputs_.begin() + size_t(lines) * dim_, 0.0f);
        const int end = start + last;
        const int begin = shape.window ? std::max(0, start + first - shape.window + 1) : 0;
        for (int tile = begin / TILE * TILE; tile < end; tile += TILE) {
            load_tile<PAIRS>(cache, blocks, head, tile, std::min(TILE, end - tile));
            for (int base = 0; base < lines; base += BLOCK_LINES)
                visit<PAIRS>(shape, group, start + first, tile, base, std::min(BLOCK_LINES, lines - base), words);
        }
        for (int line = 0; line < lines; line++) {
            float* to = out + (first + line / group) * out_stride + size_t(head * group + line % group) * dim;
            const float* from = outputs_.data() + size_t(line) * dim_;
            for (int i = 0; i < dim; i++) to[i] = from[i] / total_[line];
        }
    }

    // Lines `base` … of the item meet the keys and values of the tile.
    template <bool PAIRS>
    void visit(const Shape& shape, int group, int position, int tile, int base, int count, int words) {
        int from[BLOCK_LINES], to[BLOCK_LINES], used = 0;
        const uint32_t* lines[BLOCK_LINES];
        float *scores[BLOCK_LINES], *outputs[BLOCK_LINES];
        for (int l = 0; l < count; l++) {
            const int at = position + (base + l) / group;
            from[l] = shape.window ? std::min(TILE, std::max(0, at - shape.window + 1 - tile)) : 0;
            to[l] = std::max(from[l], std::min(TILE, at + 1 - tile));
            if (to[l] > from[l]) used = std::max(used, to[l]);
            lines[l] = queries_.data() + size_t(base + l) * dim_;
            scores[l] = scores_ + l * TILE, outputs[l] = outputs_.data() + size_t(base + l) * dim_;
        }
        if (!used) return;
        const int columns = (used + LANES - 1) / LANES * LANES;
        std::fill(scores_, scores_ + count * TILE, 0.0f);
        accumulate<PAIRS>(count, columns, keys_.data(), TILE, lines, words, scores);
        for (int l = 0; l < count; l++) {
            weigh<PAIRS>(shape, base + l, scores[l], from[l], to[l], columns, outputs[l]);
            lines[l] = weights_.data() + size_t(base + l) * TILE;
        }
        accumulate<PAIRS>(count, dim_, values_.data(), dim_, lines, PAIRS ? columns / 2 : columns, outputs);
    }

    // From scores to the weights of the values; what was summed so far is scaled to the new maximum.
    template <bool PAIRS>
    void weigh(const Shape& shape, int line, float* scores, int from, int to, int columns, float* outputs) {
        uint32_t* weights = weights_.data() + size_t(line) * TILE;
        if (from >= to) return void(std::fill(weights, weights + TILE, 0u));
        Vec top = splat(LOWEST);
        for (int i = 0; i < columns; i += LANES) {
            Vec s = load(scores + i) * splat(shape.scale);
            if (shape.softcap > 0) s = tanh(s / splat(shape.softcap)) * splat(shape.softcap);
            store(scores + i, s);
        }
        std::fill(scores, scores + from, LOWEST), std::fill(scores + to, scores + columns, LOWEST);
        for (int i = 0; i < columns; i += LANES) top = max(top, load(scores + i));
        const float best = std::max(largest_[line], largest(top));
        float factor[LANES];
        store(factor, exp(splat(largest_[line] - best)));
        Vec total = splat(0.0f);
        for (int i = 0; i < columns; i += LANES) store(scores + i, exp(load(scores + i) - splat(best)));
        std::fill(scores, scores + from, 0.0f), std::fill(scores + to, scores + columns, 0.0f);
        for (int i = 0; i < TILE; i += LANES) {  // the same additions for a tile that is not full
            const Vec p = i < columns ? load(scores + i) : splat(0.0f);
            total = total + p;
            if constexpr (PAIRS) to_bfloat(reinterpret_cast<uint16_t*>(weights) + i, p);
            else store(reinterpret_cast<float*>(weights) + i, p);
        }
        total_[line] = total_[line] * factor[0] + sum(total);
        if (best != largest_[line])
            for (int i = 0; i < dim_; i += LANES) store(outputs + i, load(outputs + i) * splat(factor[0]));
        largest_[line] = best;
    }

    // keys_ (words of a head, 64 tokens) and values_ (tokens, or pairs of them, head_dim) from the cache.
    template <bool PAIRS>
    void load_tile(const Cache& cache, const int32_t* blocks, int head, int tile, int tokens) {
        const uint8_t* rows[TILE];
        for (int part = 0; part < 2; part++) {
            for (int i = 0; i < TILE; i++) {
                rows[i] = zeros_.data();
                if (i >= tokens) continue;
                const uint8_t* from = cache.at(blocks, tile + i, part, head);
                rows[i] = PAIRS ? staged_bfloats(cache, from, i) : staged_floats(cache, from, i);
            }
            const int columns = (tokens + LANES - 1) / LANES * LANES;
            if (part == 0) {
                for (int i = 0; i < columns; i += LANES)
                    for (int word = 0; word < (PAIRS ? dim_ / 2 : dim_); word += LANES) {
                        const uint8_t* at[LANES];
                        for (int j = 0; j < LANES; j++) at[j] = rows[i + j] + 4 * word;
                        transpose(at, keys_.data() + size_t(word) * TILE + i, TILE);
                    }
            } else if constexpr (PAIRS) {
                for (int i = 0; i < columns; i += 2) interleave(rows[i], rows[i + 1], values_.data() + size_t(i / 2) * dim_);
            } else {
                for (int i = 0; i < columns; i++) std::memcpy(values_.data() + size_t(i) * dim_, rows[i], 4 * size_t(dim_));
            }
        }
    }

    const uint8_t* staged_bfloats(const Cache& cache, const uint8_t* from, int i) {
        if (cache.head_dim == dim_) return from;
        uint8_t* to = staged_.data() + size_t(i) * dim_ * 4;
        std::memset(to, 0, 2 * size_t(dim_));
        std::memcpy(to, from, 2 * size_t(cache.head_dim));
        return to;
    }

    const uint8_t* staged_floats(const Cache& cache, const uint8_t* from, int i) {
        if (cache.kind == FLOAT32 && cache.head_dim == dim_) return from;
        uint8_t* to = staged_.data() + size_t(i) * dim_ * 4;
        std::memset(to, 0, 4 * size_t(dim_));
        if (cache.kind == FLOAT32) return std::memcpy(to, from, cache.head_bytes()), to;
        for (int k = 0; k < cache.head_dim; k += LANES) {
            uint16_t narrow[LANES] = {};
            std::memcpy(narrow, from + 2 * k, 2 * size_t(std::min(LANES, cache.head_dim - k)));
            store(reinterpret_cast<float*>(to) + k, cache.kind == FLOAT16 ? from_half(narrow) : from_bfloat(narrow));
        }
        return to;
    }

    // Numbers of two rows of bfloat16, in turn.
    void interleave(const uint8_t* a, const uint8_t* b, uint32_t* to) const {
#if defined(__AVX512BW__)
        static const __m512i low = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
        const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        for (int i = 0; i < dim_; i += 32) {
            const __m512i x = _mm512_loadu_si512(a + 2 * i), y = _mm512_loadu_si512(b + 2 * i);
            _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(x, low, y));
            _mm512_storeu_si512(to + i + 16, _mm512_permutex2var_epi16(x, high, y));
        }
#else
        const uint16_t *x = reinterpret_cast<const uint16_t*>(a), *y = reinterpret_cast<const uint16_t*>(b);
        for (int i = 0; i < dim_; i++) to[i] = uint32_t(x[i]) | uint32_t(y[i]) << 16;
#endif
    }

    int dim_;
    std::vector<uint32_t> keys_, values_, queries_, weights_;
    std::vector<float> outputs_;
    std::vector<uint8_t> staged_, zeros_;
    float scores_[BLOCK_LINES * TILE], largest_[MAX_LINES], total_[MAX_LINES];
};

}  // namespace sage
