#include "cuda/kv_memory.h"

#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

__global__ void rope_kernel(const float* inv_freq, uint64_t pairs, uint64_t n, float* out) {
  const uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  const uint64_t position = i / pairs, pair = i % pairs;
  float sine, cosine;
  sincosf(static_cast<float>(position) * inv_freq[pair], &sine, &cosine);
  out[position * 2 * pairs + pair] = cosine;
  out[position * 2 * pairs + pairs + pair] = sine;
}

}  // namespace

void fill_rope(const float* inv_freq, uint64_t pairs, uint64_t positions, float* out, cudaStream_t stream) {
  const uint64_t n = pairs * positions;
  if (n == 0) return;
  rope_kernel<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(inv_freq, pairs, n, out);
  check_launch("the rotary table of a cache");
}

}  // namespace hlwq::cuda
