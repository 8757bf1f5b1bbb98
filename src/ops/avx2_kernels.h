// The AVX2 functions, for the other files of this implementation and for those that reuse some of them.
#pragma once

#include "ops/kernels.h"

namespace hlwq::avx2 {

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum);
void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride);

float dot(const float* a, const float* b, uint64_t n);
void gemm(const float* w, uint64_t rows, uint64_t cols, const float* x, uint64_t x_stride, uint64_t tokens,
          float* y, uint64_t y_stride);
float dot_bf16(const float* a, const uint16_t* b, uint64_t n);
void axpy(float alpha, const float* x, float* y, uint64_t n);
void axpy_bf16(float alpha, const uint16_t* x, float* y, uint64_t n);
float sum_sq(const float* x, uint64_t n);
float softmax_unnormalized(float* x, uint64_t n);
void gelu_tanh_mul(const float* gate, const float* up, float* y, uint64_t n);
void silu_mul(const float* gate, const float* up, float* y, uint64_t n);
void bf16_to_floats(const uint16_t* x, float* y, uint64_t n);
void floats_to_bf16(const float* x, uint16_t* y, uint64_t n);

// A constant in the header, so that every implementation that uses it is initialised at compile time.
inline constexpr VectorKernels kVectorKernels = {
    dot,           gemm,     dot_bf16,       axpy,          axpy_bf16, sum_sq, softmax_unnormalized,
    gelu_tanh_mul, silu_mul, bf16_to_floats, floats_to_bf16};

void accumulate(const float* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                uint64_t tokens, float* y, uint64_t y_stride);
void accumulate_bf16(const uint16_t* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                     uint64_t tokens, float* y, uint64_t y_stride);
void accumulate_codes(const HlwqMatrix& w, const float* a, uint64_t a_stride, uint64_t tokens, float* y,
                      uint64_t y_stride);
void decode_codes(const HlwqMatrix& w, float* out);
void turn_pairs(const float* rotated, uint64_t n, uint64_t d, uint64_t pairs, const float* weight,
                const float* rope, float* out);

inline constexpr AttentionKernels kAttentionKernels = {accumulate, accumulate_bf16, accumulate_codes,
                                                       decode_codes, turn_pairs};

}  // namespace hlwq::avx2
