#include "model/per_layer.h"

#include <cmath>

#include "model/activation.h"
#include "ops/elementwise.h"

namespace hlwq {

uint64_t PerLayerScratch::bytes(const ModelSpec& spec, uint64_t tokens) {
  return sizeof(float) * tokens * spec.per_layer_width * (spec.per_layer_width ? spec.layers.size() + 1 : 0);
}

void PerLayerScratch::reserve(const ModelSpec& spec, uint64_t tokens) {
  const uint64_t width = spec.per_layer_width;
  if (gate.size() < tokens * width) gate.resize(tokens * width);
  if (values.size() < tokens * spec.layers.size() * width) values.resize(tokens * spec.layers.size() * width);
}

PerLayerEmbeddings::PerLayerEmbeddings(const ModelSpec& spec, WeightStore& weights) {
  const uint64_t width = spec.per_layer_width, all = spec.layers.size() * width;
  const std::string& p = spec.prefix;
  weights_.table = weights.matrix(p + "embed_tokens_per_layer.weight", spec.per_layer_vocab, all);
  weights_.projection = weights.matrix(p + "per_layer_model_projection.weight", all, spec.hidden);
  weights_.norm = weights.vector(p + "per_layer_projection_norm.weight", width, spec.norm_offset);
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const std::string base = p + "layers." + std::to_string(i) + ".";
    weights_.layers.push_back(
        {weights.matrix(base + "per_layer_input_gate.weight", width, spec.hidden),
         weights.matrix(base + "per_layer_projection.weight", spec.hidden, width),
         weights.vector(base + "post_per_layer_input_norm.weight", spec.hidden, spec.norm_offset)});
  }
}

void PerLayerEmbeddings::prepare(const Compute& compute, const ModelSpec& spec, std::span<const int32_t> ids,
                                 const float* x, PerLayerScratch& s) const {
  const uint64_t tokens = ids.size(), width = spec.per_layer_width, all = spec.layers.size() * width;
  for (int32_t id : ids)
    if (id < 0 || static_cast<uint64_t>(id) >= spec.per_layer_vocab)
      throw Error(ErrorCode::kInvalidArgument, "token id " + std::to_string(id) +
                                                   " is outside the per-layer embedding table of " +
                                                   std::to_string(spec.per_layer_vocab) + " rows");
  LinearInput input(x, tokens, spec.hidden);
  const LinearTask project{weights_.projection, s.values.data()};
  linear(compute, input, {&project, 1});
  // The projection counts divided by sqrt(hidden). A norm undoes any factor but for its epsilon, so that is
  // where the factor goes.
  rms_norm(compute, s.values.data(), tokens * spec.layers.size(), width, weights_.norm.data(),
           spec.norm_eps * static_cast<float>(spec.hidden), s.values.data());
  const float scale = std::sqrt(static_cast<float>(width)), half = std::sqrt(0.5f);
  compute.pool->parallel_for(tokens, 4, [&](size_t begin, size_t end, int) {
    std::vector<float> row(all);
    for (size_t t = begin; t < end; ++t) {
      weight_row(weights_.table, static_cast<uint64_t>(ids[t]), row.data());
      float* out = s.values.data() + t * all;
      for (uint64_t i = 0; i < all; ++i) out[i] = (out[i] + scale * row[i]) * half;
    }
  });
}

void PerLayerEmbeddings::add(const Compute& compute, const ModelSpec& spec, uint64_t layer, uint64_t tokens,
                             float* x, float* projected, PerLayerScratch& s) const {
  const PerLayerWeights::Layer& w = weights_.layers[layer];
  const uint64_t hidden = spec.hidden, width = spec.per_layer_width, all = spec.layers.size() * width;
  LinearInput input(x, tokens, hidden);
  const LinearTask gate{w.gate, s.gate.data()};
  linear(compute, input, {&gate, 1});
  const GatedActivation activate = gated_activation(compute.kernels->vector, spec.activation);
  compute.pool->parallel_for(tokens, 32, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      float* row = s.gate.data() + t * width;
      activate(row, s.values.data() + t * all + layer * width, row, width);
    }
  });
  LinearInput gated(s.gate.data(), tokens, width);
  const LinearTask project{w.projection, projected};
  linear(compute, gated, {&project, 1});
  rms_norm(compute, projected, tokens, hidden, w.post_norm.data(), spec.norm_eps, projected);
  add_in_place(compute, projected, x, tokens * hidden);
}

}  // namespace hlwq
