// The AVX2 functions, for the other files of this implementation and for those that reuse some of them.
#pragma once

#include "ops/kernels.h"

namespace hlwq::avx2 {

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum);
void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride);
extern const VectorKernels kVectorKernels;

}  // namespace hlwq::avx2
