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

// sums += b · low for the n outputs from `first` on.
inline void expand(const Delta& delta, const float* low, int first, int n, float* sums) {
    for (const LowRank* part = delta.parts; part < delta.parts + delta.num_parts; low += part->rank, part++) {
        const int begin = std::max(first, part->first_out), end = std::min(first + n, part->first_out + part->outs);
        for (int r = 0; r < part->rank && begin < end; r++) {
            const float* b = part->b + size_t(r) * part->outs + (begin - part->first_out);
            float* to = sums + (begin - first);
            for (int i = 0; i < end - begin; i++) to[i] += low[r] * b[i];
        }
    }
}

}  // namespace sage
