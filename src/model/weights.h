// A model's weights by name, quantised or not, with shapes checked once at load.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/linear.h"

namespace hlwq {

struct ModelSource;
class HlwqCheckpoint;

/// Owns what Weight pointers refer to besides the mapped files; lives as long as the model.
class WeightStore {
 public:
  /// Throws Error(kNotFound) when the source has no weights at all.
  explicit WeightStore(const ModelSource& source);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;

  /// A matrix [rows, cols]. Throws Error(kNotFound | kInvalidFile) naming it and both shapes.
  Weight matrix(const std::string& name, uint64_t rows, uint64_t cols);
  /// A float vector of n values, plus `offset`.
  std::vector<float> vector(const std::string& name, uint64_t n, float offset = 0) const;
  bool contains(const std::string& name) const;

  struct Use {
    std::string name;
    uint64_t rows, cols;
    uint64_t bytes;      ///< codes and norms, or the stored dtype's bytes
    std::string format;  ///< "Q5", "BF16"...
  };
  const std::vector<Use>& used() const { return used_; }  ///< every matrix handed out

 private:
  const ModelSource& source_;
  std::unique_ptr<HlwqCheckpoint> checkpoint_;
  std::deque<HlwqMatrix> matrices_;
  std::map<std::pair<int, int>, std::unique_ptr<LookupTables>> tables_;
  std::vector<Use> used_;
};

}  // namespace hlwq
