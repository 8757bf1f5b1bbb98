// A model's weights by name, quantised or not, with shapes checked once at load.
#pragma once

#include <array>
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
struct StoredMatrix;

/// Owns what Weight pointers refer to besides the mapped files; lives as long as the model.
class WeightStore {
 public:
  /// Throws Error(kNotFound) when the source has no weights at all.
  explicit WeightStore(const ModelSource& source);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;

  /// A matrix [rows, cols]. Throws Error(kNotFound | kInvalidFile) naming it and both shapes.
  Weight matrix(const std::string& name, uint64_t rows, uint64_t cols);
  /// A stack of matrices, shape [n, rows, cols], cut into matrices of `rows_each` rows, a divisor of `rows`:
  /// n * rows / rows_each views of the one tensor. Throws as matrix() does.
  std::vector<Weight> stacked(const std::string& name, const std::array<uint64_t, 3>& shape,
                              uint64_t rows_each);
  /// A float vector of n values, plus `offset`.
  std::vector<float> vector(const std::string& name, uint64_t n, float offset = 0) const;
  bool contains(const std::string& name) const;
  std::vector<std::string> notes() const;  ///< of the checkpoint: how it was read

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
  void use_hlwq(const StoredMatrix& stored, const std::string& name);
  /// Rows first .. first + rows of a quantised matrix, where they lie.
  Weight hlwq_rows(const StoredMatrix& stored, uint64_t first, uint64_t rows);

  std::deque<HlwqMatrix> matrices_;
  std::deque<Tensor> views_;  // parts of stacked tensors
  std::map<std::pair<int, int>, std::unique_ptr<LookupTables>> tables_;
  std::vector<Use> used_;
};

}  // namespace hlwq
