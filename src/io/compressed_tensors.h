// Checkpoints of compressed-tensors (vLLM's W4A16, "pack-quantized"): symmetric 4-bit integers with a scale a
// group.
#pragma once

#include <memory>

#include "base/json.h"
#include "io/tensor_source.h"

namespace hlwq {

/// Whether a config.json says that its weights are compressed-tensors.
bool is_compressed_tensors(const OrderedJson& config);

/// The same tensors with every X.weight_packed, X.weight_scale, X.weight_shape as X.weight: repacked in
/// memory to Q4_0 blocks, whose values are the same to the last bit (or as F32, where a scale does not fit
/// FP16). `what` names the model in errors. Throws Error(kUnsupported) for other schemes than symmetric 4-bit
/// integers in groups of 32 and its multiples, kInvalidFile for sizes that contradict each other.
std::unique_ptr<TensorSource> open_compressed_tensors(std::unique_ptr<TensorSource> source,
                                                      const OrderedJson& config, const std::string& what);

}  // namespace hlwq
