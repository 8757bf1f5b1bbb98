// A model's weights as numbers, however they are stored: HLWQ codes decoded and rotated back, plain types and
// GGUF blocks, row by row.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/model_source.h"
#include "quant/hlwq_checkpoint.h"

namespace hlwq {

/// One weight by its own name. Pointers go into the source and its checkpoint.
struct SourceWeight {
  std::string name;
  std::vector<uint64_t> shape;
  const Tensor* tensor = nullptr;        ///< a plain tensor, or
  const StoredMatrix* stored = nullptr;  ///< codes and norms, with
  const Codebook* codebook = nullptr;    ///< their table
  std::vector<const Tensor*> parts;      ///< the tensors of the source that it is stored in

  uint64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  uint64_t rows() const;
  uint64_t elements() const { return rows() * cols(); }
  uint64_t stored_bytes() const;  ///< of all parts

  /// Rows [first, first + n) as floats. May run on several threads at a time.
  void decode(uint64_t first, uint64_t n, float* out) const;
};

class SourceWeights {
 public:
  /// In the order of the source's files. `source` must outlive this. Throws Error(kNotFound) for a source
  /// without weights, kUnsupported for one that another tool quantised, and what HlwqCheckpoint throws.
  explicit SourceWeights(const ModelSource& source);

  bool quantised() const { return checkpoint_ != nullptr; }
  const std::vector<SourceWeight>& weights() const { return weights_; }

 private:
  std::unique_ptr<HlwqCheckpoint> checkpoint_;
  std::vector<SourceWeight> weights_;
};

}  // namespace hlwq
