// Streams tensors into sharded safetensors files whose headers are known in advance.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/tensor.h"

namespace hlwq {

/// What will be written: name, dtype, shape. Sizes follow.
struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  uint64_t bytes() const;  ///< checked
};

/// Writes `specs` in order into DIR/model.safetensors, or model-0000k-of-0000n.safetensors plus
/// model.safetensors.index.json when they exceed `max_shard_bytes`. `metadata` becomes __metadata__ (strings
/// only). Each tensor's bytes come in any number of append() calls. Data of every file starts 64-byte
/// aligned.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path dir, std::vector<TensorSpec> specs,
                    std::map<std::string, std::string> metadata, uint64_t max_shard_bytes = 4ull << 30);
  ~SafetensorsWriter();

  /// Bytes of the next tensor in spec order; a call may not cross a tensor's end.
  void append(const void* data, uint64_t bytes);
  /// All bytes must have been written. Writes the index and commits every shard.
  void finish();
  uint64_t total_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hlwq
