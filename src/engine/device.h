// Which device computes.
#pragma once

#include <memory>
#include <string>

#include "quant/tensor_encoder.h"

namespace hlwq {

struct Device {
  bool cuda = false;
  int index = 0;  ///< of the GPU
};

/// "cpu", "cuda" (the first GPU) or "cuda:N". Throws Error(kInvalidArgument).
Device parse_device(const std::string& text);

/// For quantize_model: null on the CPU, which needs none. Throws Error(kDevice) when there is no such GPU, or
/// this build has no CUDA.
std::unique_ptr<TensorEncoder> make_tensor_encoder(const Device& device);

}  // namespace hlwq
