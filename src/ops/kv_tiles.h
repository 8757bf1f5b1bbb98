// The two products of attention, queries with keys and weights with values, over a run of cached positions,
// whatever form these are stored in.
#pragma once

#include "ops/attention.h"

namespace hlwq {

/// Which of a store's rings a position is read from; plain stores have the main one only.
enum class KvSource { kMain, kExact, kSinks };

/// One KV head and the query rows (tokens x heads of its group) that share it. Used by one thread.
class KvTiles {
 public:
  static constexpr uint64_t kKeys = 128;  ///< positions in a tile, at most

  /// scratch.queries [rows, head_dim], already scaled, must be filled.
  KvTiles(const Compute& compute, const KvView& view, uint64_t kv_head, uint64_t rows,
          AttentionScratch::Thread& scratch);

  /// scores[r * kKeys + j] = <query r, key begin + j> for j < n <= kKeys.
  void score(KvSource source, uint64_t begin, uint64_t n, float* scores);
  /// y[r * y_stride + :] += sum_j weights[r * kKeys + j] * value of begin + j; rotated where values are
  /// coded. Keys that are rebuilt from values: directly after score() of the same positions.
  void accumulate(KvSource source, uint64_t begin, uint64_t n, const float* weights, float* y,
                  uint64_t y_stride);

 private:
  struct Run {
    uint64_t slot, offset, count;  // `count` positions from `offset` of the tile lie together from `slot` on
  };
  template <typename Fn>
  static void for_runs(const KvRing& ring, uint64_t begin, uint64_t n, Fn&& fn);
  const KvRing& ring(const KvStore& store, KvSource source) const;
  HlwqMatrix coded(const KvRing& ring, const Run& run) const;
  const float* floats(const KvRing& ring, uint64_t begin, uint64_t n, float* buffer) const;
  void score_coded(const KvRing& ring, uint64_t begin, uint64_t n, float* scores);
  void score_floats(const float* keys, uint64_t n, const float* queries, float* scores);
  void score_rebuilt(KvSource source, uint64_t begin, uint64_t n, float* scores);

  const Compute& compute_;
  const KvView& view_;
  AttentionScratch::Thread& scratch_;
  uint64_t head_, rows_, dim_;
  bool rebuilt_;
  const float* values_ = nullptr;  // of the tile that score() saw last, when keys are rebuilt from them
};

}  // namespace hlwq
