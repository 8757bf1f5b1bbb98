// What some families add to a layer: experts beside the MLP, per-layer embeddings after it.
#include <algorithm>

#include "base/checked.h"
#include "cuda/activations.h"
#include "cuda/expert_routing.h"
#include "cuda/per_layer.h"
#include "cuda/sequence.h"

namespace hlwq::cuda {

uint64_t expert_tokens(const ModelSpec& spec, uint64_t tokens) {
  return std::min(tokens, std::max<uint64_t>(1, kMaxExpertSlots / std::max<uint64_t>(spec.top_k, 1)));
}

// w.projected, the dense MLP's output, becomes its normed sum with the experts'. As Experts::mix.
void GpuSequence::mix_experts(const GpuExperts& e, uint64_t all_tokens) {
  const ModelSpec& spec = model_->spec();
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  const uint64_t hidden = spec.hidden, inner = spec.expert_intermediate;
  const uint64_t most = expert_tokens(spec, all_tokens);
  for (uint64_t first = 0; first < all_tokens; first += most) {
    const uint64_t tokens = std::min(most, all_tokens - first), slots = tokens * spec.top_k;
    const auto normed = [&](const float* norm, const InputForms& forms) {
      const DeviceActivations act =
          DeviceActivations::place(w.hidden_in, tokens, hidden, forms.block ? forms.block : 128);
      const ResidualStep step{.tokens = tokens,
                              .width = hidden,
                              .eps = spec.norm_eps,
                              .x = w.x[current_] + first * hidden,
                              .norm = norm,
                              .normed = forms.floats ? w.normed : nullptr};
      residual_step(step, forms.block ? &act : nullptr, forms.lags, stream);
      return act;
    };
    const auto grouped = [&](const GpuWeight& stack, const float* floats, const DeviceActivations& act,
                             const LinearGroups& groups, const ExpertRouting& routing, float* y) {
      const uint64_t rows = stack.rows() / spec.experts;
      if (stack.quantized())
        linear_grouped(act, stack.hlwq, rows, groups, routing.max_tiles(), routing.tile_tokens(), y, stream);
      else
        dense_grouped(stack.dense, rows, floats, groups, routing.max_tiles(), y, stream);
    };

    const DeviceActivations router_in = normed(e.router_scale, e.router_in);
    const std::pair<const GpuWeight*, float*> router[] = {{&e.router, w.expert_scores}};
    run_linears(w.normed, router_in, e.router_in, router, tokens);
    ExpertRouting routing(spec.experts, spec.top_k, most, w.expert_routing);
    routing.choose(w.expert_scores, e.per_expert_scale, tokens, stream);

    const DeviceActivations in = normed(e.pre_norm, e.gate_up_in);
    grouped(e.gate_up, w.normed, in, routing.from_tokens(), routing, w.expert_gate_up);
    const DeviceActivations gated =
        DeviceActivations::place(w.expert_inner, slots, inner, e.down_in.block ? e.down_in.block : 128);
    gated_step(w.expert_gate_up, w.expert_gate_up + inner, 2 * inner, slots, inner, spec.activation,
               e.down_in.block ? &gated : nullptr, e.down_in.lags,
               e.down_in.floats ? w.expert_gated : nullptr, stream);
    grouped(e.down, w.expert_gated, gated, routing.from_places(), routing, w.expert_outputs);
    add_experts({.tokens = tokens,
                 .width = hidden,
                 .top_k = spec.top_k,
                 .eps = spec.norm_eps,
                 .outputs = w.expert_outputs,
                 .weights = routing.weights(),
                 .places = routing.places(),
                 .norm = e.post_norm,
                 .dense_norm = e.post_dense_norm,
                 .dense = w.projected + first * hidden},
                stream);
  }
}

// Rows of the per-layer table, which stays on the host, into page-locked memory.
void GpuSequence::look_up_per_layer(std::span<const int32_t> ids) {
  const ModelSpec& spec = model_->spec();
  const PerLayerWeights& weights = model_->model().transformer().per_layer()->weights();
  for (int32_t id : ids)
    if (id < 0 || static_cast<uint64_t>(id) >= spec.per_layer_vocab)
      throw Error(ErrorCode::kInvalidArgument, "token id " + std::to_string(id) +
                                                   " is outside the per-layer embedding table of " +
                                                   std::to_string(spec.per_layer_vocab) + " rows");
  float* rows = workspace_->per_layer_host.as<float>();
  const uint64_t width = weights.table.cols();
  compute_.pool->parallel_for(ids.size(), 4, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      weight_row(weights.table, static_cast<uint64_t>(ids[t]), rows + t * width);
  });
}

// From w.x, embeddings with images among them, and the looked up rows to w.per_layer_values.
void GpuSequence::prepare_per_layer(uint64_t tokens) {
  const ModelSpec& spec = model_->spec();
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  const uint64_t all = spec.layers.size() * spec.per_layer_width;
  check(cudaMemcpyAsync(w.per_layer_rows, w.per_layer_host.as<float>(), tokens * all * sizeof(float),
                        cudaMemcpyHostToDevice, stream),
        "copying per-layer embeddings");
  const InputForms& forms = model_->per_layer_in();
  const DeviceActivations act =
      DeviceActivations::place(w.hidden_in, tokens, spec.hidden, forms.block ? forms.block : 128);
  if (forms.block) quantize_step(w.x[current_], act, forms.lags, stream);
  const std::pair<const GpuWeight*, float*> project[] = {
      {&model_->per_layer_projection(), w.per_layer_projected}};
  run_linears(w.x[current_], act, forms, project, tokens);
  // The projection counts divided by sqrt(hidden), which its norm undoes but for the epsilon.
  per_layer_step({.tokens = tokens,
                  .layers = spec.layers.size(),
                  .width = spec.per_layer_width,
                  .eps = spec.norm_eps * static_cast<float>(spec.hidden),
                  .projected = w.per_layer_projected,
                  .rows = w.per_layer_rows,
                  .norm = model_->per_layer_norm(),
                  .values = w.per_layer_values},
                 stream);
}

// Takes w.projected into the residual as the MLP's output, and leaves there what the layer's embeddings add.
void GpuSequence::project_per_layer(uint64_t layer, const float* mlp_norm, uint64_t tokens) {
  const ModelSpec& spec = model_->spec();
  const GpuPerLayer& p = *model_->layers()[layer].per_layer;
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  const uint64_t width = spec.per_layer_width;
  residual(w.projected, mlp_norm, 1, nullptr, p.gate_in, tokens, p.gate_in.floats ? w.normed : nullptr);
  const DeviceActivations in =
      DeviceActivations::place(w.hidden_in, tokens, spec.hidden, p.gate_in.block ? p.gate_in.block : 128);
  const std::pair<const GpuWeight*, float*> gate[] = {{&p.gate, w.per_layer_gate}};
  run_linears(w.normed, in, p.gate_in, gate, tokens);
  const DeviceActivations gated = DeviceActivations::place(
      w.per_layer_in, tokens, width, p.projection_in.block ? p.projection_in.block : 128);
  gated_step(w.per_layer_gate, w.per_layer_values + layer * tokens * width, width, tokens, width,
             spec.activation, p.projection_in.block ? &gated : nullptr, p.projection_in.lags,
             p.projection_in.floats ? w.per_layer_gated : nullptr, stream);
  const std::pair<const GpuWeight*, float*> project[] = {{&p.projection, w.projected}};
  run_linears(w.per_layer_gated, gated, p.projection_in, project, tokens);
}

}  // namespace hlwq::cuda
