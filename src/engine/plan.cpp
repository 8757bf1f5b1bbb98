#include "engine/plan.h"

#include <algorithm>
#include <map>

#include "base/checked.h"
#include "model/tensor_list.h"

namespace hlwq {
namespace {

uint64_t growing_kv_bytes(const ModelSpec& spec) {
  uint64_t bytes = 0;
  for (const LayerSpec& l : spec.layers)
    if (!l.window && l.kv_from < 0) bytes += 2 * 2 * l.kv_heads * l.head_dim;
  return bytes;
}

/// The layers that have a window, or those that have none.
ModelSpec with_layers(const ModelSpec& spec, bool sliding) {
  ModelSpec part = spec;
  std::erase_if(part.layers,
                [sliding](const LayerSpec& l) { return l.kv_from >= 0 || (l.window > 0) != sliding; });
  return part;
}

}  // namespace

ModelFacts model_facts(const Model& model) {
  ModelFacts f;
  const ModelSpec& spec = model.spec();
  f.architecture = spec.architecture;
  f.family = spec.family;
  std::map<std::string, ModelFacts::Group> groups;
  uint64_t matrix_bytes = 0, matrix_params = 0;
  for (const WeightStore::Use& use : model.weights().used()) {
    if (tensor_role(use.name) != TensorRole::kText) continue;  // counted below
    ModelFacts::Group& g = groups[use.format];
    g.format = use.format;
    ++g.tensors;
    g.params += use.rows * use.cols;
    g.bytes += use.bytes;
    matrix_params += use.rows * use.cols;
    matrix_bytes += use.bytes;
  }
  for (auto& [name, group] : groups) f.groups.push_back(group);
  f.bits_per_weight =
      matrix_params ? 8.0 * static_cast<double>(matrix_bytes) / static_cast<double>(matrix_params) : 0;
  f.text_params = matrix_params;
  f.weight_bytes = matrix_bytes;
  uint64_t other_params = 0;
  for (const Tensor& t : model.source().tensors->tensors()) {
    const TensorRole role = tensor_role(t.name);
    if (role != TensorRole::kText) {
      if (role == TensorRole::kVision) f.vision_bytes += t.data.size();
      other_params += t.elements();
    } else if (info(t.dtype).is_float && t.shape.size() <= 1) {  // norms, biases and scalars
      f.weight_bytes += t.data.size();
      f.text_params += t.elements();
    }
  }
  f.params = f.text_params + other_params;
  f.kv_bytes_per_token = growing_kv_bytes(spec);
  return f;
}

ModelFacts model_facts(const ModelSpec& spec, const WeightSizes& sizes) {
  ModelFacts f;
  f.architecture = spec.architecture;
  f.family = spec.family;
  f.params = sizes.params;
  f.text_params = sizes.text_params;
  f.weight_bytes = sizes.text;
  f.vision_bytes = sizes.vision;
  f.bits_per_weight = sizes.bits_per_weight;
  f.groups = sizes.groups;
  f.kv_bytes_per_token = growing_kv_bytes(spec);
  return f;
}

MemoryPlan plan_memory(const ModelSpec& spec, uint64_t weight_bytes, uint64_t vision_bytes, uint64_t context,
                       uint64_t chunk, const KvSettings& kv) {
  MemoryPlan p;
  chunk = std::min(chunk, context);
  p.context = context;
  p.kv_bits = kv.full.v_bits;
  p.weights = weight_bytes;
  p.vision = vision_bytes;
  p.kv = KvCache::bytes(spec, context, chunk, kv);
  p.scratch = Workspace::bytes(spec, chunk) + (spec.hidden + spec.vocab) * sizeof(float);
  for (uint64_t part : {p.weights, p.vision, p.kv, p.scratch})
    p.total = checked_add(p.total, part, "the memory plan");
  return p;
}

KvParts kv_parts(const ModelSpec& spec, uint64_t context, uint64_t chunk, const KvSettings& kv) {
  chunk = std::min(chunk, context);
  const ModelSpec full = with_layers(spec, false), sliding = with_layers(spec, true);
  KvParts parts;
  // Over a long, round stretch, because a cache may round sizes up and keep some tokens differently.
  constexpr uint64_t kFrom = 1 << 21, kTo = 1 << 22;
  if (!full.layers.empty())
    parts.full_per_token =
        (KvCache::bytes(full, kTo, chunk, kv) - KvCache::bytes(full, kFrom, chunk, kv)) / (kTo - kFrom);
  if (!sliding.layers.empty()) parts.sliding = KvCache::bytes(sliding, context, chunk, kv);
  return parts;
}

}  // namespace hlwq
