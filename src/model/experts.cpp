#include "model/experts.h"

#include <algorithm>
#include <cmath>

#include "model/activation.h"
#include "ops/elementwise.h"

namespace hlwq {
namespace {

// Few tokens go through in one batch, so that a decode step is a handful of parallel loops.
constexpr uint64_t kSmallBatch = 64;

/// Slots of a batch. An expert has at most one slot a token, so at least one expert always fits.
uint64_t batch_slots(const ModelSpec& spec, uint64_t tokens) {
  return std::min(tokens * spec.top_k, std::max(tokens, kSmallBatch));
}

void route(const float* scores, uint64_t experts, uint64_t top_k, uint32_t* chosen, float* weights) {
  // One pass that keeps the best so far in order; most experts lose against the last of them at once. What
  // does not compare (NaN) stays where it stands, so every choice is an expert whatever the scores are.
  uint64_t kept = 0;
  for (uint64_t e = 0; e < experts; ++e) {
    uint64_t place = kept;
    while (place > 0 && scores[e] > scores[chosen[place - 1]]) --place;
    if (place == top_k) continue;
    kept = std::min(kept + 1, top_k);
    std::copy_backward(chosen + place, chosen + kept - 1, chosen + kept);
    chosen[place] = static_cast<uint32_t>(e);
  }
  double total = 0;
  for (uint64_t k = 0; k < top_k; ++k) {
    weights[k] = std::exp(scores[chosen[k]] - scores[chosen[0]]);
    total += weights[k];
  }
  for (uint64_t k = 0; k < top_k; ++k) weights[k] = static_cast<float>(weights[k] / total);
}

}  // namespace

uint64_t ExpertScratch::bytes(const ModelSpec& spec, uint64_t tokens) {
  if (!spec.experts) return 0;
  const uint64_t slots = tokens * spec.top_k;
  return sizeof(float) * (tokens * (spec.experts + spec.hidden) + slots +
                          2 * batch_slots(spec, tokens) * (spec.hidden + spec.expert_intermediate)) +
         sizeof(uint32_t) * 2 * slots + sizeof(uint64_t) * (spec.experts + 1);
}

void ExpertScratch::reserve(const ModelSpec& spec, uint64_t tokens) {
  if (!spec.experts) return;
  const auto grow = [](auto& buffer, uint64_t n) {
    if (buffer.size() < n) buffer.resize(n);
  };
  const uint64_t slots = tokens * spec.top_k, batch = batch_slots(spec, tokens);
  grow(scores, tokens * spec.experts);
  grow(sum, tokens * spec.hidden);
  grow(weights, slots);
  grow(chosen, slots);
  grow(order, slots);
  grow(begin, spec.experts + 1);
  for (auto* b : {&input, &output}) grow(*b, batch * spec.hidden);
  for (auto* b : {&gate, &up}) grow(*b, batch * spec.expert_intermediate);
}

void choose_experts(const Compute& compute, const float* scores, uint64_t tokens, uint64_t experts,
                    uint64_t top_k, uint32_t* chosen, float* weights) {
  compute.pool->parallel_for(tokens, 16, [&](size_t first, size_t end, int) {
    for (size_t t = first; t < end; ++t)
      route(scores + t * experts, experts, top_k, chosen + t * top_k, weights + t * top_k);
  });
}

Experts::Experts(const ModelSpec& spec, WeightStore& weights, const std::string& base) {
  const uint64_t hidden = spec.hidden, inner = spec.expert_intermediate, n = spec.experts;
  weights_.router = weights.matrix(base + "router.proj.weight", n, hidden);
  weights_.router_scale = weights.vector(base + "router.scale", hidden);
  for (float& s : weights_.router_scale) s /= std::sqrt(static_cast<float>(hidden));
  weights_.per_expert_scale = weights.vector(base + "router.per_expert_scale", n);
  // Gate and up of an expert lie one after the other, so the stack is as well one of twice as many halves.
  weights_.gate_up = weights.stacked(base + "experts.gate_up_proj", {n, 2 * inner, hidden}, inner);
  weights_.down = weights.stacked(base + "experts.down_proj", {n, hidden, inner}, hidden);
  const auto norm = [&](const char* name) {
    return weights.vector(base + name + ".weight", hidden, spec.norm_offset);
  };
  weights_.post_dense_norm = norm("post_feedforward_layernorm_1");
  weights_.post_norm = norm("post_feedforward_layernorm_2");
  weights_.pre_norm = norm("pre_feedforward_layernorm_2");
}

void Experts::mix(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens,
                  float* normed, float* dense, ExpertScratch& s) const {
  const uint64_t hidden = spec.hidden;
  rms_norm(compute, dense, tokens, hidden, weights_.post_dense_norm.data(), spec.norm_eps, dense);

  rms_norm(compute, x, tokens, hidden, weights_.router_scale.data(), spec.norm_eps, normed);
  LinearInput router_input(normed, tokens, hidden);
  const LinearTask score{weights_.router, s.scores.data()};
  linear(compute, router_input, {&score, 1});
  choose_experts(compute, s.scores.data(), tokens, spec.experts, spec.top_k, s.chosen.data(),
                 s.weights.data());
  for (uint64_t slot = 0; slot < tokens * spec.top_k; ++slot)
    s.weights[slot] *= weights_.per_expert_scale[s.chosen[slot]];

  rms_norm(compute, x, tokens, hidden, weights_.pre_norm.data(), spec.norm_eps, normed);
  run(compute, spec, normed, tokens, s);
  rms_norm(compute, s.sum.data(), tokens, hidden, weights_.post_norm.data(), spec.norm_eps, s.sum.data());
  add_in_place(compute, s.sum.data(), dense, tokens * hidden);
}

void Experts::run(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens,
                  ExpertScratch& s) const {
  const uint64_t slots = tokens * spec.top_k, experts = spec.experts, room = batch_slots(spec, tokens);
  // A counting sort: begin[e + 1] counts expert e's slots, then becomes where the next one starts.
  std::fill_n(s.begin.begin(), experts + 1, 0);
  for (uint64_t slot = 0; slot < slots; ++slot) ++s.begin[s.chosen[slot] + 1];
  for (uint64_t e = 0; e < experts; ++e) s.begin[e + 1] += s.begin[e];
  for (uint64_t slot = slots; slot-- > 0;)
    s.order[--s.begin[s.chosen[slot] + 1]] = static_cast<uint32_t>(slot);
  // Each begin[e + 1] has gone down to where expert e starts: shift them back into place.
  std::copy(s.begin.begin() + 1, s.begin.begin() + static_cast<std::ptrdiff_t>(experts + 1), s.begin.begin());
  s.begin[experts] = slots;

  std::fill_n(s.sum.begin(), tokens * spec.hidden, 0.0f);
  for (uint64_t e = 0; e < experts;) {
    uint64_t end = e + 1;
    while (end < experts && s.begin[end + 1] - s.begin[e] <= room) ++end;
    if (s.begin[end] > s.begin[e]) run_batch(compute, spec, x, tokens, e, end, s);
    e = end;
  }
}

void Experts::run_batch(const Compute& compute, const ModelSpec& spec, const float* x, uint64_t tokens,
                        uint64_t first_expert, uint64_t end_expert, ExpertScratch& s) const {
  const uint64_t hidden = spec.hidden, inner = spec.expert_intermediate;
  const uint64_t first = s.begin[first_expert], rows = s.begin[end_expert] - first;
  const uint32_t* order = s.order.data() + first;
  const auto token = [&](uint64_t row) { return order[row] / spec.top_k; };

  std::vector<uint64_t> active;
  for (uint64_t e = first_expert; e < end_expert; ++e)
    if (s.begin[e + 1] > s.begin[e]) active.push_back(e);

  // One token has one input, rotated and rounded once for all its experts.
  std::vector<LinearInput> inputs;
  inputs.reserve(active.size());
  if (tokens == 1) {
    inputs.emplace_back(x, 1, hidden);
  } else {
    compute.pool->parallel_for(rows, 8, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r)
        std::copy_n(x + token(r) * hidden, hidden, s.input.data() + r * hidden);
    });
    for (uint64_t e : active)
      inputs.emplace_back(s.input.data() + (s.begin[e] - first) * hidden, s.begin[e + 1] - s.begin[e],
                          hidden);
  }
  std::vector<LinearJob> jobs;
  for (uint64_t i = 0; i < active.size(); ++i) {
    const uint64_t e = active[i], at = (s.begin[e] - first) * inner;
    LinearInput* input = &inputs[tokens == 1 ? 0 : i];
    jobs.push_back({input, weights_.gate_up[2 * e], s.gate.data() + at});
    jobs.push_back({input, weights_.gate_up[2 * e + 1], s.up.data() + at});
  }
  linear(compute, jobs);
  const GatedActivation activate = gated_activation(compute.kernels->vector, spec.activation);
  compute.pool->parallel_for(rows * inner, 8192, [&](size_t begin, size_t end, int) {
    activate(s.gate.data() + begin, s.up.data() + begin, s.gate.data() + begin, end - begin);
  });

  std::vector<LinearInput> gated;
  gated.reserve(active.size());
  jobs.clear();
  for (uint64_t e : active) {
    const uint64_t at = s.begin[e] - first;
    gated.emplace_back(s.gate.data() + at * inner, s.begin[e + 1] - s.begin[e], inner);
    jobs.push_back({&gated.back(), weights_.down[e], s.output.data() + at * hidden});
  }
  linear(compute, jobs);

  // Threads take columns, not rows: a token's slots may be anywhere in the batch.
  const uint64_t grain = std::max<uint64_t>(64, 16384 / rows);
  compute.pool->parallel_for(hidden, grain, [&](size_t begin, size_t end, int) {
    for (uint64_t r = 0; r < rows; ++r)
      compute.kernels->vector.axpy(s.weights[order[r]], s.output.data() + r * hidden + begin,
                                   s.sum.data() + token(r) * hidden + begin, end - begin);
  });
}

}  // namespace hlwq
