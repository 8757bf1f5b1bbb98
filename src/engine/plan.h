// Memory before it is allocated: what a model takes at a context length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/weight_sizes.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace hlwq {

struct MemoryPlan {
  uint64_t context = 0;
  int kv_bits = 16;      ///< of the full layers' values
  uint64_t weights = 0;  ///< bytes of the matrices and vectors that the text model uses
  uint64_t kv = 0;       ///< exactly what KvCache allocates
  uint64_t vision = 0;   ///< bytes of vision tensors in the files
  uint64_t scratch = 0;  ///< activations and logits of one sequence
  uint64_t total = 0;
};

struct ModelFacts {
  std::string architecture, family;
  uint64_t params = 0;  ///< of the whole files, vision included
  uint64_t text_params = 0;
  uint64_t weight_bytes = 0;  ///< text weights as stored
  uint64_t vision_bytes = 0;
  double bits_per_weight = 0;       ///< over the matrices of the text model, norms of codes included
  uint64_t kv_bytes_per_token = 0;  ///< BF16, of the layers that grow with the context
  using Group = WeightSizes::Group;
  std::vector<Group> groups;
};

/// Of a model at hand, by the tensors that it uses.
ModelFacts model_facts(const Model& model);
/// Of a model whose weights are planned, not there.
ModelFacts model_facts(const ModelSpec& spec, const WeightSizes& sizes);

/// weights and vision are model_facts().weight_bytes and vision_bytes; `chunk` is SessionOptions::chunk.
MemoryPlan plan_memory(const ModelSpec& spec, uint64_t weight_bytes, uint64_t vision_bytes, uint64_t context,
                       uint64_t chunk, const KvSettings& kv);

/// How the cache divides: what grows with every token and what does not.
struct KvParts {
  uint64_t full_per_token = 0;  ///< bytes a token adds to the layers without a window
  uint64_t sliding = 0;         ///< bytes of the sliding layers at this context
};
KvParts kv_parts(const ModelSpec& spec, uint64_t context, uint64_t chunk, const KvSettings& kv);

}  // namespace hlwq
