// The GGUF container, parsed from memory: what open_gguf and the fuzzer share.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/tensor.h"

namespace hlwq {

struct GgufContents {
  std::vector<Tensor> tensors;  ///< in file order, under GGUF's names; views into the parsed bytes
  Json metadata;                ///< an object; float32 values are widened exactly; strings may hold any bytes
};

/// Parses GGUF v2 or v3, little endian; `what` names the file in errors. Memory stays in proportion to the
/// file's size. Throws Error(kInvalidFile), or kUnsupported for other versions, byte orders and block
/// formats.
GgufContents parse_gguf(std::span<const std::byte> file, const std::string& what);

}  // namespace hlwq
