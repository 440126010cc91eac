// A decoder-only transformer, as `sagellm_engine.models.decoder` describes it, and the steps it runs.
//
// The structs up to `Step` are mirrored field by field in structs.py.
#pragma once

#include <memory>

#include "attention.h"
#include "lora.h"
#include "matmul.h"
#include "team.h"

namespace sage {

struct Layer {
    const float *attention_norm, *attention_post_norm, *mlp_norm, *mlp_post_norm, *q_norm, *k_norm;
    Product qkv, attention_out, gate_up, down, router;
    const Product* experts;  // of each: gate_up, down
    int32_t num_experts, top_k, normalize, gelu;
    int32_t heads, kv_heads, head_dim, window, rotary;
    float scale, softcap;
};

struct Rotary {
    const float *cos, *sin;  // (positions, half)
    int32_t half;
};

struct Model {
    int32_t hidden, vocabulary, num_layers, kv_kind, block_size, num_blocks;
    float eps, embedding_scale, logit_softcap;
    Product embedding, head;
    const float* norm;
    const Layer* layers;
    const Rotary* rotary;
    uint8_t* cache;
};

struct Span {
    int32_t row, num_tokens, start, first_block;  // the last: where its blocks begin in those of the step
};

struct Step {
    int32_t num_rows, num_spans, num_logits;
    const int32_t *token_ids, *positions, *blocks;
    const int32_t* adapters;  // of each row, -1 for none; null where no row has one
    const Span* spans;
    const int32_t* logits_rows;  // ascending
    float* logits;               // (num_logits, vocabulary)
    int32_t* best;               // (num_logits): the token with the highest score, or -1 where a score is not finite
};

class Decoder {
  public:
    Decoder(const Model& model, Team& team);

    void forward(const Step& step);

    // From the next step on rows may name one of these: (adapters, layers). `most_rank` is the highest of a product, its
    // parts together.
    void adapt(const Adapter* adapters, int most_rank);

  private:
    struct Thread;  // one thread's place in the phases, and its memory

    void reserve(int rows);
    void run(Thread& thread, const Step& step);
    void attend(Thread& thread, const Layer& layer, int index, const Step& step);
    void place(Thread& thread, const Layer& layer, const Cache& cache, const Step& step);
    void mix(Thread& thread, const Layer& layer, int index, int rows);
    void mix_experts(Thread& thread, const Layer& layer, int rows);
    void route(const Layer& layer, int rows);
    void score(Thread& thread, const Step& step, int rows);

    using Kind = Delta Adapter::*;
    const Delta* delta_of(int layer, Kind kind, int row) const;
    void shrink_row(int layer, Kind kind, int row, const float* x, int ins);
    void expand_row(int layer, Kind kind, int row, int first, int n, float* sums) const;

    Cache cache_of(int layer) const;

    struct Piece { int span, first; };  // rows `first` … of a span, as many as a piece of attention has

    const Model model_;
    Team& team_;
    const int hidden_;  // padded
    int widest_qkv_ = 0, widest_heads_ = 0, widest_mlp_ = 0, widest_router_ = 0, most_experts_ = 1, rows_ = 0, most_rank_ = 0;
    std::vector<std::unique_ptr<Thread>> threads_;
    std::vector<float> x_, added_, qkv_, attended_, routed_, shares_, slots_;
    std::vector<uint8_t> inputs_, inner_;
    std::vector<Piece> pieces_;
    int rows_of_piece_ = 1;
    std::vector<int32_t> chosen_, expert_rows_, expert_starts_;
    const Adapter* adapters_ = nullptr;
    std::vector<int32_t> row_adapters_;   // empty where no row of the step has one
    std::vector<float> low_, activated_;  // per row: what an adapter's a has made of it; the input of `down`
};

}  // namespace sage
