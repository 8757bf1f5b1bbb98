// Which experts each token goes to, decided and sorted on the GPU, so that the host waits for nothing and a
// decode step stays one graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/linear_kernels.h"

namespace hlwq::cuda {

/// More experts than this have no kernel.
inline constexpr uint64_t kMaxExperts = 4096;
/// (token, choice) pairs that are worked on at once, as long as a token has no more: what bounds the memory.
inline constexpr uint64_t kMaxExpertSlots = 4096;

/// A (token, choice) pair is a slot, token * top_k + choice. Slots sorted by expert, within an expert by
/// token, are places; the linears of experts work on places.
class ExpertRouting {
 public:
  /// Bytes of device memory for up to `tokens`.
  static uint64_t bytes(uint64_t experts, uint64_t top_k, uint64_t tokens);
  /// `memory`: that many bytes, aligned to 16. experts at most kMaxExperts.
  ExpertRouting(uint64_t experts, uint64_t top_k, uint64_t tokens, void* memory);

  /// Picks the top_k largest of `scores` [tokens, experts], of equal ones the first, and sorts the slots. A
  /// slot's weight is the softmax over its token's chosen scores, times scale[expert].
  void choose(const float* scores, const float* scale, uint64_t tokens, cudaStream_t stream);

  /// For linears whose input is one row a token, and for those whose input is one row a place.
  LinearGroups from_tokens() const;
  LinearGroups from_places() const;
  /// Of the last choose(): an upper bound of the tiles, and the most tokens that a tile has (8 or 32).
  uint64_t max_tiles() const { return max_tiles_; }
  uint64_t tile_tokens() const { return tile_tokens_; }

  const uint32_t* chosen() const { return chosen_; }  ///< [slots]: expert
  const float* weights() const { return weights_; }   ///< [slots]
  const uint32_t* places() const { return places_; }  ///< [slots]: place of a slot
  const uint32_t* order() const { return order_; }    ///< [slots]: slot at a place

 private:
  uint64_t experts_, top_k_, max_tiles_ = 0, tile_tokens_ = 8;
  uint32_t *chosen_, *places_, *order_, *n_tiles_;
  float* weights_;
  LinearGroups::Tile* tiles_;
};

/// The end of a layer's experts: dense [tokens, width] = rms_norm(dense) * dense_norm + rms_norm(sum of each
/// token's outputs by weight) * norm. outputs: [places, width].
struct ExpertSum {
  uint64_t tokens = 0, width = 0, top_k = 0;
  float eps = 1e-6f;
  const float *outputs = nullptr, *weights = nullptr;
  const uint32_t* places = nullptr;
  const float *norm = nullptr, *dense_norm = nullptr;
  float* dense = nullptr;
};
void add_experts(const ExpertSum& sum, cudaStream_t stream);

}  // namespace hlwq::cuda
