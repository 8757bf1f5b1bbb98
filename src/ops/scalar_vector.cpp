// The scalar float kernels: the definition of what the vector ones compute.
#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "ops/scalar_kernels.h"

namespace hlwq::scalar {
namespace {

float dot(const float* a, const float* b, uint64_t n) {
  float sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void gemm(const float* w, uint64_t rows, uint64_t cols, const float* x, uint64_t x_stride, uint64_t tokens,
          float* y, uint64_t y_stride) {
  for (uint64_t t = 0; t < tokens; ++t)
    for (uint64_t r = 0; r < rows; ++r) y[t * y_stride + r] = dot(w + r * cols, x + t * x_stride, cols);
}

float dot_bf16(const float* a, const uint16_t* b, uint64_t n) {
  float sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += a[i] * bf16_to_float(b[i]);
  return sum;
}

void axpy(float alpha, const float* x, float* y, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) y[i] += alpha * x[i];
}

void axpy_bf16(float alpha, const uint16_t* x, float* y, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) y[i] += alpha * bf16_to_float(x[i]);
}

float sum_sq(const float* x, uint64_t n) { return dot(x, x, n); }

float softmax_unnormalized(float* x, uint64_t n) {
  if (n == 0) return 0;
  const float top = *std::max_element(x, x + n);
  float sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - top);
  return sum;
}

void gelu_tanh_mul(const float* gate, const float* up, float* y, uint64_t n) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  for (uint64_t i = 0; i < n; ++i) {
    const float g = gate[i];
    y[i] = 0.5f * g * (1 + std::tanh(kSqrt2OverPi * (g + 0.044715f * g * g * g))) * up[i];
  }
}

void silu_mul(const float* gate, const float* up, float* y, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void bf16_to_floats(const uint16_t* x, float* y, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) y[i] = bf16_to_float(x[i]);
}

void floats_to_bf16(const float* x, uint16_t* y, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) y[i] = float_to_bf16(x[i]);
}

}  // namespace

constexpr VectorKernels kVectorKernels = {
    dot,           gemm,     dot_bf16,       axpy,          axpy_bf16, sum_sq, softmax_unnormalized,
    gelu_tanh_mul, silu_mul, bf16_to_floats, floats_to_bf16};

}  // namespace hlwq::scalar

namespace hlwq {

constinit const Kernels kScalarKernels = {"scalar",
                                          {scalar::rotate_quantize, scalar::hlwq_rows},
                                          scalar::kVectorKernels,
                                          scalar::kAttentionKernels};

}  // namespace hlwq
