// LoRA adapters: low-rank parts that are added to the products of those rows that have one.
//
// The structs are mirrored field by field in structs.py.
#pragma once

#include "rows.h"

namespace sage {

struct LowRank {
    int32_t first_out, outs, rank;
    const float *a, *b;  // (rank, padded inputs), (rank, outs)
};

struct Delta {  // of one product
    int32_t num_parts;
    const LowRank* parts;
};

struct Adapter {  // of one layer
    Delta qkv, attention_out, gate_up, down;
};

// low = a · x, part after part; `ins` is the padded number of inputs.
inline void shrink(const Delta& delta, const float* x, int ins, float* low) {
    for (const LowRank* part = delta.parts; part < delta.parts + delta.num_parts; part++) {
        for (int r = 0; r < part->rank; r += 4, low += 4) {
            const int count = std::min(4, part->rank - r);
            const float* a[4];
            for (int j = 0; j < 4; j++) a[j] = part->a + size_t(r + std::min(j, count - 1)) * ins;
            Vec sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
            for (int i = 0; i < ins; i += LANES) {
                const Vec at = load(x + i);
                for (int j = 0; j < 4; j++) sums[j] = fma(load(a[j] + i), at, sums[j]);
            }
            for (int j = 0; j < count; j++) low[j] = sum(sums[j]);
            if (count < 4) low -= 4 - count;
        }
    }
}

// sums += b · low for V times 16 outputs; the rows of b are `stride` apart.
template <int V>
inline void expand_lanes(const float* b, int stride, int rank, const float* low, float* sums) {
    Vec at[V];
    for (int v = 0; v < V; v++) at[v] = load(sums + v * LANES);
    for (int r = 0; r < rank; r++, b += stride)
        for (int v = 0; v < V; v++) at[v] = fma(splat(low[r]), load(b + v * LANES), at[v]);
    for (int v = 0; v < V; v++) store(sums + v * LANES, at[v]);
}

// sums += b · low for the n outputs from `first` on.
inline void expand(const Delta& delta, const float* low, int first, int n, float* sums) {
    for (const LowRank* part = delta.parts; part < delta.parts + delta.num_parts; low += part->rank, part++) {
        const int begin = std::max(first, part->first_out), end = std::min(first + n, part->first_out + part->outs);
        const float* b = part->b + (begin - part->first_out);
        float* to = sums + (begin - first);
        int i = 0;
        for (; i + 2 * LANES <= end - begin; i += 2 * LANES) expand_lanes<2>(b + i, part->outs, part->rank, low, to + i);
        for (; i + LANES <= end - begin; i += LANES) expand_lanes<1>(b + i, part->outs, part->rank, low, to + i);
        for (; i < end - begin; i++)
            for (int r = 0; r < part->rank; r++) to[i] = std::fma(low[r], b[i + size_t(r) * part->outs], to[i]);
    }
}

}  // namespace sage
