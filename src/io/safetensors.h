// The safetensors container, parsed from memory: what open_safetensors and the fuzzer share.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/tensor.h"

namespace hlwq {

constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  ///< bytes; the format's own limit

/// The tensors of one file in offset order, as views into `file`; `what` names the file in errors.
/// Throws Error(kInvalidFile) for anything the format forbids, kUnsupported for an element type we do not
/// read.
std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, const std::string& what);

}  // namespace hlwq
