// Storing new keys and values on the GPU: what KvCache::store and KvCodec::encode do.
#include <cuda_bf16.h>

#include "cuda/attention_keys.cuh"
#include "cuda/chain.cuh"
#include "cuda/runtime.h"
#include "quant/codebook.h"

namespace hlwq::cuda {
namespace {

constexpr int kWarps = 4;  // vectors in a block, a warp each
constexpr float kMaxHalf = 65504;

struct StoreArgs {
  const KvView* views;
  const uint64_t* positions;
  const float *k, *v;
  int tokens, sequences, kv_heads, head_dim;
  KvTables tables;
};

__device__ float warp_sum(float x) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ float magnitude(const KvTables& t, int bits, int m) {
  return bits == 2 ? t.level2[m] : bits == 3 ? t.level3[m] : bits == 4 ? t.level4[m] : t.magnitude8[m];
}

/// How many thresholds, each in the middle of two neighbouring magnitudes, |u| passes.
__device__ int nearest(const KvTables& t, int bits, float a) {
  int m = 0;
  for (int step = 1 << (bits - 2); step; step /= 2) {
    const int next = m + step;
    if (a > 0.5f * (magnitude(t, bits, next - 1) + magnitude(t, bits, next))) m = next;
  }
  return m;
}

/// Byte `b` of a granule of g stored codes.
__device__ uint8_t packed_byte(const uint8_t* v, int bits, int g, int b) {
  if (bits == 8) return v[b];
  if (bits == 4) return static_cast<uint8_t>(v[b] | v[g / 2 + b] << 4);
  if (b < g / 4) {
    int byte = 0;
    for (int f = 0; f < 4; ++f) byte |= (v[f * (g / 4) + b] & 3) << (2 * f);
    return static_cast<uint8_t>(byte);
  }
  int byte = 0;
  for (int j = 0; j < 8; ++j) byte |= (v[8 * (b - g / 4) + j] >> 2 & 1) << j;
  return static_cast<uint8_t>(byte);
}

/// x, rotated, to codes and their least-squares norm. `stored`: room for a byte a value.
__device__ void encode(const StoreArgs& a, const KvRing& ring, uint64_t row, const float* x, uint8_t* stored,
                       int lane) {
  const int d = a.head_dim, bits = ring.bits, bytes = d * bits / 8;
  auto* codes = static_cast<uint8_t*>(ring.data) + row * bytes;
  float squares = 0;
  for (int i = lane; i < d; i += 32) squares += x[i] * x[i];
  const float length = sqrtf(warp_sum(squares));
  if (!(length > 0) || isinf(length)) {
    for (int b = lane; b < bytes; b += 32) codes[b] = 0;
    if (lane == 0) ring.norms[row] = length == 0 ? 0 : 0x7e00;
    return;
  }
  const float scale = sqrtf(static_cast<float>(d)) / length;
  float uc = 0, cc = 0;
  for (int i = lane; i < d; i += 32) {
    const float u = x[i] * scale;
    const int m = nearest(a.tables, bits, fabsf(u));
    const float c = magnitude(a.tables, bits, m);
    uc += fabsf(u) * c;
    cc += c * c;
    stored[i] = static_cast<uint8_t>(m | (u < 0 ? 1 << (bits - 1) : 0));
  }
  uc = warp_sum(uc);
  cc = warp_sum(cc);
  __syncwarp();
  const int g = min(d, 128), granule_bytes = g * bits / 8;
  for (int b = lane; b < bytes; b += 32)
    codes[b] = packed_byte(stored + b / granule_bytes * g, bits, g, b % granule_bytes);
  if (lane == 0) ring.norms[row] = __half_as_ushort(__float2half_rn(fminf(length * uc / cc, kMaxHalf)));
}

__device__ void put_bf16(const KvRing& ring, uint64_t row, const float* x, int d, int lane) {
  auto* to = static_cast<__nv_bfloat16*>(ring.data) + row * d;
  for (int i = lane; i < d; i += 32) to[i] = __float2bfloat16_rn(x[i]);
}

/// Grid: vectors of the keys and then of the values, a warp each.
__global__ void __launch_bounds__(kWarps * 32) store_kernel(const __grid_constant__ StoreArgs a) {
  __shared__ float rotated[kWarps][kMaxHeadDim];
  __shared__ uint8_t stored[kWarps][kMaxHeadDim];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = a.head_dim;
  const int64_t vectors = static_cast<int64_t>(a.sequences) * a.tokens * a.kv_heads;
  start_next_kernel();
  wait_for_previous_kernel();
  int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (i >= 2 * vectors) return;
  const bool is_value = i >= vectors;
  if (is_value) i -= vectors;
  const int head = static_cast<int>(i % a.kv_heads), token = static_cast<int>(i / a.kv_heads % a.tokens);
  const int sequence = static_cast<int>(i / a.kv_heads / a.tokens);
  const KvView& view = a.views[sequence];
  const KvStore& store = is_value ? view.v : view.k;
  if (store.main.bits == 0) return;  // keys that are rebuilt
  const int position = static_cast<int>(a.positions[sequence]) + token;
  const float* x = (is_value ? a.v : a.k) + i * d;
  const uint64_t row = ring_row(store.main, head, position);
  if (store.main.bits == 32) {
    auto* to = static_cast<float*>(store.main.data) + row * d;
    for (int c = lane; c < d; c += 32) to[c] = x[c];
  } else if (store.main.bits == 16) {
    put_bf16(store.main, row, x, d, lane);
  } else {
    float* y = rotated[warp];
    for (int c = lane; c < d; c += 32) y[c] = x[c];
    __syncwarp();
    warp_hadamard(y, d, lane);
    encode(a, store.main, row, y, stored[warp], lane);
    if (store.exact.bits) put_bf16(store.exact, ring_row(store.exact, head, position), y, d, lane);
    if (static_cast<uint64_t>(position) < store.sinks.capacity)
      put_bf16(store.sinks, ring_row(store.sinks, head, position), y, d, lane);
  }
}

}  // namespace

KvTables kv_tables() {
  KvTables t;
  const auto fill = [](float* to, int bits, size_t n) {
    const Codebook book = lloyd_max_codebook(bits);
    for (size_t i = 0; i < n; ++i) to[i] = book.values[i];
  };
  fill(t.level2, 2, 4);
  fill(t.level3, 3, 8);
  fill(t.level4, 4, 16);
  fill(t.magnitude8, 8, 128);
  return t;
}

void store_kv(const AttentionPlan& plan, const AttentionSequences& sequences, const KvTables& tables,
              const float* k, const float* v, cudaStream_t stream) {
  const KvView& layout = plan.layout;
  const StoreArgs args{sequences.views,
                       sequences.positions,
                       k,
                       v,
                       static_cast<int>(plan.tokens),
                       static_cast<int>(plan.sequences),
                       static_cast<int>(layout.kv_heads),
                       static_cast<int>(layout.head_dim),
                       tables};
  const uint64_t vectors = 2 * plan.sequences * plan.tokens * layout.kv_heads;
  launch_chained(store_kernel, static_cast<unsigned>((vectors + kWarps - 1) / kWarps), kWarps * 32, 0, stream,
                 args);
  check_launch("storing keys and values");
}

}  // namespace hlwq::cuda
