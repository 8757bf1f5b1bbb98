// The AVX-512 functions that the other files of this implementation use.
#pragma once

#include "ops/avx2_kernels.h"

namespace hlwq::avx512 {

void accumulate(const float* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                uint64_t tokens, float* y, uint64_t y_stride);
void accumulate_bf16(const uint16_t* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                     uint64_t tokens, float* y, uint64_t y_stride);
void accumulate_codes(const HlwqMatrix& w, const float* a, uint64_t a_stride, uint64_t tokens, float* y,
                      uint64_t y_stride);
void decode_codes(const HlwqMatrix& w, float* out);

inline constexpr AttentionKernels kAttentionKernels = {accumulate, accumulate_bf16, accumulate_codes,
                                                       decode_codes, avx2::turn_pairs};

}  // namespace hlwq::avx512
