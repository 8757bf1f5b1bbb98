// What stands between the linears on the GPU: norms, rotation to INT8, residual sums, gated activations,
// rotary embedding. Each kernel fuses what one linear's output goes through until the next one's input.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/matrix.h"
#include "model/spec.h"

namespace hlwq::cuda {

/// A run of steps over rows of `width` floats, each optional:
///   delta = RMS norm of `projected` with delta_norm (where that is set), x += delta, x *= scale;
///   normed = RMS norm of x with norm; out = normed, and its rotated INT8 form.
struct ResidualStep {
  uint64_t tokens = 0, width = 0;
  float eps = 1e-6f;
  float* x = nullptr;                ///< [tokens, width], read and, with `projected`, written
  const float* projected = nullptr;  ///< [tokens, width], or null: x stays
  const float* delta_norm = nullptr;
  float scale = 1;
  const float* norm = nullptr;  ///< null: x itself goes on, without a norm
  float* normed = nullptr;      ///< [tokens, width] out, or null
  float* x_out = nullptr;       ///< where the new x goes; must differ from x (several blocks read x)
};
/// `out` null: no INT8 form is made. lags: how many turned forms are made (1..3).
void residual_step(const ResidualStep& step, const DeviceActivations* out, int lags, cudaStream_t stream);

/// gate [tokens, gate_stride], up likewise -> activation(gate) * up, as rotated INT8 and, where not null,
/// floats [tokens, width].
void gated_step(const float* gate, const float* up, uint64_t stride, uint64_t tokens, uint64_t width,
                Activation activation, const DeviceActivations* out, int lags, float* plain,
                cudaStream_t stream);

/// Rotates and quantises rows as they are: x [tokens, cols].
void quantize_step(const float* x, const DeviceActivations& out, int lags, cudaStream_t stream);

/// Norms and rotary embedding of one layer's new heads. Strides are floats between tokens.
struct HeadStep {
  uint64_t tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, q_stride = 0, kv_stride = 0;
  float *q = nullptr, *k = nullptr,
        *v = nullptr;  ///< k, v null: the layer has none of its own; v may be written from k
  float *q_out = nullptr, *k_out = nullptr,
        *v_out = nullptr;  ///< [tokens, heads or kv_heads, head_dim], packed
  const float *q_norm = nullptr, *k_norm = nullptr;
  bool v_norm = false;
  float eps = 1e-6f;
  const float* inv_freq = nullptr;  ///< [head_dim / 2]
  float rope_scale = 1;
  /// Position of token t: positions[t / tokens_each] + t % tokens_each.
  const uint64_t* positions = nullptr;
  uint64_t tokens_each = 1;
  bool keys_rebuilt = false;  ///< k_out is not wanted: keys follow from values
};
void head_step(const HeadStep& step, cudaStream_t stream);

/// x[t, :] += bias; x [tokens, stride].
void add_bias(const float* bias, uint64_t tokens, uint64_t width, uint64_t stride, float* x,
              cudaStream_t stream);
/// x = cap * tanh(x / cap), n values.
void soft_cap(float cap, uint64_t n, float* x, cudaStream_t stream);

}  // namespace hlwq::cuda
