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
            const uint64_t capacity = view.k.main.capacity;
            const uint64_t at = (h * capacity + p % capacity) * l.head_dim + i;
            ASSERT_EQ(static_cast<const float*>(view.k.main.data)[at], value(p, h, i, false))
                << layer << " " << p;
            ASSERT_EQ(static_cast<const float*>(view.v.main.data)[at], value(p, h, i, true))
                << layer << " " << p;
          }
    }
  }
  ThreadPool pool{1};
  Compute compute{&select_kernels(detect_cpu(), "scalar"), &pool};
};

TEST_F(Caches, KeepsWindowsThroughOverflowsAndOddChunks) {
  const ModelSpec spec = two_layers(13);
  KvCache cache(spec, 200, 7, KvSettings::f32());
  EXPECT_EQ(cache.view(0).k.main.capacity, 13u + 7 - 1);
  EXPECT_EQ(cache.view(1).v.main.capacity, 200u);
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
  const auto aligned = [](uint64_t bytes) { return (bytes + 63) / 64 * 64; };  // rings start on cache lines
  for (const KvSettings& type : {KvSettings::f32(), KvSettings::bf16()}) {
    const uint64_t element = type.full.k_bits == 32 ? 4 : 2;
    const KvCache cache(spec, 100, 4, type);
    EXPECT_EQ(cache.allocated_bytes(), 2 * aligned(11 * 2 * 8 * element) + 2 * 100 * 16 * element);
    EXPECT_EQ(cache.allocated_bytes(), KvCache::bytes(spec, 100, 4, type));
  }
}

// DESIGN's arithmetic for one full layer of the 31B: 4 heads of 512.
TEST_F(Caches, CodedBytesAreCodesAndNorms) {
  ModelSpec spec;
  spec.heads = 32;
  spec.qk_norm = spec.v_norm = true;
  spec.ropes = {{.inv_freq = std::vector<float>(256, 0.0f)}};
  std::fill_n(spec.ropes[0].inv_freq.begin(), 64, 0.5f);
  spec.layers = {{.head_dim = 512, .kv_heads = 4, .k_is_v = true}};
  KvSettings q3 = KvSettings::uniform(3);
  q3.share = KvShare::kOff;
  EXPECT_EQ(KvCache::bytes(spec, 4096, 256, q3), 4096u * 1552);
  q3.share = KvShare::kOn;  // and the cosines and sines of 64 pairs
  EXPECT_EQ(KvCache::bytes(spec, 4096, 256, q3), 4096u * (776 + 64 * 2 * 4));
  KvSettings bf16 = KvSettings::bf16();
  bf16.share = KvShare::kOff;
  EXPECT_EQ(KvCache::bytes(spec, 4096, 256, bf16), 4096u * 8192);
  q3.tail = 100;
  q3.sinks = 4;
  EXPECT_EQ(KvCache::bytes(spec, 4096, 256, q3), 4096u * (776 + 512) + (100 + 255 + 4) * 4096u);
}

TEST_F(Caches, WhatCannotBeCodedStaysBf16) {
  ModelSpec spec = two_layers(8);
  spec.layers[0].head_dim = 80;
  spec.layers[1].head_dim = 64;
  KvSettings q4 = KvSettings::uniform(4);
  EXPECT_EQ(kv_layer_plan(spec, 0, 100, q4).format, (KvFormat{16, 16}));
  EXPECT_EQ(kv_layer_plan(spec, 1, 100, q4).format, (KvFormat{4, 4}));
  spec.layers[0].head_dim = 64;
  EXPECT_EQ(kv_layer_plan(spec, 0, 100, q4).format, (KvFormat{4, 4}));
  q4.tail = 8;  // all that a window of 8 sees
  EXPECT_EQ(kv_layer_plan(spec, 0, 100, q4).format, (KvFormat{16, 16}));
  EXPECT_EQ(kv_layer_plan(spec, 1, 100, q4).tail, 8u);
  for (int bits : {0, 1, 5, 8, 33}) EXPECT_THROW(KvSettings::uniform(bits), Error) << bits;
}

TEST_F(Caches, AbsurdSizesAreErrors) {
  ModelSpec spec = two_layers(8);
  EXPECT_THROW(KvCache(spec, 1ull << 62, 4, KvSettings::bf16()), Error);
  EXPECT_THROW(KvCache(spec, 1ull << 57, 4, KvSettings::bf16()), Error);
}

}  // namespace
}  // namespace hlwq
