#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hlwq {
namespace {

constexpr uint64_t kKeyTile = 128;        // keys scored at a time
constexpr uint64_t kQueryRows = 48;       // query rows (tokens x heads of a group) that share a tile
constexpr uint64_t kGemmRows = 6;         // from here on, transposing the value tile pays
constexpr uint64_t kKeysPerSplit = 1024;  // least keys worth a split of their own

// What one task works on: a run of tokens of one KV head over a range of key positions.
struct Task {
  uint64_t kv_head, token_begin, token_end, key_begin, key_end, split;
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
  uint64_t first_key(uint64_t position) const {
    return shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
  }

  // Keys or values of positions [begin, begin + n) as floats, contiguous; n positions never wrap twice.
  const float* rows(const void* base, uint64_t kv_head, uint64_t begin, uint64_t n, float* buffer) const {
    const uint64_t slot = begin % cache.capacity, head = kv_head * cache.capacity;
    const uint64_t before_wrap = std::min(n, cache.capacity - slot);
    if (cache.type == KvType::kF32) {
      const float* data = static_cast<const float*>(base);
      if (before_wrap == n) return data + (head + slot) * d;
      std::copy_n(data + (head + slot) * d, before_wrap * d, buffer);
      std::copy_n(data + head * d, (n - before_wrap) * d, buffer + before_wrap * d);
      return buffer;
    }
    const uint16_t* data = static_cast<const uint16_t*>(base);
    const auto convert = compute.kernels->vector.bf16_to_float;
    convert(data + (head + slot) * d, buffer, before_wrap * d);
    if (before_wrap < n) convert(data + head * d, buffer + before_wrap * d, (n - before_wrap) * d);
    return buffer;
  }

  // Online softmax over the task's keys. state: per row max, sum, acc[d]; scratch sized by scratch_floats().
  void run(const Task& task, float* scratch, float* partial) const {
    const VectorKernels& vec = compute.kernels->vector;
    const uint64_t n_tokens = task.token_end - task.token_begin, n_rows = n_tokens * group;
    float* tile = scratch;                            // [kKeyTile, d]
    float* transposed = tile + kKeyTile * d;          // [d, kKeyTile]
    float* queries = transposed + kKeyTile * d;       // [rows, d]
    float* scores = queries + max_rows() * d;         // [rows, kKeyTile]
    float* product = scores + max_rows() * kKeyTile;  // [rows, d]
    for (uint64_t t = 0; t < n_tokens; ++t)
      for (uint64_t g = 0; g < group; ++g) {
        const float* src = q + ((task.token_begin + t) * shape.heads + task.kv_head * group + g) * d;
        float* dst = queries + (t * group + g) * d;
        for (uint64_t i = 0; i < d; ++i) dst[i] = src[i] * shape.scale;
      }
    for (uint64_t r = 0; r < n_rows; ++r) {
      float* state = partial + r * (d + 2);
      std::fill_n(state, d + 2, 0.0f);
      state[0] = -std::numeric_limits<float>::infinity();
    }
    for (uint64_t key = task.key_begin; key < task.key_end; key += kKeyTile) {
      const uint64_t n = std::min(kKeyTile, task.key_end - key);
      vec.gemm(rows(cache.k, task.kv_head, key, n, tile), n, d, queries, d, n_rows, scores, kKeyTile);
      const float* values = rows(cache.v, task.kv_head, key, n, tile);
      const bool use_gemm = n_rows >= kGemmRows;
      if (use_gemm)
        for (uint64_t j = 0; j < n; ++j)
          for (uint64_t i = 0; i < d; ++i) transposed[i * kKeyTile + j] = values[j * d + i];
      for (uint64_t r = 0; r < n_rows; ++r) {
        float* s = scores + r * kKeyTile;
        float* state = partial + r * (d + 2);
        const uint64_t token = task.token_begin + r / group;
        const uint64_t lo = std::max(first_key(shape.first_position + token), key),
                       hi = std::min(end_key(token), key + n);
        if (lo >= hi) {
          std::fill_n(s, kKeyTile, 0.0f);
          continue;
        }
        const uint64_t a = lo - key, b = hi - key;
        const float tile_max = *std::max_element(s + a, s + b);
        const float tile_sum = vec.softmax_unnormalized(s + a, b - a);
        const float new_max = std::max(state[0], tile_max);
        const float keep = std::exp(state[0] - new_max), take = std::exp(tile_max - new_max);
        state[0] = new_max;
        state[1] = state[1] * keep + tile_sum * take;
        for (uint64_t i = 0; i < d; ++i) state[2 + i] *= keep;
        if (use_gemm) {
          std::fill_n(s, a, 0.0f);
          std::fill(s + b, s + kKeyTile, 0.0f);
          for (uint64_t j = a; j < b; ++j) s[j] *= take;
        } else {
          for (uint64_t j = a; j < b; ++j) vec.axpy(s[j] * take, values + j * d, state + 2, d);
        }
      }
      if (use_gemm) {
        if (n < kKeyTile)  // the tail of the last tile must not leak stale numbers into the product
          for (uint64_t i = 0; i < d; ++i)
            std::fill(transposed + i * kKeyTile + n, transposed + (i + 1) * kKeyTile, 0.0f);
        vec.gemm(transposed, d, kKeyTile, scores, kKeyTile, n_rows, product, d);
        for (uint64_t r = 0; r < n_rows; ++r) {
          float* acc = partial + r * (d + 2) + 2;
          const float* p = product + r * d;
          for (uint64_t i = 0; i < d; ++i) acc[i] += p[i];
        }
      }
    }
  }

  uint64_t tokens_per_task() const { return std::max<uint64_t>(1, kQueryRows / group); }
  uint64_t max_rows() const { return tokens_per_task() * group; }
  uint64_t scratch_floats() const { return 2 * kKeyTile * d + max_rows() * (2 * d + kKeyTile); }
};

}  // namespace

void attention(const Compute& compute, const KvView& cache, const AttentionShape& shape, const float* q,
               float* out, AttentionScratch& scratch) {
  const uint64_t d = cache.head_dim, group = shape.heads / cache.kv_heads;
  const Tiler tiler{compute, cache, shape, q, group, d};
  const uint64_t per_task = tiler.tokens_per_task();
  const uint64_t blocks = ceil_div(shape.tokens, per_task);

  // Few heads and few tokens leave threads idle: split the keys too.
  const uint64_t last = shape.first_position + shape.tokens;
  const uint64_t longest = last - tiler.first_key(shape.first_position);
  const uint64_t threads = compute.pool->threads();
  uint64_t splits = 1;
  if (cache.kv_heads * blocks < threads * 2)
    splits = std::clamp<uint64_t>(longest / kKeysPerSplit, 1, threads * 2);

  const uint64_t row_floats = d + 2, task_floats = tiler.max_rows() * row_floats;
  const uint64_t n_tasks = cache.kv_heads * blocks * splits;
  if (scratch.partial.size() < n_tasks * task_floats) scratch.partial.resize(n_tasks * task_floats);
  if (scratch.per_thread.size() < threads) scratch.per_thread.resize(threads);
  for (auto& s : scratch.per_thread)
    if (s.size() < tiler.scratch_floats()) s.resize(tiler.scratch_floats());

  compute.pool->parallel_for(n_tasks, 1, [&](size_t begin, size_t end, int thread) {
    for (size_t i = begin; i < end; ++i) {
      Task task;
      task.split = i % splits;
      // Later token blocks see more keys: hand them out first, so that threads end together.
      const uint64_t block = blocks - 1 - (i / splits) % blocks;
      task.kv_head = i / splits / blocks;
      task.token_begin = block * per_task;
      task.token_end = std::min(shape.tokens, task.token_begin + per_task);
      const uint64_t key_begin = tiler.first_key(shape.first_position + task.token_begin);
      uint64_t keys = 0;
      for (uint64_t t = task.token_begin; t < task.token_end; ++t)
        keys = std::max(keys, tiler.end_key(t) - key_begin);
      task.key_begin = key_begin + keys * task.split / splits;
      task.key_end = key_begin + keys * (task.split + 1) / splits;
      float* partial =
          scratch.partial.data() + ((task.kv_head * blocks + block) * splits + task.split) * task_floats;
      tiler.run(task, scratch.per_thread[static_cast<size_t>(thread)].data(), partial);
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
    }
  });
}

}  // namespace hlwq
