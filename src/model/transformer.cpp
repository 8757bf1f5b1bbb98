#include "model/transformer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "model/activation.h"

namespace hlwq {
namespace {

uint64_t widest_q(const ModelSpec& spec) {
  uint64_t n = 0;
  for (const LayerSpec& l : spec.layers) n = std::max(n, spec.heads * l.head_dim);
  return n;
}

uint64_t widest_kv(const ModelSpec& spec) {
  uint64_t n = 0;
  for (const LayerSpec& l : spec.layers) n = std::max(n, l.kv_heads * l.head_dim);
  return n;
}

uint64_t widest_mlp(const ModelSpec& spec) {
  uint64_t n = 0;
  for (const LayerSpec& l : spec.layers) n = std::max(n, l.intermediate);
  return n;
}

}  // namespace

uint64_t Workspace::bytes(const ModelSpec& spec, uint64_t tokens) {
  return tokens * sizeof(float) *
             (3 * spec.hidden + 2 * widest_q(spec) + 2 * widest_kv(spec) + 2 * widest_mlp(spec)) +
         ExpertScratch::bytes(spec, tokens) + PerLayerScratch::bytes(spec, tokens);
}

void Workspace::reserve(const ModelSpec& spec, uint64_t tokens) {
  const auto grow = [&](std::vector<float>& b, uint64_t width) {
    if (b.size() < tokens * width) b.resize(tokens * width);
  };
  for (auto* b : {&x, &normed, &projected}) grow(*b, spec.hidden);
  for (auto* b : {&q, &attended}) grow(*b, widest_q(spec));
  for (auto* b : {&k, &v}) grow(*b, widest_kv(spec));
  for (auto* b : {&gate, &up}) grow(*b, widest_mlp(spec));
  experts.reserve(spec, tokens);
  per_layer.reserve(spec, tokens);
  ropes.resize(spec.ropes.size());
}

Transformer::Transformer(ModelSpec spec, WeightStore& weights) : spec_(std::move(spec)) {
  const uint64_t hidden = spec_.hidden;
  // Text models saved alone, inside a multimodal one, or by older tools differ only in the prefix.
  for (const char* prefix : {"model.language_model.", "language_model.model.", "model."})
    if (!weights.contains(spec_.prefix + "embed_tokens.weight") &&
        weights.contains(prefix + std::string("embed_tokens.weight")))
      spec_.prefix = prefix;
  embedding_ = weights.matrix(spec_.prefix + "embed_tokens.weight", spec_.vocab, hidden);
  // A checkpoint may hold an untied head although the config does not say so; its presence decides.
  lm_head_ = weights.contains("lm_head.weight") && !spec_.tied
                 ? weights.matrix("lm_head.weight", spec_.vocab, hidden)
                 : embedding_;
  if (!spec_.tied && !weights.contains("lm_head.weight"))
    throw Error(ErrorCode::kNotFound,
                "lm_head.weight is missing, and config.json says that it is not tied to the embedding");
  final_norm_ = weights.vector(spec_.prefix + "norm.weight", hidden, spec_.norm_offset);
  if (spec_.per_layer_width) per_layer_.emplace(spec_, weights);
  for (uint64_t i = 0; i < spec_.layers.size(); ++i) {
    const LayerSpec& l = spec_.layers[i];
    const std::string base = spec_.prefix + "layers." + std::to_string(i) + ".";
    const std::string attn = base + "self_attn.", mlp = base + "mlp.";
    const uint64_t q_rows = spec_.heads * l.head_dim, kv_rows = l.kv_heads * l.head_dim;
    const uint64_t inner = l.intermediate;
    const bool own_kv = l.kv_from < 0;
    Layer w;
    w.q = weights.matrix(attn + "q_proj.weight", q_rows, hidden);
    if (own_kv) w.k = weights.matrix(attn + "k_proj.weight", kv_rows, hidden);
    if (own_kv && !l.k_is_v) w.v = weights.matrix(attn + "v_proj.weight", kv_rows, hidden);
    w.o = weights.matrix(attn + "o_proj.weight", hidden, q_rows);
    w.gate = weights.matrix(mlp + "gate_proj.weight", inner, hidden);
    w.up = weights.matrix(mlp + "up_proj.weight", inner, hidden);
    w.down = weights.matrix(mlp + "down_proj.weight", hidden, inner);
    if (spec_.attention_bias) {
      w.q_bias = weights.vector(attn + "q_proj.bias", q_rows);
      if (own_kv) w.k_bias = weights.vector(attn + "k_proj.bias", kv_rows);
      if (own_kv && !l.k_is_v) w.v_bias = weights.vector(attn + "v_proj.bias", kv_rows);
      w.o_bias = weights.vector(attn + "o_proj.bias", hidden);
    }
    if (spec_.mlp_bias) {
      w.gate_bias = weights.vector(mlp + "gate_proj.bias", inner);
      w.up_bias = weights.vector(mlp + "up_proj.bias", inner);
      w.down_bias = weights.vector(mlp + "down_proj.bias", hidden);
    }
    const auto norm = [&](const char* name, uint64_t n) {
      return weights.vector(base + name + ".weight", n, spec_.norm_offset);
    };
    w.input_norm = norm("input_layernorm", hidden);
    w.post_attention_norm = norm("post_attention_layernorm", hidden);
    if (spec_.sandwich_norms) {
      w.pre_mlp_norm = norm("pre_feedforward_layernorm", hidden);
      w.post_mlp_norm = norm("post_feedforward_layernorm", hidden);
    }
    if (spec_.qk_norm) {
      w.q_norm = norm("self_attn.q_norm", l.head_dim);
      if (own_kv) w.k_norm = norm("self_attn.k_norm", l.head_dim);
    }
    if (spec_.experts) w.experts.emplace(spec_, weights, base);
    if (spec_.layer_scalar) w.scalar = weights.vector(base + "layer_scalar", 1)[0];
    layers_.push_back(std::move(w));
  }
}

void Transformer::attention_block(const Compute& compute, KvCache& cache, uint64_t layer, uint64_t tokens,
                                  Workspace& ws) const {
  const Layer& w = layers_[layer];
  const LayerSpec& l = spec_.layers[layer];
  const uint64_t d = l.head_dim, q_width = spec_.heads * d, kv_width = l.kv_heads * d;
  rms_norm(compute, ws.x.data(), tokens, spec_.hidden, w.input_norm.data(), spec_.norm_eps, ws.normed.data());

  LinearInput input(ws.normed.data(), tokens, spec_.hidden);
  const std::array<LinearTask, 3> tasks{{{w.q, ws.q.data()}, {w.k, ws.k.data()}, {w.v, ws.v.data()}}};
  const bool own_kv = l.kv_from < 0;
  linear(compute, input, std::span(tasks).first(!own_kv ? 1 : l.k_is_v ? 2 : 3));
  if (spec_.attention_bias) add_bias(w.q_bias.data(), tokens, q_width, ws.q.data());
  if (spec_.qk_norm)
    rms_norm(compute, ws.q.data(), tokens * spec_.heads, d, w.q_norm.data(), spec_.norm_eps, ws.q.data());
  apply_rope(compute, ws.ropes[l.rope], tokens, spec_.heads, ws.q.data());
  if (own_kv) {
    if (spec_.attention_bias) {
      add_bias(w.k_bias.data(), tokens, kv_width, ws.k.data());
      if (!l.k_is_v) add_bias(w.v_bias.data(), tokens, kv_width, ws.v.data());
    }
    if (l.k_is_v) std::copy_n(ws.k.data(), tokens * kv_width, ws.v.data());
    const bool rebuilt = cache.keys_rebuilt(layer);
    if (spec_.qk_norm && !rebuilt)
      rms_norm(compute, ws.k.data(), tokens * l.kv_heads, d, w.k_norm.data(), spec_.norm_eps, ws.k.data());
    if (spec_.v_norm)
      rms_norm(compute, ws.v.data(), tokens * l.kv_heads, d, nullptr, spec_.norm_eps, ws.v.data());
    if (!rebuilt) apply_rope(compute, ws.ropes[l.rope], tokens, l.kv_heads, ws.k.data());
    cache.store(compute, layer, tokens, rebuilt ? nullptr : ws.k.data(), ws.v.data());
  }

  const AttentionShape shape{
      spec_.heads, cache.length(),        tokens,
      l.window,    spec_.attention_scale, l.window && !ws.key_end.empty() ? ws.key_end.data() : nullptr};
  const uint64_t keys = own_kv ? layer : static_cast<uint64_t>(l.kv_from);
  attention(compute, cache.view(keys, layers_[keys].k_norm.data()), shape, ws.q.data(), ws.attended.data(),
            ws.attention);

  LinearInput attended(ws.attended.data(), tokens, q_width);
  const LinearTask out{w.o, ws.projected.data()};
  linear(compute, attended, {&out, 1});
  if (spec_.attention_bias) add_bias(w.o_bias.data(), tokens, spec_.hidden, ws.projected.data());
  if (spec_.sandwich_norms)
    rms_norm(compute, ws.projected.data(), tokens, spec_.hidden, w.post_attention_norm.data(), spec_.norm_eps,
             ws.projected.data());
  add_in_place(compute, ws.projected.data(), ws.x.data(), tokens * spec_.hidden);
}

void Transformer::mlp_block(const Compute& compute, uint64_t layer, uint64_t tokens, Workspace& ws) const {
  const Layer& w = layers_[layer];
  const uint64_t hidden = spec_.hidden, inner = spec_.layers[layer].intermediate;
  // Llama calls the norm before its MLP "post_attention_layernorm".
  const auto& norm = spec_.sandwich_norms ? w.pre_mlp_norm : w.post_attention_norm;
  rms_norm(compute, ws.x.data(), tokens, hidden, norm.data(), spec_.norm_eps, ws.normed.data());
  LinearInput input(ws.normed.data(), tokens, hidden);
  const std::array<LinearTask, 2> tasks{{{w.gate, ws.gate.data()}, {w.up, ws.up.data()}}};
  linear(compute, input, tasks);
  if (spec_.mlp_bias) {
    add_bias(w.gate_bias.data(), tokens, inner, ws.gate.data());
    add_bias(w.up_bias.data(), tokens, inner, ws.up.data());
  }
  const GatedActivation activate = gated_activation(compute.kernels->vector, spec_.activation);
  compute.pool->parallel_for(tokens * inner, 8192, [&](size_t begin, size_t end, int) {
    activate(ws.gate.data() + begin, ws.up.data() + begin, ws.gate.data() + begin, end - begin);
  });
  LinearInput gated(ws.gate.data(), tokens, inner);
  const LinearTask down{w.down, ws.projected.data()};
  linear(compute, gated, {&down, 1});
  if (spec_.mlp_bias) add_bias(w.down_bias.data(), tokens, hidden, ws.projected.data());
  if (w.experts)
    w.experts->mix(compute, spec_, ws.x.data(), tokens, ws.normed.data(), ws.projected.data(), ws.experts);
  if (spec_.sandwich_norms)
    rms_norm(compute, ws.projected.data(), tokens, hidden, w.post_mlp_norm.data(), spec_.norm_eps,
             ws.projected.data());
  add_in_place(compute, ws.projected.data(), ws.x.data(), tokens * hidden);
}

void Transformer::begin(const Compute& compute, const KvCache& cache, std::span<const int32_t> ids,
                        Workspace& ws, std::span<const ImageRun> images) const {
  const uint64_t tokens = ids.size(), hidden = spec_.hidden;
  if (tokens == 0 || tokens > cache.max_chunk())
    throw Error(ErrorCode::kInvalidArgument,
                "a forward pass takes 1 to " + std::to_string(cache.max_chunk()) + " tokens");
  if (cache.length() + tokens > cache.context())
    throw Error(ErrorCode::kContextFull, "the context of " + std::to_string(cache.context()) +
                                             " tokens is full (" + std::to_string(cache.length()) +
                                             " used, " + std::to_string(tokens) +
                                             " more asked for); use a larger context or a shorter text");
  for (int32_t id : ids)
    if (id < 0 || static_cast<uint64_t>(id) >= spec_.vocab)
      throw Error(
          ErrorCode::kInvalidArgument,
          "token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(spec_.vocab));
  ws.reserve(spec_, tokens);
  for (uint64_t r = 0; r < spec_.ropes.size(); ++r)
    ws.ropes[r].fill(cache.length(), tokens, spec_.ropes[r].inv_freq, spec_.ropes[r].scale);
  // What stands for an image is no text: it counts as padding wherever ids are looked up.
  ws.text_ids.assign(ids.begin(), ids.end());
  std::replace(ws.text_ids.begin(), ws.text_ids.end(), spec_.image_token, spec_.pad_token);
  for (const ImageRun& image : images)
    std::fill_n(ws.text_ids.begin() + static_cast<std::ptrdiff_t>(image.begin), image.count, spec_.pad_token);
  for (uint64_t t = 0; t < tokens; ++t) {
    float* row = ws.x.data() + t * hidden;
    weight_row(embedding_, static_cast<uint64_t>(ws.text_ids[t]), row);
    if (spec_.embed_scale != 1)
      for (uint64_t i = 0; i < hidden; ++i) row[i] *= spec_.embed_scale;
  }
  ws.key_end.clear();
  for (const ImageRun& image : images)
    std::copy_n(image.embeddings, image.count * hidden, ws.x.data() + image.begin * hidden);
  if (spec_.image_bidirectional && !images.empty()) {
    for (uint64_t t = 0; t < tokens; ++t) ws.key_end.push_back(cache.length() + t + 1);
    for (const ImageRun& image : images)
      std::fill_n(ws.key_end.begin() + static_cast<std::ptrdiff_t>(image.begin), image.count,
                  cache.length() + image.begin + image.count);
  }
  if (per_layer_) per_layer_->prepare(compute, spec_, ws.text_ids, ws.x.data(), ws.per_layer);
}

void Transformer::run_layer(const Compute& compute, KvCache& cache, uint64_t layer, uint64_t tokens,
                            Workspace& ws) const {
  attention_block(compute, cache, layer, tokens, ws);
  mlp_block(compute, layer, tokens, ws);
  if (per_layer_)
    per_layer_->add(compute, spec_, layer, tokens, ws.x.data(), ws.projected.data(), ws.per_layer);
  if (layers_[layer].scalar != 1)
    for (uint64_t j = 0; j < tokens * spec_.hidden; ++j) ws.x[j] *= layers_[layer].scalar;
}

std::span<const float> Transformer::finish(const Compute& compute, uint64_t tokens, Workspace& ws) const {
  rms_norm(compute, ws.x.data(), tokens, spec_.hidden, final_norm_.data(), spec_.norm_eps, ws.normed.data());
  return {ws.normed.data(), tokens * spec_.hidden};
}

std::span<const float> Transformer::forward(const Compute& compute, KvCache& cache,
                                            std::span<const int32_t> ids, Workspace& ws,
                                            std::span<const ImageRun> images) const {
  begin(compute, cache, ids, ws, images);
  for (uint64_t i = 0; i < layers_.size(); ++i) run_layer(compute, cache, i, ids.size(), ws);
  cache.advance(ids.size());
  return finish(compute, ids.size(), ws);
}

void Transformer::logits(const Compute& compute, const float* hidden, uint64_t rows, float* out) const {
  LinearInput input(hidden, rows, spec_.hidden);
  const LinearTask head{lm_head_, out};
  linear(compute, input, {&head, 1});
  if (const float cap = spec_.logit_softcap; cap > 0)
    compute.pool->parallel_for(rows * spec_.vocab, 8192, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) out[i] = cap * std::tanh(out[i] / cap);
    });
}

}  // namespace hlwq
