// The scalar oracle's functions, for implementations that fall back on one of them.
#pragma once

#include "ops/kernels.h"

namespace hlwq::scalar {

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum);
void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride);

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

}  // namespace hlwq::scalar
