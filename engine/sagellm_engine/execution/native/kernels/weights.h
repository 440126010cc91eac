// Weights packed for the matrix products.
//
// Sixteen outputs make a tile, and a tile's numbers lie in the order in which the product reads them: for each input
// (float32, float16), pair of inputs (bfloat16) or four inputs (integers) the numbers of its sixteen outputs. Quantized
// tiles are made of groups of 32 inputs: the integers, then sixteen scales and sixteen minimums in float16, in units of
// the segment's `unit`.
#pragma once

#include "rows.h"

namespace sage {

enum Kind : int32_t { FLOAT32, FLOAT16, BFLOAT16, INT4, INT8, INT8_HALVES };  // the last: a scale for 16 inputs

struct Segment {
    int32_t kind, first_out, outs, tiles;
    float unit;
    const uint8_t* data;
};

struct Product {
    int32_t outs, ins, num_segments;
    const Segment* segments;
    const float* bias;
};

inline bool quantized(int kind) { return kind >= INT4; }

inline int form_of(int kind) {
    if (quantized(kind)) return INT8_ROWS;
#if defined(__AVX512BF16__)
    if (kind == BFLOAT16) return BFLOAT_ROWS;
#endif
    return FLOAT_ROWS;
}
inline int form_of(const Product& product) { return form_of(product.segments[0].kind); }

inline size_t group_bytes(int kind) {
    switch (kind) {
        case FLOAT32: return 32 * 16 * 4;
        case FLOAT16: case BFLOAT16: return 32 * 16 * 2;
        case INT4: return 16 * 16 + 64;
        case INT8: return 32 * 16 + 64;
        default: return 2 * (16 * 16 + 64);
    }
}
inline size_t tile_bytes(int kind, int ins) { return group_bytes(kind) * (padded(ins) / GROUP); }

// Where input `k` (below 32) of output `lane` is among the integers of a group.
inline int byte_of(int kind, int lane, int k) {
    if (kind == INT4) return (k / 8) * 64 + lane * 4 + k % 4;  // k % 8 below 4: low half, else high half
    if (kind == INT8) return (k / 4) * 64 + lane * 4 + k % 4;
    return (k / 16) * 320 + (k % 16 / 4) * 64 + lane * 4 + k % 4;
}
// Where the scales of input `k` are; the minimums follow them.
inline int scale_byte(int kind, int k) { return kind == INT4 ? 256 : kind == INT8 ? 512 : (k / 16) * 320 + 256; }

inline void pack_dense(int kind, const void* from, int outs, int ins, uint8_t* to) {
    const int n = padded(ins);
    for (int tile = 0; tile < (outs + LANES - 1) / LANES; tile++, to += tile_bytes(kind, ins)) {
        for (int k = 0; k < n; k++)
            for (int lane = 0; lane < LANES; lane++) {
                const int out = tile * LANES + lane;
                const bool inside = out < outs && k < ins;
                const size_t source = size_t(out) * ins + k;
                if (kind == FLOAT32)
                    reinterpret_cast<float*>(to)[k * LANES + lane] = inside ? static_cast<const float*>(from)[source] : 0;
                else {
                    const int place = kind == FLOAT16 ? k * LANES + lane : k / 2 * 32 + lane * 2 + k % 2;
                    reinterpret_cast<uint16_t*>(to)[place] = inside ? static_cast<const uint16_t*>(from)[source] : 0;
                }
            }
    }
}

inline void pack_quantized(int kind, const uint8_t* values, const float* scales, const float* minimums, int group_size,
                           float unit, int outs, int ins, uint8_t* to) {
    const int n = padded(ins), groups = ins / group_size;
    const int step = kind == INT8_HALVES ? 16 : 32;
    std::memset(to, 0, tile_bytes(kind, ins) * ((outs + LANES - 1) / LANES));
    for (int tile = 0; tile < (outs + LANES - 1) / LANES; tile++)
        for (int base = 0; base < n; base += GROUP, to += group_bytes(kind))
            for (int lane = 0; lane < LANES && tile * LANES + lane < outs; lane++) {
                const size_t out = size_t(tile) * LANES + lane;
                for (int k = 0; k < GROUP && base + k < ins; k++) {
                    const uint8_t value = values[out * ins + base + k];
                    to[byte_of(kind, lane, k)] |= kind == INT4 && k % 8 >= 4 ? value << 4 : value;
                }
                for (int k = 0; k < GROUP && base + k < ins; k += step) {
                    const size_t group = out * groups + std::min((base + k) / group_size, groups - 1);
                    float pair[LANES] = {scales[group] / unit, minimums[group] / unit};
                    uint16_t halves[LANES];
                    to_half(halves, load(pair));
                    uint16_t* place = reinterpret_cast<uint16_t*>(to + scale_byte(kind, k));
                    place[lane] = halves[0], place[LANES + lane] = halves[1];
                }
            }
}

// Row `out` of the matrix, `ins` numbers: an embedding's lookup.
inline void read_row(const Product& product, int out, float* to) {
    const Segment* segment = product.segments;
    while (out >= segment->first_out + segment->outs) segment++;
    const int kind = segment->kind, local = out - segment->first_out, lane = local % LANES, ins = product.ins;
    const uint8_t* from = segment->data + tile_bytes(kind, ins) * (local / LANES);
    const auto number = [](uint16_t half) {
        uint16_t halves[LANES] = {half};
        float wide[LANES];
        store(wide, from_half(halves));
        return wide[0];
    };
    if (kind == FLOAT32) {
        for (int k = 0; k < ins; k++) to[k] = reinterpret_cast<const float*>(from)[k * LANES + lane];
    } else if (kind == FLOAT16) {
        for (int k = 0; k < ins; k++) to[k] = number(reinterpret_cast<const uint16_t*>(from)[k * LANES + lane]);
    } else if (kind == BFLOAT16) {
        for (int k = 0; k < ins; k++) {
            const uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(from)[k / 2 * 32 + lane * 2 + k % 2]) << 16;
            std::memcpy(to + k, &bits, 4);
        }
    } else {
        const int step = kind == INT8_HALVES ? 16 : 32;
        for (int base = 0; base < ins; base += step) {
            const uint8_t* group = from + group_bytes(kind) * (base / GROUP);
            const uint16_t* scales = reinterpret_cast<const uint16_t*>(group + scale_byte(kind, base % GROUP));
            const float scale = number(scales[lane]), minimum = number(scales[LANES + lane]);
            for (int k = base; k < std::min(ins, base + step); k++) {
                const uint8_t byte = group[byte_of(kind, lane, k % GROUP)];
                const int value = kind != INT4 ? byte : k % 8 < 4 ? byte & 15 : byte >> 4;
                to[k] = (scale * float(value) + minimum) * segment->unit;
            }
        }
    }
}

}  // namespace sage
