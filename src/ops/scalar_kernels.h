// The scalar oracle's functions, for implementations that fall back on one of them.
#pragma once

#include "ops/kernels.h"

namespace hlwq::scalar {

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum);
void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride);

}  // namespace hlwq::scalar
