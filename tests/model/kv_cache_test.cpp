#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <random>

namespace hlwq {
namespace {

ModelSpec two_layers(uint64_t window) {
  ModelSpec spec;
  spec.heads = 4;
  spec.layers = {{.head_dim = 8, .kv_heads = 2, .window = window}, {.head_dim = 16, .kv_heads = 1}};
  return spec;
}

class Caches : public ::testing::Test {
 protected:
  // Values that say where they came from: position, head, index.
  static float value(uint64_t position, uint64_t head, uint64_t i, bool is_v) {
    return static_cast<float>(position * 100 + head * 50 + i) + (is_v ? 0.5f : 0.0f);
  }
  void feed(KvCache& cache, const ModelSpec& spec, uint64_t tokens) {
    for (uint64_t layer = 0; layer < spec.layers.size(); ++layer) {
      const auto& l = spec.layers[layer];
      std::vector<float> k, v;
      for (uint64_t t = 0; t < tokens; ++t)
        for (uint64_t h = 0; h < l.kv_heads; ++h)
          for (uint64_t i = 0; i < l.head_dim; ++i) {
            k.push_back(value(cache.length() + t, h, i, false));
            v.push_back(value(cache.length() + t, h, i, true));
          }
      cache.store(compute, layer, tokens, k.data(), v.data());
    }
    cache.advance(tokens);
  }
  void check(const KvCache& cache, const ModelSpec& spec) {
    for (uint64_t layer = 0; layer < spec.layers.size(); ++layer) {
      const auto& l = spec.layers[layer];
      const KvView view = cache.view(layer);
      const uint64_t n = cache.length(),
                     first = l.window && n >= l.window ? n + 1 - l.window : 0;  // what the next query sees
      for (uint64_t p = first; p < n; ++p)
        for (uint64_t h = 0; h < l.kv_heads; ++h)
          for (uint64_t i = 0; i < l.head_dim; ++i) {
            const uint64_t at = (h * view.capacity + p % view.capacity) * l.head_dim + i;
            ASSERT_EQ(static_cast<const float*>(view.k)[at], value(p, h, i, false)) << layer << " " << p;
            ASSERT_EQ(static_cast<const float*>(view.v)[at], value(p, h, i, true)) << layer << " " << p;
          }
    }
  }
  ThreadPool pool{1};
  Compute compute{&select_kernels(detect_cpu(), "scalar"), &pool};
};

TEST_F(Caches, KeepsWindowsThroughOverflowsAndOddChunks) {
  const ModelSpec spec = two_layers(13);
  KvCache cache(spec, 200, 7, KvSettings::f32());
  EXPECT_EQ(cache.view(0).capacity, 13u + 7 - 1);
  EXPECT_EQ(cache.view(1).capacity, 200u);
  std::mt19937 random(1);
  while (cache.length() < 190) {
    feed(cache, spec, 1 + random() % 7);
    check(cache, spec);
  }
}

TEST_F(Caches, TruncatesOnlyWhereTheWindowIsStillThere) {
  const ModelSpec spec = two_layers(8);
  KvCache cache(spec, 100, 4, KvSettings::f32());  // ring of 11
  for (int i = 0; i < 10; ++i) feed(cache, spec, 4);
  // Slots hold 29..39. A query at 36 sees 29..36; one at 35 would need 28.
  EXPECT_FALSE(cache.truncate(35));
  EXPECT_EQ(cache.length(), 40u);
  EXPECT_TRUE(cache.truncate(36));
  check(cache, spec);
  feed(cache, spec, 3);
  check(cache, spec);
  EXPECT_TRUE(cache.truncate(0));
  feed(cache, spec, 4);
  check(cache, spec);
}

TEST_F(Caches, AllocatesExactlyWhatItSays) {
  const ModelSpec spec = two_layers(8);
  for (const KvSettings& type : {KvSettings::f32(), KvSettings::bf16()}) {
    const uint64_t element = type.full.k_bits == 32 ? 4 : 2;
    const KvCache cache(spec, 100, 4, type);
    EXPECT_EQ(cache.allocated_bytes(), (11 * 2 * 8 + 100 * 16) * 2 * element);
    EXPECT_EQ(cache.allocated_bytes(), KvCache::bytes(spec, 100, 4, type));
  }
}

TEST_F(Caches, AbsurdSizesAreErrors) {
  ModelSpec spec = two_layers(8);
  EXPECT_THROW(KvCache(spec, 1ull << 62, 4, KvSettings::bf16()), Error);
  EXPECT_THROW(KvCache(spec, 1ull << 57, 4, KvSettings::bf16()), Error);
}

}  // namespace
}  // namespace hlwq
