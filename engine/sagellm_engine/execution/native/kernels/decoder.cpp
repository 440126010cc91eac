#include "decoder.h"

#include <numeric>

namespace sage {

namespace {

constexpr int MANY_ROWS = 96;
constexpr int MOST_PHASES = 16;  // of a layer
constexpr int CHUNK_ROWS = 132;  // whose activations stay in a core's cache while weights stream past

int num_panels(const Product& product, int width) {
    int count = 0;
    for (int i = 0; i < product.num_segments; i++) count += (product.segments[i].tiles + width - 1) / width;
    return count;
}

void norm_into(const float* x, const float* weight, float eps, int n, int width, float* out) {
    Vec squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    const float scale = 1.0f / std::sqrt(sum(squares) / float(width) + eps);
    for (int i = 0; i < n; i += LANES) store(out + i, load(x + i) * splat(scale) * load(weight + i));
}

// The same for a head, whose size may be any.
void norm_head(float* x, const float* weight, float eps, int n) {
    float padded_x[512] = {}, padded_weight[512] = {};
    std::memcpy(padded_x, x, 4 * size_t(n)), std::memcpy(padded_weight, weight, 4 * size_t(n));
    norm_into(padded_x, padded_weight, eps, padded(n), n, padded_x);
    std::memcpy(x, padded_x, 4 * size_t(n));
}

void put(float* to, const float* from, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load(from + i));
    for (; i < n; i++) to[i] = from[i];
}

void add(float* to, const float* from, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) + load(from + i));
    for (; i < n; i++) to[i] += from[i];
}

void rotate(float* x, const float* cos, const float* sin, int half) {
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Vec a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[i] + a * sin[i];
    }
}

Vec activate(Vec gate, bool gelu) {
    const Vec one = splat(1.0f);
    if (!gelu) return gate / (one + exp(splat(0.0f) - gate));
    const Vec inner = splat(0.7978845608028654f) * fma(splat(0.044715f) * gate * gate, gate, gate);
    return splat(0.5f) * gate * (one + tanh(inner));
}

}  // namespace

struct Decoder::Thread {
    Thread(Team& team, int id, int head_dim, int width)
        : team(team), id(id), attention(head_dim), row(size_t(padded(width)) + GROUP) {}

    Team& team;
    const int id;
    int phase = 0;
    Attention attention;
    std::vector<float> row;
    float panel[MAX_ROWS * PANEL];

    // The next phase: f(piece) for pieces that no other thread has; all are done when it returns.
    template <class F>
    void each(int count, F f) {
        team.each(phase++, count, f);
    }

    // out (num_rows, …) = product(rows). `row_at(i)` is row i of the input in the product's form; `then(i, first, n, sums)`
    // takes n outputs of row i from `first` on.
    template <class RowAt, class Take>
    void multiply(const Product& product, int num_rows, RowAt row_at, Take then) {
        // Wide panels are faster with many rows; narrow ones make more pieces, so that threads end together.
        const int width = num_rows < MANY_ROWS ? 2 : 4, chunk = num_rows < MANY_ROWS ? CHUNK_ROWS : CHUNK_ROWS / 2;
        const int panels = num_panels(product, width), chunks = (num_rows + chunk - 1) / chunk;
        each(panels * chunks, [&](int piece) {
            int panel = piece % panels;
            const Segment* segment = product.segments;
            for (int n; panel >= (n = (segment->tiles + width - 1) / width); segment++) panel -= n;
            const int first = (piece / panels) * chunk, last = std::min(num_rows, first + chunk);
            panel_of(product, *segment, panel, width, first, last, row_at, then);
        });
    }

    template <class RowAt, class Take>
    void panel_of(const Product& product, const Segment& segment, int panel, int width, int first, int last, RowAt row_at,
                  Take then) {
        const size_t bytes = tile_bytes(segment.kind, product.ins);
        const int tile = panel * width, count = std::min(width, segment.tiles - tile), at_once = rows_at_once(count);
        Row weights[MAX_TILES];
        for (int t = 0; t < count; t++) weights[t] = segment.data + (tile + t) * bytes;
        const float units[MAX_TILES] = {segment.unit, segment.unit, segment.unit, segment.unit};
        const int out = segment.first_out + tile * LANES, n = std::min(count * LANES, segment.outs - tile * LANES);
        const int passes = (last - first + at_once - 1) / at_once;
        for (int pass = 0; pass < passes; pass++) {
            const int base = first + (last - first) * pass / passes, rows = first + (last - first) * (pass + 1) / passes - base;
            Row at[MAX_ROWS];
            for (int r = 0; r < rows; r++) at[r] = row_at(base + r);
            sage::multiply(count, rows, segment.kind, weights, units, at, padded(product.ins), panel_sums(),
                           Ahead::of(pass, passes, bytes, width * bytes * team.size));
            for (int r = 0; r < rows; r++) {
                float* sums = panel_sums() + r * PANEL;
                if (product.bias) add(sums, product.bias + out, n);
                then(base + r, out, n, sums);
            }
        }
    }

    // activation(gate(rows)) · up(rows): panel `panel` of two tiles, rows `first` … `last` - 1; `then(i, column, 32 numbers)`.
    // Before, `adapt(i, first, n, sums)` may add to n outputs of the product from `first` on.
    template <class RowAt, class Adapt, class Take>
    void gated_panel(const Product& product, bool gelu, int panel, int first, int last, RowAt row_at, Adapt adapt, Take then) {
        const Segment *gate = product.segments, *up = gate + 1;
        const int tile = panel * 2, count = std::min(2, gate->tiles - tile), column = tile * LANES;
        const int n = std::min(count * LANES, gate->outs - column), ins = padded(product.ins);
        const size_t bytes = tile_bytes(gate->kind, product.ins), up_bytes = tile_bytes(up->kind, product.ins);
        const bool alike = gate->kind == up->kind && count == 2;
        Row weights[4];
        for (int t = 0; t < count; t++)
            weights[t] = gate->data + (tile + t) * bytes, weights[count + t] = up->data + (tile + t) * up_bytes;
        const float units[4] = {gate->unit, gate->unit, up->unit, up->unit};
        const int passes = (last - first + rows_at_once(4) - 1) / rows_at_once(4);
        for (int pass = 0; pass < passes; pass++) {
            const int base = first + (last - first) * pass / passes, rows = first + (last - first) * (pass + 1) / passes - base;
            Row at[MAX_ROWS];
            for (int r = 0; r < rows; r++) at[r] = row_at(base + r);
            float* sums = panel_sums();
            const Ahead ahead = Ahead::of(pass, passes, bytes, 2 * bytes * team.size);
            if (alike) sage::multiply(4, rows, gate->kind, weights, units, at, ins, sums, ahead);
            else {
                sage::multiply(count, rows, gate->kind, weights, units, at, ins, sums, ahead);
                sage::multiply(count, rows, up->kind, weights + count, units + 2, at, ins, sums + 2 * LANES, ahead);
            }
            for (int r = 0; r < rows; r++, sums += PANEL) {
                if (product.bias)
                    for (int i = 0; i < n; i++)
                        sums[i] += product.bias[column + i], sums[2 * LANES + i] += product.bias[up->first_out + column + i];
                adapt(base + r, column, n, sums), adapt(base + r, up->first_out + column, n, sums + 2 * LANES);
                for (int i = 0; i < GROUP; i += LANES)
                    store(sums + i, activate(load(sums + i), gelu) * load(sums + 2 * LANES + i));
                std::fill(sums + n, sums + GROUP, 0.0f);
                then(base + r, column, sums);
            }
        }
    }

    float* panel_sums() { return panel; }
};

Decoder::Decoder(const Model& model, Team& team) : model_(model), team_(team), hidden_(padded(model.hidden)) {
    int head_dim = 0, widest = hidden_;
    for (int i = 0; i < model.num_layers; i++) {
        const Layer& layer = model.layers[i];
        const Product& gate_up = layer.num_experts ? layer.experts[0] : layer.gate_up;
        head_dim = std::max(head_dim, layer.head_dim);
        widest_qkv_ = std::max(widest_qkv_, padded(layer.qkv.outs) + GROUP);
        widest_heads_ = std::max(widest_heads_, padded(layer.heads * layer.head_dim) + GROUP);
        widest_mlp_ = std::max(widest_mlp_, gate_up.outs / 2);
        widest_router_ = std::max(widest_router_, layer.num_experts);
        most_experts_ = std::max(most_experts_, layer.top_k);
    }
    widest = std::max(widest, widest_heads_);
    for (int i = 0; i < team.size; i++) threads_.push_back(std::make_unique<Thread>(team, i, head_dim, widest));
}

void Decoder::reserve(int rows) {
    if (rows <= rows_) return;
    rows_ = rows;
    const size_t n = rows, slots = n * most_experts_;
    x_.resize(n * hidden_), added_.resize(n * hidden_), qkv_.resize(n * widest_qkv_), attended_.resize(n * widest_heads_);
    inputs_.resize(n * 2 * row_bytes(FLOAT_ROWS, std::max(hidden_, widest_heads_)));
    inner_.resize(slots * row_bytes(FLOAT_ROWS, widest_mlp_));
    if (widest_router_) {
        routed_.resize(n * padded(widest_router_)), shares_.resize(slots), slots_.resize(slots * hidden_);
        chosen_.resize(slots), expert_rows_.resize(slots), expert_starts_.resize(size_t(widest_router_) + 1);
    }
}

Cache Decoder::cache_of(int index) const {
    const Layer& layer = model_.layers[index];
    Cache cache{nullptr, model_.kv_kind, layer.kv_heads, model_.block_size, layer.head_dim};
    cache.data = model_.cache + cache.block_bytes() * size_t(model_.num_blocks) * size_t(index);
    return cache;
}

void Decoder::forward(const Step& step) {
    reserve(step.num_rows);
    pieces_.clear();
    for (int i = step.num_spans; i--;)  // prompts come last, and their ends take longest: first
        for (int row = (step.spans[i].num_tokens - 1) / rows_of_piece_ * rows_of_piece_; row >= 0; row -= rows_of_piece_)
            pieces_.push_back({i, row});
    row_adapters_.clear();
    if (step.adapters) {
        row_adapters_.assign(step.adapters, step.adapters + step.num_rows);
        low_.resize(size_t(step.num_rows) * most_rank_), activated_.resize(size_t(step.num_rows) * padded(widest_mlp_));
    }
    for (auto& thread : threads_) thread->phase = 0;
    team_.run([&](int id) { run(*threads_[id], step); }, size_t(model_.num_layers) * MOST_PHASES + 8);
}

void Decoder::adapt(const Adapter* adapters, int most_rank) {
    adapters_ = adapters, most_rank_ = most_rank;
}

// What its adapter adds to a product of a row; null if there is nothing.
const Delta* Decoder::delta_of(int layer, Kind kind, int row) const {
    if (row_adapters_.empty() || row_adapters_[row] < 0) return nullptr;
    const Delta& delta = adapters_[size_t(row_adapters_[row]) * model_.num_layers + layer].*kind;
    return delta.num_parts ? &delta : nullptr;
}

void Decoder::shrink_row(int layer, Kind kind, int row, const float* x, int ins) {
    if (const Delta* delta = delta_of(layer, kind, row)) shrink(*delta, x, padded(ins), &low_[size_t(row) * most_rank_]);
}

void Decoder::expand_row(int layer, Kind kind, int row, int first, int n, float* sums) const {
    if (const Delta* delta = delta_of(layer, kind, row)) expand(*delta, &low_[size_t(row) * most_rank_], first, n, sums);
}

void Decoder::run(Thread& thread, const Step& step) {
    thread.each(step.num_rows, [&](int row) {
        float* x = x_.data() + size_t(row) * hidden_;
        read_row(model_.embedding, step.token_ids[row], x);
        for (int i = 0; i < model_.hidden; i++) x[i] *= model_.embedding_scale;
        std::fill(x + model_.hidden, x + hidden_, 0.0f);
    });
    int rows = step.num_rows;
    for (int index = 0; index < model_.num_layers; index++) {
        const Layer& layer = model_.layers[index];
        const bool last = index == model_.num_layers - 1;
        attend(thread, layer, index, step);
        if (last) {  // only the rows that are scored go on
            rows = step.num_logits;
            if (!rows) return;
            thread.each(1, [&](int) {
                for (int i = 0; i < rows; i++) {
                    const size_t from = step.logits_rows[i];
                    std::memmove(&x_[i * size_t(hidden_)], &x_[from * hidden_], 4 * size_t(hidden_));
                    std::memmove(&attended_[i * size_t(widest_heads_)], &attended_[from * widest_heads_], 4 * size_t(widest_heads_));
                    if (!row_adapters_.empty()) row_adapters_[i] = row_adapters_[from];
                }
            });
        }
        const Product& out = layer.attention_out;
        const size_t stride = row_bytes(form_of(out), out.ins);
        thread.each(rows, [&](int row) {
            float* attended = &attended_[size_t(row) * widest_heads_];
            write_row(form_of(out), &inputs_[row * stride], out.ins, attended);
            shrink_row(index, &Adapter::attention_out, row, attended, out.ins);
        });
        float* sums = layer.attention_post_norm ? added_.data() : x_.data();
        thread.multiply(out, rows, [&](int row) { return &inputs_[row * stride]; }, [&](int row, int first, int n, float* from) {
            expand_row(index, &Adapter::attention_out, row, first, n, from);
            float* to = sums + size_t(row) * hidden_ + first;
            layer.attention_post_norm ? put(to, from, n) : add(to, from, n);
        });
        mix(thread, layer, index, rows);
    }
    score(thread, step, rows);
}

void Decoder::attend(Thread& thread, const Layer& layer, int index, const Step& step) {
    const Cache cache = cache_of(index);
    const float* post = index ? model_.layers[index - 1].mlp_post_norm : nullptr;
    const int form = form_of(layer.qkv);
    const size_t stride = row_bytes(form, model_.hidden);
    thread.each(step.num_rows, [&](int row) {
        float *x = &x_[size_t(row) * hidden_], *normed = thread.row.data();
        if (post) {
            norm_into(&added_[size_t(row) * hidden_], post, model_.eps, hidden_, model_.hidden, normed);
            for (int i = 0; i < hidden_; i++) x[i] += normed[i];
        }
        norm_into(x, layer.attention_norm, model_.eps, hidden_, model_.hidden, normed);
        write_row(form, &inputs_[row * stride], model_.hidden, normed);
        shrink_row(index, &Adapter::qkv, row, normed, model_.hidden);
    });
    thread.multiply(layer.qkv, step.num_rows, [&](int row) { return &inputs_[row * stride]; },
                    [&](int row, int first, int n, float* from) {
                        expand_row(index, &Adapter::qkv, row, first, n, from);
                        put(&qkv_[size_t(row) * widest_qkv_ + first], from, n);
                    });
    place(thread, layer, cache, step);
    if (index == model_.num_layers - 1 && !step.num_logits) return;
    const Shape shape{layer.heads, layer.kv_heads, layer.head_dim, layer.window, layer.scale, layer.softcap};
    const int count = int(pieces_.size()) * layer.kv_heads;
    thread.each(count, [&](int index) {
        const Piece& piece = pieces_[index / layer.kv_heads];
        const Span& span = step.spans[piece.span];
        const int next = std::min(index + team_.size, count - 1);
        const Span& next_span = step.spans[pieces_[next / layer.kv_heads].span];
        thread.attention.attend(shape, cache,
                                {step.blocks + span.first_block, index % layer.kv_heads, span.start, piece.first,
                                 std::min(span.num_tokens, piece.first + rows_of_piece_), &qkv_[size_t(span.row) * widest_qkv_],
                                 size_t(widest_qkv_), &attended_[size_t(span.row) * widest_heads_], size_t(widest_heads_),
                                 {step.blocks + next_span.first_block, next % layer.kv_heads,
                                  next_span.start + next_span.num_tokens}});
    });
}

// Turns queries and keys to their positions; keys and values go to the cache.
void Decoder::place(Thread& thread, const Layer& layer, const Cache& cache, const Step& step) {
    const Rotary& table = model_.rotary[layer.rotary];
    thread.each(step.num_rows, [&](int row) {
        const Span* after = std::upper_bound(step.spans, step.spans + step.num_spans, row,
                                             [](int r, const Span& span) { return r < span.row; });
        const int position = step.positions[row];
        float* heads = &qkv_[size_t(row) * widest_qkv_];
        const float *cos = table.cos + size_t(position) * table.half, *sin = table.sin + size_t(position) * table.half;
        for (int head = 0; head < layer.heads + layer.kv_heads; head++) {
            float* x = heads + size_t(head) * layer.head_dim;
            const float* norm = head < layer.heads ? layer.q_norm : layer.k_norm;
            if (norm) norm_head(x, norm, model_.eps, layer.head_dim);
            rotate(x, cos, sin, table.half);
        }
        for (int part = 0; part < 2; part++)
            for (int head = 0; head < layer.kv_heads; head++)
                cache.write(step.blocks + (after - 1)->first_block, position, part, head,
                            heads + size_t(layer.heads + part * layer.kv_heads + head) * layer.head_dim);
    });
}

void Decoder::mix(Thread& thread, const Layer& layer, int index, int rows) {
    const Product& gate_up = layer.num_experts ? layer.experts[0] : layer.gate_up;
    const int form = form_of(gate_up);
    const size_t stride = row_bytes(form, model_.hidden);
    const size_t router_stride = row_bytes(FLOAT_ROWS, model_.hidden), router_rows = inputs_.size() / 2;
    thread.each(rows, [&](int row) {
        float *x = &x_[size_t(row) * hidden_], *normed = thread.row.data();
        if (layer.attention_post_norm) {
            norm_into(&added_[size_t(row) * hidden_], layer.attention_post_norm, model_.eps, hidden_, model_.hidden, normed);
            for (int i = 0; i < hidden_; i++) x[i] += normed[i];
        }
        norm_into(x, layer.mlp_norm, model_.eps, hidden_, model_.hidden, normed);
        write_row(form, &inputs_[row * stride], model_.hidden, normed);
        if (layer.num_experts)
            write_row(form_of(layer.router), &inputs_[router_rows + row * router_stride], model_.hidden, normed);
        shrink_row(index, &Adapter::gate_up, row, normed, model_.hidden);
    });
    if (layer.num_experts) return mix_experts(thread, layer, rows);
    const int inner_form = form_of(layer.down), width = padded(layer.down.ins);
    const size_t inner_stride = row_bytes(inner_form, layer.down.ins);
    const int panels = (gate_up.segments[0].tiles + 1) / 2, chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    thread.each(panels * chunks, [&](int piece) {
        const int first = piece / panels * CHUNK_ROWS;
        thread.gated_panel(gate_up, layer.gelu, piece % panels, first, std::min(rows, first + CHUNK_ROWS),
                           [&](int row) { return &inputs_[row * stride]; },
                           [&](int row, int first, int n, float* sums) {
                               expand_row(index, &Adapter::gate_up, row, first, n, sums);
                           },
                           [&](int row, int column, const float* from) {
                               write_group(inner_form, &inner_[row * inner_stride], width, column, from);
                               if (delta_of(index, &Adapter::down, row))
                                   std::memcpy(&activated_[size_t(row) * width + column], from, 4 * GROUP);
                           });
    });
    if (!row_adapters_.empty())
        thread.each(rows, [&](int row) {
            shrink_row(index, &Adapter::down, row, &activated_[size_t(row) * width], layer.down.ins);
        });
    float* sums = layer.mlp_post_norm ? added_.data() : x_.data();
    thread.multiply(layer.down, rows, [&](int row) { return &inner_[row * inner_stride]; },
                    [&](int row, int first, int n, float* from) {
                        expand_row(index, &Adapter::down, row, first, n, from);
                        float* to = sums + size_t(row) * hidden_ + first;
                        layer.mlp_post_norm ? put(to, from, n) : add(to, from, n);
                    });
}

// A slot is a row at one of its experts; slots are ordered by expert.
void Decoder::mix_experts(Thread& thread, const Layer& layer, int rows) {
    const size_t router_stride = row_bytes(FLOAT_ROWS, model_.hidden), router_rows = inputs_.size() / 2;
    const size_t routed_stride = padded(widest_router_);
    thread.multiply(layer.router, rows, [&](int row) { return &inputs_[router_rows + row * router_stride]; },
                    [&](int row, int first, int n, const float* from) {
                        put(&routed_[row * routed_stride + first], from, n);
                    });
    thread.each(1, [&](int) { route(layer, rows); });
    const Product &gate_up = layer.experts[0], &down = layer.experts[1];
    const size_t stride = row_bytes(form_of(gate_up), model_.hidden);
    const int inner_form = form_of(down), width = padded(down.ins);
    const size_t inner_stride = row_bytes(inner_form, down.ins);
    const int panels = (gate_up.segments[0].tiles + 1) / 2, down_panels = num_panels(down, 2);
    thread.each(panels * layer.num_experts, [&](int piece) {
        const int expert = piece / panels;
        thread.gated_panel(layer.experts[2 * expert], layer.gelu, piece % panels, expert_starts_[expert], expert_starts_[expert + 1],
                           [&](int slot) { return &inputs_[size_t(expert_rows_[slot] / layer.top_k) * stride]; },
                           [](int, int, int, float*) {},
                           [&](int slot, int column, const float* from) {
                               write_group(inner_form, &inner_[slot * inner_stride], width, column, from);
                           });
    });
    thread.each(down_panels * layer.num_experts, [&](int piece) {
        const int expert = piece / down_panels;
        const Product& product = layer.experts[2 * expert + 1];
        thread.panel_of(product, product.segments[0], piece % down_panels, 2, expert_starts_[expert], expert_starts_[expert + 1],
                        [&](int slot) { return &inner_[slot * inner_stride]; },
                        [&](int slot, int first, int n, const float* from) {
                            float* to = &slots_[size_t(expert_rows_[slot]) * hidden_ + first];
                            for (int i = 0; i < n; i++) to[i] = from[i] * shares_[expert_rows_[slot]];
                        });
    });
    thread.each(rows, [&](int row) {
        float* to = (layer.mlp_post_norm ? &added_[0] : &x_[0]) + size_t(row) * hidden_;
        for (int i = 0; i < model_.hidden; i++) {
            float total = layer.mlp_post_norm ? 0.0f : to[i];
            for (int k = 0; k < layer.top_k; k++) total += slots_[(size_t(row) * layer.top_k + k) * hidden_ + i];
            to[i] = total;
        }
    });
}

void Decoder::route(const Layer& layer, int rows) {
    const size_t stride = padded(widest_router_);
    const int top = layer.top_k;
    std::vector<int> order(layer.num_experts);
    std::fill(expert_starts_.begin(), expert_starts_.end(), 0);
    for (int row = 0; row < rows; row++) {
        float* scores = &routed_[row * stride];
        const float best = *std::max_element(scores, scores + layer.num_experts);
        float total = 0;
        for (int i = 0; i < layer.num_experts; i++) total += scores[i] = std::exp(scores[i] - best);
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + top, order.end(),
                          [&](int a, int b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); });
        float kept = 0;
        for (int k = 0; k < top; k++) kept += scores[order[k]];
        for (int k = 0; k < top; k++) {
            chosen_[size_t(row) * top + k] = order[k];
            shares_[size_t(row) * top + k] = scores[order[k]] / (layer.normalize ? kept : total);
            expert_starts_[order[k] + 1]++;
        }
    }
    for (int i = 0; i < layer.num_experts; i++) expert_starts_[i + 1] += expert_starts_[i];
    std::vector<int> next(expert_starts_.begin(), expert_starts_.end() - 1);
    for (int slot = 0; slot < rows * top; slot++) expert_rows_[next[chosen_[slot]]++] = slot;
}

void Decoder::score(Thread& thread, const Step& step, int rows) {
    const float* post = model_.layers[model_.num_layers - 1].mlp_post_norm;
    const int form = form_of(model_.head);
    const size_t stride = row_bytes(form, model_.hidden), vocabulary = model_.vocabulary;
    thread.each(rows, [&](int row) {
        float *x = &x_[size_t(row) * hidden_], *normed = thread.row.data();
        if (post) {
            norm_into(&added_[size_t(row) * hidden_], post, model_.eps, hidden_, model_.hidden, normed);
            for (int i = 0; i < hidden_; i++) x[i] += normed[i];
        }
        norm_into(x, model_.norm, model_.eps, hidden_, model_.hidden, normed);
        write_row(form, &inputs_[row * stride], model_.hidden, normed);
    });
    thread.multiply(model_.head, rows, [&](int row) { return &inputs_[row * stride]; },
                    [&](int row, int first, int n, float* from) {
                        if (model_.logit_softcap > 0) {
                            const Vec cap = splat(model_.logit_softcap);
                            for (int i = 0; i < n; i += LANES) store(from + i, tanh(load(from + i) / cap) * cap);
                        }
                        put(step.logits + row * vocabulary + first, from, n);
                    });
    thread.each(rows, [&](int row) {
        const float* scores = step.logits + row * vocabulary;
        int best = 0;
        Vec sums = splat(0.0f), tops = splat(LOWEST);
        size_t i = 0;
        for (; i + LANES <= vocabulary; i += LANES) {
            const Vec s = load(scores + i);
            sums = fma(s, splat(0.0f), sums), tops = max(tops, s);
        }
        float total = sum(sums), top = largest(tops);
        for (; i < vocabulary; i++) total += scores[i] * 0.0f, top = std::max(top, scores[i]);
        while (best < model_.vocabulary - 1 && scores[best] != top) best++;
        step.best[row] = total == 0.0f ? best : -1;
    });
}

}  // namespace sage

using namespace sage;

extern "C" {

void* sage_team(int threads) { return new Team(threads); }
void sage_end_team(void* team) { delete static_cast<Team*>(team); }

void* sage_decoder(const Model* model, void* team) { return new Decoder(*model, *static_cast<Team*>(team)); }
void sage_end_decoder(void* decoder) { delete static_cast<Decoder*>(decoder); }
void sage_adapt(void* decoder, const Adapter* adapters, int most_rank) {
    static_cast<Decoder*>(decoder)->adapt(adapters, most_rank);
}
void sage_forward(void* decoder, const Step* step) { static_cast<Decoder*>(decoder)->forward(*step); }

int64_t sage_packed_bytes(int kind, int outs, int ins) {
    return int64_t(tile_bytes(kind, ins)) * ((outs + LANES - 1) / LANES);
}
void sage_pack_dense(int kind, const void* from, int outs, int ins, uint8_t* to) { pack_dense(kind, from, outs, ins, to); }
void sage_pack_quantized(int kind, const uint8_t* values, const float* scales, const float* minimums, int group_size,
                         float unit, int outs, int ins, uint8_t* to) {
    pack_quantized(kind, values, scales, minimums, group_size, unit, outs, ins, to);
}
}
