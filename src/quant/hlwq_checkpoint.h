// Reading our checkpoints back: which tensors are HLWQ, and where their codes, norms and codebooks lie.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/model_source.h"
#include "quant/codebook.h"
#include "quant/layout.h"
#include "quant/published_reader.h"

namespace hlwq {

/// A stored matrix, as views that live as long as the checkpoint and its source.
struct StoredMatrix {
  HlwqFormat format;
  uint64_t rows = 0, cols = 0;      ///< rows: product of all leading dimensions
  const uint8_t* codes = nullptr;   ///< [rows, format.row_bytes(cols)], layout.h
  const uint16_t* norms = nullptr;  ///< FP16 [rows, format.row_blocks(cols)], 2-byte aligned
  std::vector<uint64_t> shape;      ///< the weight's own shape; shape.back() == cols
  bool cols_known = true;           ///< else cols includes what fills the last block: the file does not tell
};

/// The quantised half of a model source. Native checkpoints are used where they are mapped; the published
/// layouts are repacked into owned memory. All sizes, types and tables are checked on construction, so views
/// need no more checks.
class HlwqCheckpoint {
 public:
  /// A native checkpoint (quantization_config says hlwq), or tensors of a published layout.
  static bool is_hlwq(const ModelSource& source);

  /// Throws Error(kInvalidFile) naming the tensor and what is wrong, kUnsupported for a version, layout or
  /// width that this build does not know. `source` must outlive this.
  explicit HlwqCheckpoint(const ModelSource& source);
  HlwqCheckpoint(const HlwqCheckpoint&) = delete;
  HlwqCheckpoint& operator=(const HlwqCheckpoint&) = delete;

  std::optional<StoredMatrix> find(const std::string& name) const;
  bool contains(const std::string& name) const { return matrices_.count(name) > 0; }
  /// The table of a format in use. Throws Error(kNotFound).
  const Codebook& codebook(int bits, int lags) const;
  /// By weight name.
  const std::map<std::string, StoredMatrix>& matrices() const { return matrices_; }
  /// "lloyd-max-converged", "published-a"...: informative.
  const std::string& codebook_id() const { return codebook_id_; }
  /// What people should know about how it was read.
  const std::vector<std::string>& notes() const { return notes_; }
  /// The weight that a tensor of the source is a part of; empty when it is none.
  std::string weight_of(const std::string& tensor) const;

 private:
  void read_native(const ModelSource& source);
  void add_native(const TensorSource& tensors, const std::string& name, const HlwqFormat& format,
                  std::vector<uint64_t> shape);
  void add_native_codebook(const TensorSource& tensors, int bits, int lags);
  void read_published(const ModelSource& source);
  void add_published(PublishedMatrix&& matrix);
  void choose_published_tables(const TensorSource& tensors,
                               const std::map<std::string, std::vector<uint64_t>>& counts);
  const uint16_t* aligned_norms(const Tensor& norms);

  std::string codebook_id_;
  std::vector<std::string> notes_;
  std::map<std::string, StoredMatrix> matrices_;
  std::map<std::string, std::string> parts_;  // tensor to weight
  std::map<std::pair<int, int>, Codebook> codebooks_;
  std::deque<std::vector<uint8_t>> owned_codes_;
  std::deque<std::vector<uint16_t>> owned_norms_;
};

}  // namespace hlwq
