#include "engine/plan.h"

#include <algorithm>
#include <map>

namespace hlwq {
namespace {

bool is_vision(const std::string& name) {
  return name.find("vision") != std::string::npos || name.find("multi_modal_projector") != std::string::npos;
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
    if (is_vision(use.name)) continue;
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
  uint64_t vision_params = 0;
  for (const Tensor& t : model.source().tensors->tensors()) {
    if (is_vision(t.name)) {
      f.vision_bytes += t.data.size();
      vision_params += t.elements();
    } else if (info(t.dtype).is_float && t.shape.size() <= 1) {  // norms, biases and scalars
      f.weight_bytes += t.data.size();
      f.text_params += t.elements();
    }
  }
  f.params = f.text_params + vision_params;
  for (const LayerSpec& l : spec.layers)
    if (!l.window) f.kv_bytes_per_token += 2 * 2 * l.kv_heads * l.head_dim;
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
  p.total = p.weights + p.vision + p.kv + p.scratch;
  return p;
}

}  // namespace hlwq
