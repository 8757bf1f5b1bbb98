#include "ops/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "ops/kv_tiles.h"
#include "quant/hadamard.h"

namespace hlwq {
namespace {

constexpr uint64_t kQueryRows = 48;       // query rows (tokens x heads of a group) that share a tile
constexpr uint64_t kKeysPerSplit = 1024;  // least keys worth a split of their own
constexpr uint64_t kKeys = KvTiles::kKeys;

// What one task works on: a run of tokens of one KV head over a range of key positions.
struct Task {
  uint64_t kv_head, token_begin, token_end, key_begin, key_end, split;
};

struct Range {
  uint64_t begin, end;
};

struct Tiler {
  const Compute& compute;
  const KvView& cache;
  const AttentionShape& shape;
  const float* q;
  uint64_t group, d;

  uint64_t end_key(uint64_t token) const {
    return shape.key_end ? shape.key_end[token] : shape.first_position + token + 1;
  }
  uint64_t first_key(uint64_t token) const {
    const uint64_t position = shape.first_position + token;
    return shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
  }

  // Keys that a query reads from a source. With codes: sinks first, then codes up to the query's exact tail.
  Range keys(uint64_t token, KvSource source) const {
    Range r{first_key(token), end_key(token)};
    if (!cache.k.main.coded() && !cache.v.main.coded()) return source == KvSource::kMain ? r : Range{0, 0};
    const uint64_t position = shape.first_position + token;
    const uint64_t tail = !cache.tail ? r.end : position + 1 > cache.tail ? position + 1 - cache.tail : 0;
    switch (source) {
      case KvSource::kSinks:
        r.end = std::min(r.end, cache.sinks);
        break;
      case KvSource::kMain:
        r = {std::max(r.begin, cache.sinks), std::min(r.end, std::max(tail, cache.sinks))};
        break;
      case KvSource::kExact:
        r.begin = std::max({r.begin, cache.sinks, tail});
        break;
    }
    return r;  // empty where end <= begin
  }

  // Softmax weights of one row's scores [a, b) of a tile, relative to the row's running maximum; what was
  // summed before is scaled to the new one. Scores outside become 0.
  void weigh(float* s, uint64_t a, uint64_t b, float* state) const {
    const float tile_max = *std::max_element(s + a, s + b);
    const float tile_sum = compute.kernels->vector.softmax_unnormalized(s + a, b - a);
    const float new_max = std::max(state[0], tile_max);
    const float keep = std::exp(state[0] - new_max), take = std::exp(tile_max - new_max);
    state[0] = new_max;
    state[1] = state[1] * keep + tile_sum * take;
    if (keep != 1)
      for (uint64_t i = 0; i < d; ++i) state[2 + i] *= keep;
    std::fill_n(s, a, 0.0f);
    std::fill(s + b, s + kKeys, 0.0f);
    if (take != 1)
      for (uint64_t j = a; j < b; ++j) s[j] *= take;
  }

  // Online softmax over the task's keys. partial: per row max, sum, acc[d].
  void run(const Task& task, AttentionScratch::Thread& scratch, float* partial) const {
    const uint64_t n_tokens = task.token_end - task.token_begin, n_rows = n_tokens * group;
    for (uint64_t t = 0; t < n_tokens; ++t)
      for (uint64_t g = 0; g < group; ++g) {
        const float* src = q + ((task.token_begin + t) * shape.heads + task.kv_head * group + g) * d;
        float* dst = scratch.queries.data() + (t * group + g) * d;
        for (uint64_t i = 0; i < d; ++i) dst[i] = src[i] * shape.scale;
      }
    for (uint64_t r = 0; r < n_rows; ++r) {
      float* state = partial + r * (d + 2);
      std::fill_n(state, d + 2, 0.0f);
      state[0] = -std::numeric_limits<float>::infinity();
    }
    KvTiles tiles(compute, cache, task.kv_head, n_rows, scratch);
    float* scores = scratch.scores.data();
    for (KvSource source : {KvSource::kSinks, KvSource::kMain, KvSource::kExact}) {
      if ((source == KvSource::kSinks && !cache.sinks) || (source == KvSource::kExact && !cache.tail))
        continue;
      // Both ends ascend with the token.
      const uint64_t begin = std::max(task.key_begin, keys(task.token_begin, source).begin);
      const uint64_t end = std::min(task.key_end, keys(task.token_end - 1, source).end);
      for (uint64_t key = begin; key < end; key += kKeys) {
        const uint64_t n = std::min(kKeys, end - key);
        tiles.score(source, key, n, scores);
        bool seen = false;
        for (uint64_t r = 0; r < n_rows; ++r) {
          const Range own = keys(task.token_begin + r / group, source);
          const uint64_t lo = std::max(own.begin, key), hi = std::min(own.end, key + n);
          float* s = scores + r * kKeys;
          if (lo < hi)
            weigh(s, lo - key, hi - key, partial + r * (d + 2));
          else
            std::fill_n(s, kKeys, 0.0f);
          seen |= lo < hi;
        }
        if (seen) tiles.accumulate(source, key, n, scores, partial + 2, d + 2);
      }
    }
  }

  uint64_t tokens_per_task() const { return std::max<uint64_t>(1, kQueryRows / group); }
  uint64_t max_rows() const { return tokens_per_task() * group; }
};

}  // namespace

void attention(const Compute& compute, const KvView& cache, const AttentionShape& shape, const float* q,
               float* out, AttentionScratch& scratch) {
  const uint64_t d = cache.head_dim, group = shape.heads / cache.kv_heads;
  const Tiler tiler{compute, cache, shape, q, group, d};
  const uint64_t per_task = tiler.tokens_per_task();
  const uint64_t blocks = ceil_div(shape.tokens, per_task);

  // Few heads and few tokens leave threads idle: split the keys too.
  const uint64_t longest = tiler.end_key(shape.tokens - 1) - tiler.first_key(0);
  const uint64_t threads = compute.pool->threads();
  uint64_t splits = 1;
  if (cache.kv_heads * blocks < threads * 2)
    splits = std::clamp<uint64_t>(longest / kKeysPerSplit, 1, threads * 2);

  const uint64_t row_floats = d + 2, task_floats = tiler.max_rows() * row_floats;
  const uint64_t n_tasks = cache.kv_heads * blocks * splits;
  if (scratch.partial.size() < n_tasks * task_floats) scratch.partial.resize(n_tasks * task_floats);
  if (scratch.threads.size() < threads) scratch.threads.resize(threads);
  for (auto& s : scratch.threads) {
    if (s.queries.size() < tiler.max_rows() * d) s.queries.resize(tiler.max_rows() * d);
    if (s.scores.size() < tiler.max_rows() * kKeys) s.scores.resize(tiler.max_rows() * kKeys);
  }

  compute.pool->parallel_for(n_tasks, 1, [&](size_t begin, size_t end, int thread) {
    for (size_t i = begin; i < end; ++i) {
      Task task;
      task.split = i % splits;
      // Later token blocks see more keys: hand them out first, so that threads end together.
      const uint64_t block = blocks - 1 - (i / splits) % blocks;
      task.kv_head = i / splits / blocks;
      task.token_begin = block * per_task;
      task.token_end = std::min(shape.tokens, task.token_begin + per_task);
      const uint64_t key_begin = tiler.first_key(task.token_begin);
      const uint64_t keys = tiler.end_key(task.token_end - 1) - key_begin;
      task.key_begin = key_begin + keys * task.split / splits;
      task.key_end = key_begin + keys * (task.split + 1) / splits;
      float* partial =
          scratch.partial.data() + ((task.kv_head * blocks + block) * splits + task.split) * task_floats;
      tiler.run(task, scratch.threads[static_cast<size_t>(thread)], partial);
    }
  });

  compute.pool->parallel_for(shape.tokens * shape.heads, 64, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const uint64_t token = i / shape.heads, head = i % shape.heads;
      const uint64_t block = token / per_task, row = (token % per_task) * group + head % group;
      const float* first = scratch.partial.data() + ((head / group) * blocks + block) * splits * task_floats +
                           row * row_floats;
      float max = -std::numeric_limits<float>::infinity(), sum = 0;
      for (uint64_t s = 0; s < splits; ++s) max = std::max(max, first[s * task_floats]);
      float* y = out + i * d;
      std::fill_n(y, d, 0.0f);
      for (uint64_t s = 0; s < splits; ++s) {
        const float* state = first + s * task_floats;
        const float weight = std::exp(state[0] - max);  // a split that saw no key has max -inf and weight 0
        sum += state[1] * weight;
        compute.kernels->vector.axpy(weight, state + 2, y, d);
      }
      const float inverse = 1.0f / sum;
      for (uint64_t j = 0; j < d; ++j) y[j] *= inverse;
      if (cache.v.main.coded()) hadamard(y, static_cast<int>(d));  // coded values were summed rotated
    }
  });
}

}  // namespace hlwq
