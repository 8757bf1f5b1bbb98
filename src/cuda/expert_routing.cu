#include <algorithm>
#include <string>

#include "base/checked.h"
#include "cuda/expert_routing.h"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kAlignment = 16;
constexpr int kChooseWarps = 4, kSortThreads = 1024, kSumThreads = 256;

uint64_t aligned(uint64_t bytes) { return ceil_div(bytes, kAlignment) * kAlignment; }

// No tile is empty, and all of an expert's but its last are full.
uint64_t most_tiles(uint64_t experts, uint64_t slots, uint64_t tile_tokens) {
  return std::min(slots, std::min(experts, slots) + slots / tile_tokens);
}

// A warp a token. Each choice is the best of those behind the last one in the order of choice, which is by
// score, then by number; what is no number counts as the lowest score.
__global__ void __launch_bounds__(kChooseWarps * 32)
    choose_kernel(const float* __restrict__ scores, const float* __restrict__ scale, uint64_t tokens,
                  uint32_t experts, uint32_t top_k, uint32_t* __restrict__ chosen,
                  float* __restrict__ weights) {
  const uint64_t token = uint64_t{blockIdx.x} * kChooseWarps + threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  if (token >= tokens) return;
  const float* row = scores + token * experts;
  uint32_t* to = chosen + token * top_k;
  float* weight = weights + token * top_k;
  float last = INFINITY, top = 0, total = 0;
  uint32_t last_expert = 0;
  for (uint32_t k = 0; k < top_k; ++k) {
    float best = -INFINITY;
    uint32_t expert = UINT32_MAX;
    for (uint32_t e = lane; e < experts; e += 32) {
      const float raw = row[e], v = raw == raw ? raw : -INFINITY;
      const bool left = k == 0 || v < last || (v == last && e > last_expert);
      if (left && (expert == UINT32_MAX || v > best)) best = v, expert = e;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, best, step);
      const uint32_t other_expert = __shfl_xor_sync(0xffffffffu, expert, step);
      // An absent one has the highest number, and -INFINITY: it loses to every real one.
      if (other > best || (other == best && other_expert < expert)) best = other, expert = other_expert;
    }
    last = best;
    last_expert = expert;
    if (k == 0) top = row[expert];
    const float w = expf(row[expert] - top);
    total += w;
    if (lane == 0) to[k] = expert, weight[k] = w;
  }
  __syncwarp();
  for (uint32_t k = lane; k < top_k; k += 32) weight[k] = weight[k] / total * scale[to[k]];
}

// One block sorts all slots by expert. A warp counts the slots of an expert 32 at a time, and later puts them
// down in the same order: no atomics, and the same result every time.
__global__ void __launch_bounds__(kSortThreads)
    sort_kernel(const uint32_t* __restrict__ chosen, uint32_t slots, uint32_t experts, uint32_t tile_tokens,
                uint32_t* __restrict__ order, uint32_t* __restrict__ places,
                LinearGroups::Tile* __restrict__ tiles, uint32_t* __restrict__ n_tiles) {
  extern __shared__ uint32_t shared[];
  uint32_t *begin = shared, *first_tile = shared + experts + 1;  // begin[e + 1] holds e's count at first
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = kSortThreads / 32;
  for (uint32_t e = warp; e < experts; e += warps) {
    uint32_t count = 0;
    for (uint32_t s = 0; s < slots; s += 32)
      count += __popc(__ballot_sync(0xffffffffu, s + lane < slots && chosen[s + lane] == e));
    if (lane == 0) begin[e + 1] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t at = 0, tile = 0;
    begin[0] = 0;
    for (uint32_t e = 0; e < experts; ++e) {
      first_tile[e] = tile;
      tile += (begin[e + 1] + tile_tokens - 1) / tile_tokens;
      begin[e + 1] = at += begin[e + 1];
    }
    *n_tiles = tile;
  }
  __syncthreads();
  for (uint32_t e = warp; e < experts; e += warps) {
    const uint32_t first = begin[e], count = begin[e + 1] - first;
    if (count == 0) continue;
    uint32_t at = first;
    for (uint32_t s = 0; s < slots; s += 32) {
      const bool mine = s + lane < slots && chosen[s + lane] == e;
      const uint32_t all = __ballot_sync(0xffffffffu, mine);
      if (mine) {
        const uint32_t place = at + __popc(all & ((1u << lane) - 1));
        order[place] = s + lane;
        places[s + lane] = place;
      }
      at += __popc(all);
    }
    for (uint32_t t = lane; t * tile_tokens < count; t += 32)
      tiles[first_tile[e] + t] = {e, first + t * tile_tokens, min(tile_tokens, count - t * tile_tokens)};
  }
}

__device__ float block_sum(float v, float* shared) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kSumThreads / 32; ++i) total += shared[i];
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(kSumThreads) sum_kernel(const ExpertSum s) {
  __shared__ float shared[kSumThreads / 32];
  const uint64_t token = blockIdx.x;
  float* dense = s.dense + token * s.width;
  const auto value = [&](uint64_t i) {
    float v = 0;
    for (uint64_t k = token * s.top_k; k < (token + 1) * s.top_k; ++k)
      v += s.weights[k] * s.outputs[s.places[k] * s.width + i];
    return v;
  };
  float of_dense = 0, of_experts = 0;
  for (uint64_t i = threadIdx.x; i < s.width; i += kSumThreads) {
    const float v = value(i);
    of_experts += v * v;
    of_dense += dense[i] * dense[i];
  }
  const auto scale = [&](float squares) {
    return 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(s.width) + s.eps);
  };
  const float dense_scale = scale(of_dense), expert_scale = scale(of_experts);
  for (uint64_t i = threadIdx.x; i < s.width; i += kSumThreads)
    dense[i] = dense[i] * dense_scale * s.dense_norm[i] + value(i) * expert_scale * s.norm[i];
}

}  // namespace

uint64_t ExpertRouting::bytes(uint64_t experts, uint64_t top_k, uint64_t tokens) {
  const uint64_t slots = checked_mul(tokens, top_k, "the slots of experts");
  return 4 * aligned(slots * sizeof(uint32_t)) + kAlignment +
         aligned(most_tiles(experts, slots, 8) * sizeof(LinearGroups::Tile));
}

ExpertRouting::ExpertRouting(uint64_t experts, uint64_t top_k, uint64_t tokens, void* memory)
    : experts_(experts), top_k_(top_k) {
  if (experts > kMaxExperts)
    throw Error(ErrorCode::kUnsupported, "the GPU takes at most " + std::to_string(kMaxExperts) +
                                             " experts, this model has " + std::to_string(experts) +
                                             "; use --device cpu");
  auto* p = static_cast<std::byte*>(memory);
  const auto take = [&](uint64_t bytes) {
    std::byte* at = p;
    p += aligned(bytes);
    return at;
  };
  const uint64_t slots = tokens * top_k;
  for (uint32_t** a : {&chosen_, &places_, &order_}) *a = reinterpret_cast<uint32_t*>(take(slots * 4));
  weights_ = reinterpret_cast<float*>(take(slots * 4));
  n_tiles_ = reinterpret_cast<uint32_t*>(take(kAlignment));
  tiles_ = reinterpret_cast<LinearGroups::Tile*>(p);
}

void ExpertRouting::choose(const float* scores, const float* scale, uint64_t tokens, cudaStream_t stream) {
  const uint64_t slots = tokens * top_k_;
  tile_tokens_ = slots > 8 * experts_ ? 32 : 8;
  max_tiles_ = most_tiles(experts_, slots, tile_tokens_);
  const auto experts = static_cast<uint32_t>(experts_), top_k = static_cast<uint32_t>(top_k_);
  choose_kernel<<<static_cast<unsigned>(ceil_div(tokens, kChooseWarps)), kChooseWarps * 32, 0, stream>>>(
      scores, scale, tokens, experts, top_k, chosen_, weights_);
  check_launch("choosing experts");
  sort_kernel<<<1, kSortThreads, (2 * experts_ + 1) * sizeof(uint32_t), stream>>>(
      chosen_, static_cast<uint32_t>(slots), experts, static_cast<uint32_t>(tile_tokens_), order_, places_,
      tiles_, n_tiles_);
  check_launch("sorting tokens by expert");
}

LinearGroups ExpertRouting::from_tokens() const {
  return {tiles_, n_tiles_, order_, static_cast<uint32_t>(top_k_)};
}

LinearGroups ExpertRouting::from_places() const { return {tiles_, n_tiles_, nullptr, 1}; }

void add_experts(const ExpertSum& sum, cudaStream_t stream) {
  sum_kernel<<<static_cast<unsigned>(sum.tokens), kSumThreads, 0, stream>>>(sum);
  check_launch("adding the experts' outputs");
}

}  // namespace hlwq::cuda
