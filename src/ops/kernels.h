// The named kernel implementations: "scalar" is the oracle, "avx2" and "avx512" are the product.
// Every function computes what its scalar twin computes; pointers are non-null, shapes already checked.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/cpu.h"
#include "ops/hlwq_matrix.h"

namespace hlwq {

/// Kernels over INT8 activations and HLWQ codes.
struct LinearKernels {
  /// x [cols] floats of one token -> q [blocks*block], scale [blocks] (divided by sqrt(block)), sum [blocks].
  void (*rotate_quantize)(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum);
  /// y[t * y_stride + r] = <W_r, x_t> for rows [row_begin, row_end) and all tokens of `x`.
  void (*hlwq_rows)(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
                    float* y, uint64_t y_stride);
};

/// Kernels over floats: the unquantised path and everything between the linears.
struct VectorKernels {
  float (*dot)(const float* a, const float* b, uint64_t n);
  /// y[t * y_stride + r] = <w_r, x_t>; w [rows, cols], x [tokens, x_stride].
  void (*gemm)(const float* w, uint64_t rows, uint64_t cols, const float* x, uint64_t x_stride,
               uint64_t tokens, float* y, uint64_t y_stride);
  float (*dot_bf16)(const float* a, const uint16_t* b, uint64_t n);
  void (*axpy)(float alpha, const float* x, float* y, uint64_t n);  // y += alpha x
  void (*axpy_bf16)(float alpha, const uint16_t* x, float* y, uint64_t n);
  float (*sum_sq)(const float* x, uint64_t n);
  /// x <- exp(x - max(x)) ; returns the sum.
  float (*softmax_unnormalized)(float* x, uint64_t n);
  void (*gelu_tanh_mul)(const float* gate, const float* up, float* y,
                        uint64_t n);                                           // y = gelu_tanh(gate) * up
  void (*silu_mul)(const float* gate, const float* up, float* y, uint64_t n);  // y = silu(gate) * up
  void (*bf16_to_float)(const uint16_t* x, float* y, uint64_t n);
  void (*float_to_bf16)(const float* x, uint16_t* y, uint64_t n);
};

/// Kernels over the keys and values of a cache. Codes: a matrix of 2 to 4 bits with one block a row (cols =
/// block), taken as they are stored, rotated: w_r = norm_r / sqrt(cols) * level[codes_r].
struct AttentionKernels {
  /// y[t, :] += sum_r a[t, r] * w_r. a [tokens, a_stride], w [rows, cols], y [tokens, y_stride].
  void (*accumulate)(const float* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                     uint64_t tokens, float* y, uint64_t y_stride);
  void (*accumulate_bf16)(const uint16_t* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                          uint64_t tokens, float* y, uint64_t y_stride);
  void (*accumulate_codes)(const HlwqMatrix& w, const float* a, uint64_t a_stride, uint64_t tokens, float* y,
                           uint64_t y_stride);
  void (*decode_codes)(const HlwqMatrix& w, float* out);  // out [rows, cols]
  /// What a rotary embedding changes in keys that are rebuilt from values: (RoPE - 1)(weight * v) at the
  /// rotating pairs (i, i + d/2), i < pairs. rotated [n, d] = H v; weight [d]; rope [n, 2, pairs] cosines and
  /// sines; out [n, 2, pairs]. d and pairs are powers of two, 2 pairs <= d <= 512.
  void (*turn_pairs)(const float* rotated, uint64_t n, uint64_t d, uint64_t pairs, const float* weight,
                     const float* rope, float* out);
};

struct Kernels {
  std::string_view name;  ///< "scalar", "avx2", "avx512"
  LinearKernels linear;
  VectorKernels vector;
  AttentionKernels attention;
};

/// All implementations in this binary, fastest first, whatever the processor.
std::span<const Kernels* const> all_kernels();
bool runs_on(const Kernels& kernels, const CpuFeatures& cpu);
/// The fastest that runs on `cpu`; or the one called `force` (when not empty), which must run:
/// Error(kInvalidArgument) lists the names when it is unknown, kUnsupported when the processor lacks it.
const Kernels& select_kernels(const CpuFeatures& cpu, std::string_view force);

// One per file.
extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace hlwq
