// The scalar kernels over keys and values: the definition of what the vector ones compute.
#include <cmath>
#include <vector>

#include "base/half.h"
#include "ops/scalar_kernels.h"
#include "quant/hadamard.h"

namespace hlwq::scalar {

void accumulate(const float* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                uint64_t tokens, float* y, uint64_t y_stride) {
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t i = 0; i < cols; ++i) y[t * y_stride + i] += a[t * a_stride + r] * w[r * cols + i];
}

void accumulate_bf16(const uint16_t* w, uint64_t rows, uint64_t cols, const float* a, uint64_t a_stride,
                     uint64_t tokens, float* y, uint64_t y_stride) {
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t i = 0; i < cols; ++i)
        y[t * y_stride + i] += a[t * a_stride + r] * bf16_to_float(w[r * cols + i]);
}

void decode_codes(const HlwqMatrix& w, float* out) {
  uint8_t codes[512];
  const float root = std::sqrt(static_cast<float>(w.cols));
  for (uint64_t r = 0; r < w.rows; ++r) {
    unpack_block(w.format, w.codes + r * w.format.block_bytes(), codes);
    const float norm = fp16_to_float(w.norms[r]) / root;
    for (uint64_t i = 0; i < w.cols; ++i) out[r * w.cols + i] = norm * w.codebook->values[codes[i]];
  }
}

void accumulate_codes(const HlwqMatrix& w, const float* a, uint64_t a_stride, uint64_t tokens, float* y,
                      uint64_t y_stride) {
  std::vector<float> decoded(w.rows * w.cols);
  decode_codes(w, decoded.data());
  accumulate(decoded.data(), w.rows, w.cols, a, a_stride, tokens, y, y_stride);
}

// Row j of H, restricted to the pairs, depends on the column's bits below log2(pairs) and on its top bit
// only, so the other columns are summed first: v_pairs = H' (folded) with a transform of size 2 pairs.
void turn_pairs(const float* rotated, uint64_t n, uint64_t d, uint64_t pairs, const float* weight,
                const float* rope, float* out) {
  const uint64_t half = d / 2;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (uint64_t j = 0; j < n; ++j, rotated += d, rope += 2 * pairs, out += 2 * pairs) {
    for (uint64_t top = 0; top < 2; ++top)
      for (uint64_t i = 0; i < pairs; ++i) {
        float sum = 0;
        for (uint64_t k = 0; k < half; k += pairs) sum += rotated[top * half + k + i];
        out[top * pairs + i] = sum;
      }
    hadamard_sums(out, static_cast<int>(2 * pairs));
    for (uint64_t i = 0; i < pairs; ++i) {
      const float a = out[i] * scale * weight[i], b = out[pairs + i] * scale * weight[half + i];
      const float c = rope[i] - 1, s = rope[pairs + i];
      out[i] = a * c - b * s;
      out[pairs + i] = b * c + a * s;
    }
  }
}

}  // namespace hlwq::scalar
