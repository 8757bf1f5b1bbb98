// The scalar HLWQ linear: written to be read; every other implementation is tested against it.
#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "ops/scalar_kernels.h"

namespace hlwq::scalar {
namespace {

constexpr int kMaxBlock = 512;

/// Unnormalised Walsh-Hadamard transform. The order of the additions is part of the contract: strides 1,
/// 2, 4... so that every implementation rounds alike and the INT8 activations are the same bits everywhere.
void butterflies(float* x, int n) {
  for (int stride = 1; stride < n; stride *= 2)
    for (int i = 0; i < n; i += 2 * stride)
      for (int j = i; j < i + stride; ++j) {
        const float a = x[j], b = x[j + stride];
        x[j] = a + b;
        x[j + stride] = a - b;
      }
}

}  // namespace

void rotate_quantize(const float* x, uint64_t cols, int block, int8_t* q, float* scale, int32_t* sum) {
  float h[kMaxBlock];
  const uint64_t blocks = ceil_div(cols, static_cast<uint64_t>(block));
  for (uint64_t b = 0; b < blocks; ++b, q += block) {
    const uint64_t begin = b * block, n = std::min<uint64_t>(block, cols - begin);
    std::copy_n(x + begin, n, h);
    std::fill(h + n, h + block, 0.0f);
    butterflies(h, block);
    float absmax = 0;
    for (int i = 0; i < block; ++i) absmax = std::max(absmax, std::fabs(h[i]));
    // Every output of the transform contains every input, so h[0] is not finite when any input is not.
    const bool finite = std::isfinite(h[0]) && std::isfinite(absmax);
    const float to_q = finite && absmax > 0 ? 127 / absmax : 0;
    int32_t total = 0;
    for (int i = 0; i < block; ++i) {
      // An absmax so small that 127 / absmax overflows is no signal: it becomes zero, like absmax 0.
      const int v = std::isfinite(to_q) && to_q > 0 ? static_cast<int>(std::lrint(h[i] * to_q)) : 0;
      q[i] = static_cast<int8_t>(std::clamp(v, -127, 127));
      total += q[i];
    }
    // 1 / sqrt(block) of the rotation and 1 / sqrt(block) of the weights' norm; NaN so that bad input stays
    // visible.
    scale[b] = finite ? absmax * (1.0f / (127.0f * static_cast<float>(block))) : std::nanf("");
    sum[b] = total;
  }
}

void hlwq_rows(const HlwqMatrix& w, const QuantizedActivations& x, uint64_t row_begin, uint64_t row_end,
               float* y, uint64_t y_stride) {
  const HlwqFormat& format = w.format;
  const LookupTables& tables = *w.tables;
  const uint64_t blocks = x.blocks, row_bytes = format.row_bytes(w.cols), block_bytes = format.block_bytes();
  uint8_t codes[kMaxBlock];
  for (uint64_t r = row_begin; r < row_end; ++r) {
    for (uint64_t t = 0; t < x.tokens; ++t) y[t * y_stride + r] = 0;
    for (uint64_t b = 0; b < blocks; ++b) {
      unpack_block(format, w.codes + r * row_bytes + b * block_bytes, codes);
      const float norm = fp16_to_float(w.norms[r * blocks + b]) * tables.step;
      for (uint64_t t = 0; t < x.tokens; ++t) {
        const int8_t* q = x.q.data() + (t * blocks + b) * format.block;
        int32_t hi = 0, lo = 0, offsets = 0;
        // Lag j of code i acts on the value j places to the right, around the block.
        for (int lag = 0; lag < format.lags; ++lag)
          for (int i = 0; i < format.block; ++i) {
            const int at = (i + lag) % format.block;
            hi += tables.hi[lag][codes[i]] * q[at];
            lo += tables.lo[lag][codes[i]] * q[at];
            offsets += q[at];
          }
        const float dot = static_cast<float>(hi) + static_cast<float>(lo) * 0x1p-7f +
                          tables.offset * static_cast<float>(offsets);
        y[t * y_stride + r] += norm * x.scale[t * blocks + b] * dot;
      }
    }
  }
}

}  // namespace hlwq::scalar
