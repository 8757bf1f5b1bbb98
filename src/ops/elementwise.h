// The small operations between the linears: RMS norm, rotary embedding, residual sums.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/linear.h"

namespace hlwq {

/// y[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * weight; weight may be null (all ones). x and y may be
/// the same. x, y: [rows, n].
void rms_norm(const Compute& compute, const float* x, uint64_t rows, uint64_t n, const float* weight,
              float eps, float* y);

/// y += x, element by element, n values.
void add_in_place(const Compute& compute, const float* x, float* y, uint64_t n);

/// y[t, :] += bias for every row t; y [rows, n].
void add_bias(const float* bias, uint64_t rows, uint64_t n, float* y);

/// Cosine and sine, times `scale`, of one pair at a position. The angle is float(position) * inv_freq in
/// float, as transformers computes it.
void rope_angle(uint64_t position, float inv_freq, float scale, float& cosine, float& sine);

/// Cosines and sines of one rotary embedding for a run of positions.
struct RopeTable {
  uint64_t half = 0;            // head_dim / 2
  std::vector<float> cos, sin;  // [positions, half]
  /// Angles are float(position) * inv_freq in float, as transformers computes them.
  void fill(uint64_t first_position, uint64_t positions, const std::vector<float>& inv_freq, float scale);
};

/// Rotates pairs (i, i + head_dim/2) of every head, "rotate half" order. x: [tokens, heads, head_dim].
void apply_rope(const Compute& compute, const RopeTable& table, uint64_t tokens, uint64_t heads, float* x);

}  // namespace hlwq
