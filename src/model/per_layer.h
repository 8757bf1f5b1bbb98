// Per-layer embeddings: every token brings a small vector for each layer, part looked up by its id, part
// computed from its embedding; each layer adds it, gated, to the residual.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace hlwq {

struct PerLayerScratch {
  std::vector<float> values;  // [tokens, layers, width]
  std::vector<float> gate;    // [tokens, width]
  /// Bytes that reserve allocates; 0 for a model without per-layer embeddings.
  static uint64_t bytes(const ModelSpec& spec, uint64_t tokens);
  void reserve(const ModelSpec& spec, uint64_t tokens);
};

struct PerLayerWeights {
  struct Layer {
    Weight gate, projection;
    std::vector<float> post_norm;
  };
  Weight table;       ///< [per_layer_vocab, layers * width]
  Weight projection;  ///< [layers * width, hidden]
  std::vector<float> norm;
  std::vector<Layer> layers;
};

/// Immutable after construction. Of the table only the rows of a chunk's ids are ever read.
class PerLayerEmbeddings {
 public:
  /// Looks up the table and the projections of every layer. Throws Error(kNotFound | kInvalidFile).
  PerLayerEmbeddings(const ModelSpec& spec, WeightStore& weights);

  /// Fills scratch.values from the layer inputs x [ids.size(), hidden], images merged, and the token ids;
  /// what is no text counts as spec.pad_token, which the caller has put there.
  /// Throws Error(kInvalidArgument) for an id outside the table.
  void prepare(const Compute& compute, const ModelSpec& spec, std::span<const int32_t> ids, const float* x,
               PerLayerScratch& scratch) const;

  /// x [tokens, hidden] += the layer's part. projected: room for [tokens, hidden].
  void add(const Compute& compute, const ModelSpec& spec, uint64_t layer, uint64_t tokens, float* x,
           float* projected, PerLayerScratch& scratch) const;

  const PerLayerWeights& weights() const { return weights_; }

 private:
  PerLayerWeights weights_;
};

}  // namespace hlwq
