#include "ops/elementwise.h"

#include <cmath>

namespace hlwq {
namespace {

// Rows handed to one thread at a time: enough work to be worth a handover.
uint64_t row_grain(uint64_t n) { return n >= 4096 ? 1 : 4096 / (n ? n : 1) + 1; }

}  // namespace

void rms_norm(const Compute& compute, const float* x, uint64_t rows, uint64_t n, const float* weight,
              float eps, float* y) {
  compute.pool->parallel_for(rows, row_grain(n), [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      const float* in = x + r * n;
      float* out = y + r * n;
      const float mean = compute.kernels->vector.sum_sq(in, n) / static_cast<float>(n);
      const float scale = 1.0f / std::sqrt(mean + eps);
      if (weight) {
        for (uint64_t i = 0; i < n; ++i) out[i] = in[i] * scale * weight[i];
      } else {
        for (uint64_t i = 0; i < n; ++i) out[i] = in[i] * scale;
      }
    }
  });
}

void add_in_place(const Compute& compute, const float* x, float* y, uint64_t n) {
  compute.pool->parallel_for(n, 16384, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) y[i] += x[i];
  });
}

void add_bias(const float* bias, uint64_t rows, uint64_t n, float* y) {
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t i = 0; i < n; ++i) y[r * n + i] += bias[i];
}

void rope_angle(uint64_t position, float inv_freq, float scale, float& cosine, float& sine) {
  const double angle = static_cast<double>(static_cast<float>(position) * inv_freq);
  cosine = static_cast<float>(std::cos(angle)) * scale;
  sine = static_cast<float>(std::sin(angle)) * scale;
}

void RopeTable::fill(uint64_t first_position, uint64_t positions, const std::vector<float>& inv_freq,
                     float scale) {
  half = inv_freq.size();
  cos.resize(positions * half);
  sin.resize(positions * half);
  for (uint64_t p = 0; p < positions; ++p)
    for (uint64_t i = 0; i < half; ++i)
      rope_angle(first_position + p, inv_freq[i], scale, cos[p * half + i], sin[p * half + i]);
}

void apply_rope(const Compute& compute, const RopeTable& table, uint64_t tokens, uint64_t heads, float* x) {
  const uint64_t half = table.half;
  compute.pool->parallel_for(tokens, row_grain(heads * half), [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      const float* c = table.cos.data() + t * half;
      const float* s = table.sin.data() + t * half;
      for (uint64_t h = 0; h < heads; ++h) {
        float* lo = x + (t * heads + h) * 2 * half;
        float* hi = lo + half;
        for (uint64_t i = 0; i < half; ++i) {
          const float a = lo[i], b = hi[i];
          lo[i] = a * c[i] - b * s[i];
          hi[i] = b * c[i] + a * s[i];
        }
      }
    }
  });
}

}  // namespace hlwq
