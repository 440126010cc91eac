// Attention over the paged cache, 64 keys at a time with a running maximum (FlashAttention, Dao et al., 2022).
//
// A line is one query head of one row. Its keys are visited in tiles of four groups, and each tile is computed in the
// same order whatever other lines share it. So a line's result has the same bits whether its row is decoded, part of a
// prompt, or part of a chunk of one.
#pragma once

#include <vector>

#include "cache.h"

namespace sage {

constexpr int TILE_GROUPS = 4;
constexpr int TILE = TILE_GROUPS * GROUP_TOKENS;
constexpr int MAX_LINES = 96;
constexpr int BLOCK_LINES = 6;  // whose sums are in registers together
constexpr int MAX_HEAD_DIM = 512;
constexpr float LOWEST = -3e38f;

// sums += sixteen numbers of a table times one of a line, or sixteen pairs times a pair.
template <int ELEMENT>
inline Vec table_fma(const uint8_t* table, uint32_t word, Vec sums) {
#if defined(__AVX512BF16__)
    if constexpr (ELEMENT == PAIR) {
        const __m512bh pairs = __m512bh(_mm512_loadu_si512(table));
        return {_mm512_dpbf16_ps(sums.v, pairs, __m512bh(_mm512_set1_epi32(int(word))))};
    }
#endif
    float number;
    std::memcpy(&number, &word, 4);
    if constexpr (ELEMENT == HALF) return fma(from_half(reinterpret_cast<const uint16_t*>(table)), splat(number), sums);
    if constexpr (ELEMENT == BFLOAT) return fma(from_bfloat(reinterpret_cast<const uint16_t*>(table)), splat(number), sums);
    return fma(load(reinterpret_cast<const float*>(table)), splat(number), sums);
}

// Tables, and those that will be read next: memory is asked for them meanwhile. Neither, where `next` is null.
struct Tables {
    const uint8_t *now[TILE_GROUPS], *next[TILE_GROUPS];
};

// How the numbers of tables and lines are walked through: `parts` times `steps`, where a line has `words` a part.
struct Walk {
    int parts, steps, words;
    size_t stride;  // bytes from one step of a table to the next
};

// sums[l][16 v …] += over all steps of table v times lines[l], in registers; each part has tables of its own.
template <int ELEMENT, int L, int V>
inline void accumulate(const Tables* parts, Walk walk, const uint32_t* const* lines, float* const* sums) {
    Vec s[L][V];
    for (int l = 0; l < L; l++)
        for (int v = 0; v < V; v++) s[l][v] = load(sums[l] + v * LANES);
    for (int part = 0, first = 0; part < walk.parts; part++, first += walk.words) {
        const Tables& tables = parts[part];
        const bool ahead = tables.next[0];
        for (int step = 0; step < walk.steps; step++) {
            const size_t at = step * walk.stride;
            if (ahead)
                for (int v = 0; v < V; v++) __builtin_prefetch(tables.next[v] + at);
            for (int l = 0; l < L; l++)
                for (int v = 0; v < V; v++) s[l][v] = table_fma<ELEMENT>(tables.now[v] + at, lines[l][first + step], s[l][v]);
        }
    }
    for (int l = 0; l < L; l++)
        for (int v = 0; v < V; v++) store(sums[l] + v * LANES, s[l][v]);
}

template <int ELEMENT, int V, int L = BLOCK_LINES>
inline void accumulate_lines(int count, const Tables* parts, Walk walk, const uint32_t* const* lines, float* const* sums) {
    if constexpr (L > 1) {
        if (count < L) return accumulate_lines<ELEMENT, V, L - 1>(count, parts, walk, lines, sums);
    }
    accumulate<ELEMENT, L, V>(parts, walk, lines, sums);
}

template <int ELEMENT>
inline void accumulate(int count, int vectors, const Tables* parts, Walk walk, const uint32_t* const* lines,
                       float* const* sums) {
    switch (vectors) {
        case 1: return accumulate_lines<ELEMENT, 1>(count, parts, walk, lines, sums);
        case 2: return accumulate_lines<ELEMENT, 2>(count, parts, walk, lines, sums);
        case 3: return accumulate_lines<ELEMENT, 3>(count, parts, walk, lines, sums);
        default: return accumulate_lines<ELEMENT, 4>(count, parts, walk, lines, sums);
    }
}

struct Shape {
    int heads, kv_heads, head_dim, window;  // window 0: all tokens
    float scale, softcap;                   // softcap 0: none
};

// The beginning of a sequence's keys and values at a KV head.
struct Start {
    const int32_t* blocks;
    int head, tokens;
};

// Rows `first` … `last` - 1 of a span at KV head `head`: row i is at position `start` + i, its queries are at
// queries + i · query_stride, and its result goes to out + i · out_stride. `next` is what this thread probably reads then.
struct Lines {
    const int32_t* blocks;
    int head, start, first, last;
    const float* queries;
    size_t query_stride;
    float* out;
    size_t out_stride;
    Start next;
};

// One thread's memory for attention.
class Attention {
  public:
    explicit Attention(int head_dim) : dim_((head_dim + LANES - 1) / LANES * LANES) {
        queries_.resize(size_t(MAX_LINES) * dim_), outputs_.resize(size_t(MAX_LINES) * dim_);
    }

    void attend(const Shape& shape, const Cache& cache, const Lines& lines) {
        switch (element_of(cache.kind)) {
            case WHOLE: return run<WHOLE>(shape, cache, lines);
            case HALF: return run<HALF>(shape, cache, lines);
            case BFLOAT: return run<BFLOAT>(shape, cache, lines);
            default: return run<PAIR>(shape, cache, lines);
        }
    }

  private:
    template <int ELEMENT>
    void run(const Shape& shape, const Cache& cache, const Lines& item) {
        const int group = shape.heads / shape.kv_heads, count = (item.last - item.first) * group, dim = shape.head_dim;
        for (int line = 0; line < count; line++) {
            const float* from = item.queries + (item.first + line / group) * item.query_stride;
            uint32_t* to = queries_.data() + size_t(line) * dim_;
            float row[MAX_HEAD_DIM] = {};
            std::memcpy(row, from + size_t(item.head * group + line % group) * dim, 4 * size_t(dim));
            if constexpr (ELEMENT == PAIR)
                for (int i = 0; i < dim_; i += LANES) to_bfloat(reinterpret_cast<uint16_t*>(to) + i, load(row + i));
            else std::memcpy(to, row, 4 * size_t(dim_));
            largest_[line] = LOWEST, total_[line] = 0;
        }
        std::fill(outputs_.begin(), outputs_.begin() + size_t(count) * dim_, 0.0f);
        const int end = item.start + item.last, tile_tokens = TILE_GROUPS * cache.tokens_per_group();
        const int begin = shape.window ? std::max(0, item.start + item.first - shape.window + 1) : 0;
        for (int tile = begin / tile_tokens * tile_tokens; tile < end; tile += tile_tokens)
            for (int base = 0; base < count; base += BLOCK_LINES)
                visit<ELEMENT>(shape, cache, item, group, tile, base, std::min(BLOCK_LINES, count - base));
        for (int line = 0; line < count; line++) {
            float* to = item.out + (item.first + line / group) * item.out_stride;
            const float* from = outputs_.data() + size_t(line) * dim_;
            for (int i = 0; i < dim; i++) to[size_t(item.head * group + line % group) * dim + i] = from[i] / total_[line];
        }
    }

    // Lines `base` … of the item meet the keys and values from position `tile` on.
    template <int ELEMENT>
    void visit(const Shape& shape, const Cache& cache, const Lines& item, int group, int tile, int base, int count) {
        constexpr int PER_WORD = ELEMENT == PAIR ? 2 : 1;
        constexpr size_t BYTES = ELEMENT == WHOLE ? 4 : ELEMENT == PAIR ? 4 : 2;  // of a number or pair
        const int tokens = cache.tokens_per_group();
        int from[BLOCK_LINES], to[BLOCK_LINES], used = 0;
        const uint32_t* lines[BLOCK_LINES];
        float* sums[BLOCK_LINES];
        for (int l = 0; l < count; l++) {
            const int position = item.start + item.first + (base + l) / group;
            from[l] = shape.window ? std::max(0, position - shape.window + 1 - tile) : 0;
            to[l] = std::min(TILE_GROUPS * tokens, position + 1 - tile);
            if (to[l] > from[l]) used = std::max(used, to[l]);
            lines[l] = queries_.data() + size_t(base + l) * dim_, sums[l] = scores_ + l * TILE;
        }
        if (!used) return;
        const int groups = (used + tokens - 1) / tokens;
        Tables tables[TILE_GROUPS];
        // What the first of the item's lines ask for is there for the others.
        Start next = item.next;
        int next_tile = 0;
        if (tile + TILE_GROUPS * tokens < item.start + item.last)
            next = {item.blocks, item.head, item.start + item.last}, next_tile = tile + TILE_GROUPS * tokens;
        const auto ask = [&](int g, int part) -> const uint8_t* {
            if (base) return nullptr;
            return cache.group(next.blocks, std::min(next_tile + g * tokens, next.tokens - 1), part, next.head);
        };
        for (int g = 0; g < groups; g++) {
            tables[0].now[g] = cache.group(item.blocks, tile + g * tokens, 0, item.head);
            tables[0].next[g] = ask(g, 0);
        }
        std::fill(scores_, scores_ + count * TILE, 0.0f);
        accumulate<ELEMENT>(count, groups, tables, {1, dim_ / PER_WORD, 0, GROUP_TOKENS * BYTES}, lines, sums);
        for (int l = 0; l < count; l++) {
            weigh<ELEMENT>(shape, base + l, l, from[l], to[l], groups, tokens);
            lines[l] = weights_ + l * TILE;
        }
        const Walk walk{groups, (tokens + PER_WORD - 1) / PER_WORD, GROUP_TOKENS / PER_WORD, dim_ * BYTES};
        for (int column = 0; column < dim_; column += 4 * LANES) {
            const int vectors = std::min(4, (dim_ - column) / LANES);
            for (int g = 0; g < groups; g++) {
                const uint8_t *values = cache.group(item.blocks, tile + g * tokens, 1, item.head), *next_values = ask(g, 1);
                for (int v = 0; v < vectors; v++) {
                    const size_t at = (column + v * LANES) * BYTES;
                    tables[g].now[v] = values + at, tables[g].next[v] = next_values ? next_values + at : nullptr;
                }
            }
            for (int l = 0; l < count; l++) sums[l] = outputs_.data() + size_t(base + l) * dim_ + column;
            accumulate<ELEMENT>(count, vectors, tables, walk, lines, sums);
        }
    }

    // From scores to the weights of the values; what was summed so far is scaled to the new maximum.
    template <int ELEMENT>
    void weigh(const Shape& shape, int line, int l, int from, int to, int groups, int tokens) {
        float* scores = scores_ + l * TILE;
        uint32_t* weights = weights_ + l * TILE;
        if (from >= to) return void(std::fill(weights, weights + TILE, 0u));
        const bool whole = from <= 0 && to >= groups * tokens && tokens == LANES;
        Vec s[TILE_GROUPS], top = splat(LOWEST), total = splat(0.0f);
        for (int g = 0; g < groups; g++) {
            s[g] = load(scores + g * LANES) * splat(shape.scale);
            if (shape.softcap > 0) s[g] = tanh(s[g] / splat(shape.softcap)) * splat(shape.softcap);
            if (!whole) s[g] = outside(s[g], g, from, to, tokens, LOWEST);
            top = max(top, s[g]);
        }
        const float best = std::max(largest_[line], largest(top));
        float factor[LANES];
        store(factor, exp(splat(largest_[line] - best)));
        for (int g = 0; g < groups; g++) {
            s[g] = exp(s[g] - splat(best));
            if (!whole) s[g] = outside(s[g], g, from, to, tokens, 0.0f);
            total = total + s[g];
            if constexpr (ELEMENT == PAIR) to_bfloat(reinterpret_cast<uint16_t*>(weights) + g * LANES, s[g]);
            else store(reinterpret_cast<float*>(weights) + g * LANES, s[g]);
        }
        total_[line] = total_[line] * factor[0] + sum(total);
        if (best != largest_[line]) {
            float* outputs = outputs_.data() + size_t(line) * dim_;
            for (int i = 0; i < dim_; i += LANES) store(outputs + i, load(outputs + i) * splat(factor[0]));
        }
        largest_[line] = best;
    }

    // `x` of group `g`, with `value` for what is not of tokens `from` … `to` - 1 of the tile.
    static Vec outside(Vec x, int g, int from, int to, int tokens, float value) {
        const int first = std::min(std::max(from - g * tokens, 0), LANES), last = std::min(std::max(to - g * tokens, 0), tokens);
        if (first == 0 && last == LANES) return x;
        float numbers[LANES];
        store(numbers, x);
        for (int i = 0; i < LANES; i++) numbers[i] = i >= first && i < last ? numbers[i] : value;
        return load(numbers);
    }

    const int dim_;
    std::vector<uint32_t> queries_;
    std::vector<float> outputs_;
    float scores_[BLOCK_LINES * TILE], largest_[MAX_LINES], total_[MAX_LINES];
    uint32_t weights_[BLOCK_LINES * TILE];
};

}  // namespace sage
