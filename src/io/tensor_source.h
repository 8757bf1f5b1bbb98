// One interface over every container of weights. Sources map their files and validate them on opening.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "io/tensor.h"

namespace hlwq {

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// All tensors in file order; views stay valid as long as the source.
  virtual const std::vector<Tensor>& tensors() const = 0;
  /// Tells the kernel that a tensor's bytes are no longer needed, so that streaming stays small.
  virtual void drop(const Tensor& tensor) const = 0;

  const Tensor* find(std::string_view name) const;  ///< nullptr when absent
  /// Throws Error(kNotFound) naming the tensor.
  const Tensor& at(std::string_view name) const;

 protected:
  /// Call once tensors() is complete. Throws Error(kInvalidFile) on duplicate names.
  void build_index();

 private:
  std::vector<uint32_t> by_name_;
};

/// A .safetensors file, or a directory with model.safetensors or model.safetensors.index.json and its shards.
/// Enforces the format: header <= 100 MB, no holes, overlaps, duplicates or bytes beyond the file.
std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path);

/// A GGUF v2/v3 file (little endian): tensors under GGUF's own names, and its metadata.
struct GgufFile {
  std::unique_ptr<TensorSource> tensors;
  Json metadata;  ///< key -> value; arrays stay arrays
};
GgufFile open_gguf(const std::filesystem::path& path);

}  // namespace hlwq
