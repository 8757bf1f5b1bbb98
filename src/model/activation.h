// The activation of gated MLPs, as a kernel.
#pragma once

#include "model/spec.h"
#include "ops/kernels.h"

namespace hlwq {

/// y = activation(gate) * up over n values; y may be gate.
using GatedActivation = void (*)(const float* gate, const float* up, float* y, uint64_t n);

inline GatedActivation gated_activation(const VectorKernels& kernels, Activation activation) {
  return activation == Activation::kSilu ? kernels.silu_mul : kernels.gelu_tanh_mul;
}

}  // namespace hlwq
