// The KV cache of one layer, laid out in the order in which attention reads it.
//
// A block holds, for keys and then for values, for each KV head, groups of 16 tokens (one group, partly used, where
// blocks are smaller). Keys of a group are (head_dim, 16 tokens), values (16 tokens, head_dim). Where the CPU multiplies
// bfloat16 in pairs, two numbers that are summed lie side by side: keys are (head_dim / 2, 16 tokens, 2), values
// (8 pairs of tokens, head_dim, 2).
#pragma once

#include "weights.h"

namespace sage {

enum Element : int { WHOLE, HALF, BFLOAT, PAIR };  // float32, float16, bfloat16, and bfloat16 in pairs

inline int element_of(int kind) {
    if (kind == FLOAT32) return WHOLE;
    if (kind == FLOAT16) return HALF;
#if defined(__AVX512BF16__)
    return PAIR;
#else
    return BFLOAT;
#endif
}

constexpr int GROUP_TOKENS = 16;

struct Cache {
    uint8_t* data;
    int kind, kv_heads, block_size, head_dim;

    int dim() const { return (head_dim + LANES - 1) / LANES * LANES; }  // with padding, which is zero
    int tokens_per_group() const { return std::min(block_size, GROUP_TOKENS); }
    int groups_per_block() const { return (block_size + GROUP_TOKENS - 1) / GROUP_TOKENS; }
    size_t group_bytes() const { return size_t(GROUP_TOKENS) * dim() * (kind == FLOAT32 ? 4 : 2); }
    size_t block_bytes() const { return 2 * size_t(kv_heads) * groups_per_block() * group_bytes(); }

    // The group that holds position `position`, of keys (part 0) or values (1).
    uint8_t* group(const int32_t* blocks, int position, int part, int head) const {
        const size_t heads = (size_t(blocks[position / block_size]) * 2 + part) * kv_heads + head;
        return data + (heads * groups_per_block() + position % block_size / GROUP_TOKENS) * group_bytes();
    }

    void write(const int32_t* blocks, int position, int part, int head, const float* from) const {
        uint8_t* to = group(blocks, position, part, head);
        const int token = position % block_size % GROUP_TOKENS, element = element_of(kind), keys = part == 0;
        for (int first = 0; first < head_dim; first += LANES) {
            const int n = std::min(LANES, head_dim - first);
            float x[LANES] = {};
            uint16_t narrow[LANES];
            std::memcpy(x, from + first, 4 * size_t(n));
            if (element == HALF) to_half(narrow, load(x));
            else to_bfloat(narrow, load(x));
            if (element == PAIR && keys) {
                uint8_t* at = to + (size_t(first / 2) * GROUP_TOKENS + token) * 4;
                for (int i = 0; i < n; i += 2) std::memcpy(at + i / 2 * GROUP_TOKENS * 4, narrow + i, 4);
            } else if (element == PAIR) {
                uint16_t* at = reinterpret_cast<uint16_t*>(to) + (size_t(token / 2) * dim() + first) * 2 + token % 2;
                for (int i = 0; i < n; i++) at[2 * i] = narrow[i];
            } else {
                const size_t step = keys ? GROUP_TOKENS : 1, at = keys ? first * step + token : size_t(token) * dim() + first;
                for (int i = 0; i < n; i++) {
                    if (element == WHOLE) reinterpret_cast<float*>(to)[at + i * step] = x[i];
                    else reinterpret_cast<uint16_t*>(to)[at + i * step] = narrow[i];
                }
            }
        }
    }
};

}  // namespace sage
