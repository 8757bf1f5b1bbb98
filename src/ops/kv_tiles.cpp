#include "ops/kv_tiles.h"

#include <algorithm>

#include "quant/hadamard.h"

namespace hlwq {
namespace {

void grow(std::vector<float>& buffer, uint64_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

KvTiles::KvTiles(const Compute& compute, const KvView& view, uint64_t kv_head, uint64_t rows,
                 AttentionScratch::Thread& scratch)
    : compute_(compute),
      view_(view),
      scratch_(scratch),
      head_(kv_head),
      rows_(rows),
      dim_(view.head_dim),
      rebuilt_(view.k.main.bits == 0) {
  grow(scratch.values, kKeys * dim_);
  grow(scratch.keys, kKeys * dim_);
  const KvStore& keys = rebuilt_ ? view.v : view.k;
  if (!keys.main.coded()) return;
  // <q, RoPE(w v)> = <w q, v> + <q, (RoPE - 1)(w v)>: the first part meets the stored, rotated values like
  // any coded key, the second needs the rotating pairs only.
  grow(scratch.rotated, rows * dim_);
  std::copy_n(scratch.queries.data(), rows * dim_, scratch.rotated.data());
  if (rebuilt_) {
    for (uint64_t r = 0; r < rows; ++r)
      for (uint64_t i = 0; i < dim_; ++i) scratch.rotated[r * dim_ + i] *= view.k_weight[i];
    const uint64_t pairs = view.k_pairs;
    grow(scratch.pairs, rows * 2 * pairs);
    grow(scratch.rebuilt, rows * kKeys);
    for (uint64_t r = 0; r < rows; ++r) {
      const float* q = scratch.queries.data() + r * dim_;
      std::copy_n(q, pairs, scratch.pairs.data() + r * 2 * pairs);
      std::copy_n(q + dim_ / 2, pairs, scratch.pairs.data() + (r * 2 + 1) * pairs);
    }
  }
  scratch.q8.resize(rows, dim_, static_cast<int>(dim_));
  for (uint64_t r = 0; r < rows; ++r) {
    float* q = scratch.rotated.data() + r * dim_;
    compute.kernels->linear.rotate_quantize(q, dim_, static_cast<int>(dim_), scratch.q8.q.data() + r * dim_,
                                            scratch.q8.scale.data() + r, scratch.q8.sum.data() + r);
    if (view.tail || view.sinks) hadamard(q, static_cast<int>(dim_));
  }
}

template <typename Fn>
void KvTiles::for_runs(const KvRing& ring, uint64_t begin, uint64_t n, Fn&& fn) {
  const uint64_t slot = begin % ring.capacity, first = std::min(n, ring.capacity - slot);
  fn(Run{slot, 0, first});
  if (first < n) fn(Run{0, first, n - first});
}

const KvRing& KvTiles::ring(const KvStore& store, KvSource source) const {
  if (!store.main.coded() || source == KvSource::kMain) return store.main;
  return source == KvSource::kExact ? store.exact : store.sinks;
}

HlwqMatrix KvTiles::coded(const KvRing& ring, const Run& run) const {
  const uint64_t row = head_ * ring.capacity + run.slot;
  return ring.codec->matrix(static_cast<const uint8_t*>(ring.data) + row * ring.codec->row_bytes(),
                            ring.norms + row, run.count);
}

// Vectors [begin, begin + n) as floats, contiguous: where they lie, or in the buffer.
const float* KvTiles::floats(const KvRing& ring, uint64_t begin, uint64_t n, float* buffer) const {
  const float* in_place = nullptr;
  for_runs(ring, begin, n, [&](const Run& run) {
    const uint64_t row = head_ * ring.capacity + run.slot;
    float* to = buffer + run.offset * dim_;
    if (ring.coded()) {
      compute_.kernels->attention.decode_codes(coded(ring, run), to);
    } else if (ring.bits == 16) {
      compute_.kernels->vector.bf16_to_float(static_cast<const uint16_t*>(ring.data) + row * dim_, to,
                                             run.count * dim_);
    } else {
      const float* from = static_cast<const float*>(ring.data) + row * dim_;
      if (run.count == n)
        in_place = from;
      else
        std::copy_n(from, run.count * dim_, to);
    }
  });
  return in_place ? in_place : buffer;
}

void KvTiles::score_coded(const KvRing& ring, uint64_t begin, uint64_t n, float* scores) {
  for_runs(ring, begin, n, [&](const Run& run) {
    compute_.kernels->linear.hlwq_rows(coded(ring, run), scratch_.q8, 0, run.count, scores + run.offset,
                                       kKeys);
  });
}

void KvTiles::score_floats(const float* keys, uint64_t n, const float* queries, float* scores) {
  compute_.kernels->vector.gemm(keys, n, dim_, queries, dim_, rows_, scores, kKeys);
}

void KvTiles::score_rebuilt(KvSource source, uint64_t begin, uint64_t n, float* scores) {
  const KvRing& values = ring(view_.v, source);
  const uint64_t half = dim_ / 2, pairs = view_.k_pairs;
  const float *w = view_.k_weight, *rope = view_.k_rope + begin * 2 * pairs;
  float* keys = scratch_.keys.data();
  values_ = floats(values, begin, n, scratch_.values.data());
  if (!view_.v.main.coded()) {
    for (uint64_t j = 0; j < n; ++j) {
      const float *v = values_ + j * dim_, *c = rope + j * 2 * pairs, *s = c + pairs;
      float* k = keys + j * dim_;
      for (uint64_t i = 0; i < dim_; ++i) k[i] = v[i] * w[i];
      for (uint64_t i = 0; i < pairs; ++i) {
        const float a = k[i], b = k[half + i];
        k[i] = a * c[i] - b * s[i];
        k[half + i] = b * c[i] + a * s[i];
      }
    }
    score_floats(keys, n, scratch_.queries.data(), scores);
    return;
  }
  if (values.coded())
    score_coded(values, begin, n, scores);
  else
    score_floats(values_, n, scratch_.rotated.data(), scores);
  compute_.kernels->attention.turn_pairs(values_, n, dim_, pairs, w, rope, keys);
  float* turned = scratch_.rebuilt.data();
  compute_.kernels->vector.gemm(keys, n, 2 * pairs, scratch_.pairs.data(), 2 * pairs, rows_, turned, kKeys);
  for (uint64_t r = 0; r < rows_; ++r)
    for (uint64_t j = 0; j < n; ++j) scores[r * kKeys + j] += turned[r * kKeys + j];
}

void KvTiles::score(KvSource source, uint64_t begin, uint64_t n, float* scores) {
  if (rebuilt_) return score_rebuilt(source, begin, n, scores);
  const KvRing& keys = ring(view_.k, source);
  if (keys.coded()) return score_coded(keys, begin, n, scores);
  const bool rotated = view_.k.main.coded();
  score_floats(floats(keys, begin, n, scratch_.keys.data()), n,
               rotated ? scratch_.rotated.data() : scratch_.queries.data(), scores);
}

void KvTiles::accumulate(KvSource source, uint64_t begin, uint64_t n, const float* weights, float* y,
                         uint64_t y_stride) {
  const AttentionKernels& kernels = compute_.kernels->attention;
  if (rebuilt_) return kernels.accumulate(values_, n, dim_, weights, kKeys, rows_, y, y_stride);
  const KvRing& values = ring(view_.v, source);
  for_runs(values, begin, n, [&](const Run& run) {
    const float* a = weights + run.offset;
    const uint64_t row = head_ * values.capacity + run.slot;
    if (values.coded())
      kernels.accumulate_codes(coded(values, run), a, kKeys, rows_, y, y_stride);
    else if (values.bits == 16)
      kernels.accumulate_bf16(static_cast<const uint16_t*>(values.data) + row * dim_, run.count, dim_, a,
                              kKeys, rows_, y, y_stride);
    else
      kernels.accumulate(static_cast<const float*>(values.data) + row * dim_, run.count, dim_, a, kKeys,
                         rows_, y, y_stride);
  });
}

}  // namespace hlwq
