// Memory before it is allocated: what a model takes at a context length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  struct Group {                    ///< matrices by storage format
    std::string format;
    uint64_t tensors = 0, params = 0, bytes = 0;
  };
  std::vector<Group> groups;
};

ModelFacts model_facts(const Model& model);
/// weights must be model_facts(model).weight_bytes; `chunk` is SessionOptions::chunk.
MemoryPlan plan_memory(const ModelSpec& spec, uint64_t weight_bytes, uint64_t vision_bytes, uint64_t context,
                       uint64_t chunk, const KvSettings& kv);

}  // namespace hlwq
