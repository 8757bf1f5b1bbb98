// Attention over every form of cache against a plain one that holds the same vectors unpacked, in double:
// several heads, odd chunks, many overflows, exact tails, sinks, image spans, keys rebuilt from values.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "model/kv_cache.h"
#include "ops/elementwise.h"
#include "quant/hadamard.h"

namespace hlwq {
namespace {

using Vector = std::vector<double>;

struct CacheCase {
  uint64_t head_dim, kv_heads, group, window, tail, sinks;
  KvFormat format;
  bool rebuilt = false;
  bool image = false;  // the middle chunk is an image
};

ModelSpec make_spec(const CacheCase& s) {
  ModelSpec spec;
  spec.heads = s.kv_heads * s.group;
  spec.qk_norm = spec.v_norm = true;
  RopeSpec rope{.inv_freq = std::vector<float>(s.head_dim / 2, 0.0f)};
  for (uint64_t i = 0; i < s.head_dim / 8; ++i)
    rope.inv_freq[i] = std::pow(100.0f, -static_cast<float>(i) / static_cast<float>(s.head_dim));
  spec.ropes = {rope};
  // Two layers, so that one's rings do not run into the other's.
  const LayerSpec layer{
      .head_dim = s.head_dim, .kv_heads = s.kv_heads, .window = s.window, .k_is_v = s.rebuilt};
  spec.layers = {layer, layer};
  return spec;
}

// One vector as a store keeps it: coded, and in BF16, both rotated.
struct Kept {
  Vector plain;               // as fed, or rounded to BF16
  Vector exact;               // BF16 of the rotated vector, rotated
  Vector levels, int_levels;  // decoded, rotated; with float and with integer tables
};

class PlainCache {
 public:
  PlainCache(const CacheCase& setup, const ModelSpec& spec) : s_(setup), spec_(spec) {
    for (int bits : {2, 3, 4, 8})
      if (bits == s_.format.k_bits || bits == s_.format.v_bits)
        codecs_.push_back(std::make_unique<KvCodec>(bits, s_.head_dim));
  }

  void store(const float* k, const float* v) {  // [kv_heads, head_dim] of one position
    for (uint64_t h = 0; h < s_.kv_heads; ++h) {
      keys_.push_back(keep(k + h * s_.head_dim, s_.format.k_bits));
      values_.push_back(keep(v + h * s_.head_dim, s_.format.v_bits));
    }
  }
  uint64_t length() const { return keys_.size() / s_.kv_heads; }
  void truncate(uint64_t length) {
    keys_.resize(length * s_.kv_heads);
    values_.resize(length * s_.kv_heads);
  }

  /// Attention of the query q [head_dim] of `head` at `position` over keys up to key_end.
  Vector attend(const float* q, uint64_t head, uint64_t position, uint64_t key_end, const float* w) const {
    const uint64_t d = s_.head_dim, h = head / s_.group;
    const uint64_t first = s_.window && position + 1 > s_.window ? position + 1 - s_.window : 0;
    const bool v_coded = s_.format.v_bits < 16;
    std::vector<double> scores;
    for (uint64_t p = first; p < key_end; ++p) scores.push_back(score(q, p, h, position, w));
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    Vector out(d);
    for (uint64_t p = first; p < key_end; ++p) {
      const double weight = std::exp(scores[p - first] - top);
      const Kept& v = values_[p * s_.kv_heads + h];
      const Vector& value = !v_coded ? v.plain : exact(p, position) ? v.exact : v.levels;
      sum += weight;
      for (uint64_t i = 0; i < d; ++i) out[i] += weight * value[i];
    }
    for (double& x : out) x /= sum;
    if (v_coded) hadamard(out.data(), static_cast<int>(d));
    return out;
  }

 private:
  bool exact(uint64_t p, uint64_t position) const {
    return p < s_.sinks || (s_.tail && p + s_.tail > position);
  }

  double score(const float* q, uint64_t p, uint64_t h, uint64_t position, const float* w) const {
    const uint64_t d = s_.head_dim;
    const Kept& k = s_.rebuilt ? values_[p * s_.kv_heads + h] : keys_[p * s_.kv_heads + h];
    const bool coded = (s_.rebuilt ? s_.format.v_bits : s_.format.k_bits) < 16;
    double sum = 0;
    if (!coded) {
      const Vector key = s_.rebuilt ? turned(k.plain, p, w) : k.plain;
      for (uint64_t i = 0; i < d; ++i) sum += q[i] * key[i];
      return sum;
    }
    std::vector<float> asked(q, q + d);
    if (s_.rebuilt)
      for (uint64_t i = 0; i < d; ++i) asked[i] *= w[i];
    if (exact(p, position)) {
      Vector rotated(asked.begin(), asked.end());
      hadamard(rotated.data(), static_cast<int>(d));
      for (uint64_t i = 0; i < d; ++i) sum += rotated[i] * k.exact[i];
    } else {
      // Queries meet codes as INT8, by integer tables.
      std::vector<int8_t> q8(d + 64);
      float scale;
      int32_t total;
      kScalarKernels.linear.rotate_quantize(asked.data(), d, static_cast<int>(d), q8.data(), &scale, &total);
      for (uint64_t i = 0; i < d; ++i) sum += scale * q8[i] * k.int_levels[i] * std::sqrt(double(d));
    }
    if (s_.rebuilt) {  // what the rotary embedding changes: <q, (RoPE - 1)(w v)>
      Vector v = exact(p, position) ? k.exact : k.levels;
      hadamard(v.data(), static_cast<int>(d));
      const Vector key = turned(v, p, w);
      for (uint64_t i = 0; i < d; ++i) sum += q[i] * (key[i] - v[i] * w[i]);
    }
    return sum;
  }

  Vector turned(const Vector& v, uint64_t position, const float* w) const {
    const uint64_t half = s_.head_dim / 2;
    Vector k(s_.head_dim);
    for (uint64_t i = 0; i < half; ++i) {
      float c, s;
      rope_angle(position, spec_.ropes[0].inv_freq[i], 1, c, s);
      const double a = v[i] * w[i], b = v[half + i] * w[half + i];
      k[i] = a * c - b * s;
      k[half + i] = b * c + a * s;
    }
    return k;
  }

  Kept keep(const float* x, int bits) const {
    const uint64_t d = s_.head_dim;
    Kept kept;
    if (bits >= 16) {
      for (uint64_t i = 0; i < d; ++i)
        kept.plain.push_back(bits == 32 ? x[i] : bf16_to_float(float_to_bf16(x[i])));
      return kept;
    }
    const auto codec =
        std::find_if(codecs_.begin(), codecs_.end(), [&](const auto& c) { return c->bits() == bits; });
    std::vector<float> rotated(d);
    std::vector<uint8_t> codes((*codec)->row_bytes()), stored(d);
    uint16_t norm;
    (*codec)->encode(x, rotated.data(), codes.data(), &norm);
    const HlwqMatrix m = (*codec)->matrix(codes.data(), &norm, 1);
    unpack_block(m.format, codes.data(), stored.data());
    const double scale = fp16_to_float(norm) / std::sqrt(static_cast<double>(d));
    for (uint64_t i = 0; i < d; ++i) {
      kept.exact.push_back(bf16_to_float(float_to_bf16(rotated[i])));
      kept.levels.push_back(scale * m.codebook->values[stored[i]]);
      kept.int_levels.push_back(
          scale * m.tables->step *
          (m.tables->hi[0][stored[i]] + m.tables->lo[0][stored[i]] / 128.0 + m.tables->offset));
    }
    return kept;
  }

  const CacheCase& s_;
  const ModelSpec& spec_;
  std::vector<std::unique_ptr<KvCodec>> codecs_;
  std::vector<Kept> keys_, values_;
};

class KvAttention : public testing::TestWithParam<std::string_view> {
 protected:
  Compute compute() { return {&select_kernels(detect_cpu(), GetParam()), &pool_}; }

  std::vector<float> gaussian(uint64_t n, float scale) {
    std::normal_distribution<float> g(0, scale);
    std::vector<float> x(n);
    for (float& v : x) v = g(random_);
    return x;
  }

  /// Feeds `tokens` to both caches and compares the attention of all.
  void step(const CacheCase& s, const ModelSpec& spec, KvCache& cache, std::vector<PlainCache>& plain,
            uint64_t tokens, bool image) {
    const uint64_t d = s.head_dim, kv = s.kv_heads * d, heads = spec.heads, start = cache.length();
    std::vector<uint64_t> key_end;
    for (uint64_t t = 0; t < tokens; ++t) key_end.push_back(image ? start + tokens : start + t + 1);
    const auto w = gaussian(d, 0.3f);
    for (uint64_t layer = 0; layer < 2; ++layer) {
      const auto k = gaussian(tokens * kv, 1), v = gaussian(tokens * kv, 1);
      // Scores of some units, so that softmax neither is flat nor looks at one key alone.
      const auto q = gaussian(tokens * heads * d, 2 / std::sqrt(static_cast<float>(d)));
      ASSERT_EQ(cache.keys_rebuilt(layer), s.rebuilt);
      cache.store(compute(), layer, tokens, s.rebuilt ? nullptr : k.data(), v.data());
      for (uint64_t t = 0; t < tokens; ++t) plain[layer].store(k.data() + t * kv, v.data() + t * kv);
      std::vector<float> out(tokens * heads * d, -1.0f);
      const AttentionShape shape{heads, start, tokens, s.window, 1, image ? key_end.data() : nullptr};
      attention(compute(), cache.view(layer, w.data()), shape, q.data(), out.data(), scratch_);
      // The reference is slow: the first, the last and a middle query, every third head.
      for (uint64_t t : {uint64_t{0}, tokens * 5 / 8, tokens - 1})
        for (uint64_t h = 0; h < heads; h += 3) {
          const uint64_t at = (t * heads + h) * d;
          const Vector want = plain[layer].attend(q.data() + at, h, start + t, key_end[t], w.data());
          // Float rounding: scores of up to some 20 units from d products each, 2^-24 relative to their terms
          // (about 2 d^(1/2) units in all): 1e-5; the output is a mean of values of some units.
          for (uint64_t i = 0; i < d; ++i)
            ASSERT_NEAR(out[at + i], want[i], 2e-4)
                << "head size " << d << ", bits " << s.format.k_bits << "/" << s.format.v_bits << ", window "
                << s.window << ", tail " << s.tail << ", sinks " << s.sinks << ", position " << start + t
                << ", head " << h << ", layer " << layer << (s.rebuilt ? ", rebuilt" : "");
        }
    }
    cache.advance(tokens);
  }

  void run(const CacheCase& s) {
    const ModelSpec spec = make_spec(s);
    KvSettings settings;
    settings.sliding = settings.full = s.format;
    settings.tail = s.tail;
    settings.sinks = s.sinks;
    settings.share = s.rebuilt ? KvShare::kOn : KvShare::kOff;
    constexpr uint64_t kContext = 300, kChunk = 37;
    KvCache cache(spec, kContext, kChunk, settings);
    EXPECT_EQ(cache.allocated_bytes(), KvCache::bytes(spec, kContext, kChunk, settings));
    std::vector<PlainCache> plain;
    for (int i = 0; i < 2; ++i) plain.emplace_back(s, spec);
    uint64_t next = 0;
    const uint64_t chunks[] = {1, 37, 5, 1, 1, 30, 2, 37, 11};
    while (cache.length() < 260) {
      const uint64_t tokens = chunks[next++ % 9];
      step(s, spec, cache, plain, tokens, s.image && tokens > 20);
      if (HasFatalFailure()) return;
    }
    // Back a little, where the rings still hold what is needed, and on; then a fork of the same.
    const uint64_t back = cache.length() - 3;
    ASSERT_TRUE(cache.truncate(back));
    for (auto& p : plain) p.truncate(back);
    step(s, spec, cache, plain, 4, false);
    KvCache fork(cache);
    step(s, spec, cache, plain, 2, false);
    for (auto& p : plain) p.truncate(back + 4);
    step(s, spec, fork, plain, 7, false);
  }

  ThreadPool pool_{3};
  std::mt19937 random_{5};
  AttentionScratch scratch_;
};

TEST_P(KvAttention, PlainCaches) {
  for (uint64_t d : {24, 64})
    for (int bits : {16, 32})
      for (uint64_t window : {0, 50}) run({d, 3, 2, window, 0, 0, {bits, bits}});
}

TEST_P(KvAttention, EveryWidthAndHeadSize) {
  for (uint64_t d : {32, 64, 128, 256, 512})
    for (int bits : {2, 3, 4}) {
      run({d, 2, d == 64 ? 6u : 2u, 0, 0, 0, {bits, bits}});
      if (HasFatalFailure()) return;
    }
}

TEST_P(KvAttention, KeysAndValuesOfDifferentWidths) {
  for (const KvFormat f : {KvFormat{4, 16}, {16, 3}, {32, 2}, {2, 4}, {3, 32}, {8, 4}, {8, 16}})
    run({64, 3, 1, 0, 0, 0, f});
}

TEST_P(KvAttention, WindowsTailsAndSinks) {
  for (uint64_t window : {0, 100})
    for (uint64_t tail : {0, 1, 20, 64})
      for (uint64_t sinks : {0, 4}) {
        run({64, 2, 2, window, tail, sinks, {4, 4}});
        run({32, 2, 3, window, tail, sinks, {3, 16}});
        if (HasFatalFailure()) return;
      }
}

TEST_P(KvAttention, ImagesSeeThemselvesWhole) {
  run({64, 2, 2, 60, 0, 0, {16, 16}, false, true});
  run({64, 2, 2, 60, 10, 3, {4, 3}, false, true});
}

TEST_P(KvAttention, KeysRebuiltFromValues) {
  for (uint64_t d : {32, 128, 512})
    for (int bits : {2, 3, 4, 16, 32}) {
      run({d, 2, d == 128 ? 8u : 1u, 0, 0, 0, {bits, bits}, true});
      if (HasFatalFailure()) return;
    }
  run({64, 2, 4, 0, 20, 4, {3, 3}, true});
  run({24, 2, 2, 0, 0, 0, {16, 16}, true});  // no codes for this head size, rebuilt all the same
}

// Storing both in float and rebuilding the keys are the same numbers, bit for bit.
TEST_P(KvAttention, RebuildingUnquantisedKeysIsExact) {
  const CacheCase s{64, 2, 2, 0, 0, 0, {32, 32}, true};
  const ModelSpec spec = make_spec(s);
  KvSettings both = KvSettings::f32(), shared = both;
  both.share = KvShare::kOff;
  KvCache a(spec, 100, 100, both), b(spec, 100, 100, shared);
  const uint64_t tokens = 90, d = s.head_dim;
  const auto w = gaussian(d, 1), q = gaussian(tokens * spec.heads * d, 0.3f);
  auto v = gaussian(tokens * s.kv_heads * d, 1);
  std::vector<float> k = v;
  for (uint64_t i = 0; i < k.size(); ++i) k[i] *= w[i % d];
  RopeTable rope;
  rope.fill(0, tokens, spec.ropes[0].inv_freq, 1);
  apply_rope(compute(), rope, tokens, s.kv_heads, k.data());
  a.store(compute(), 0, tokens, k.data(), v.data());
  b.store(compute(), 0, tokens, nullptr, v.data());
  std::vector<float> out_a(q.size()), out_b(q.size());
  const AttentionShape shape{spec.heads, 0, tokens, 0, 1};
  attention(compute(), a.view(0), shape, q.data(), out_a.data(), scratch_);
  attention(compute(), b.view(0, w.data()), shape, q.data(), out_b.data(), scratch_);
  EXPECT_EQ(out_a, out_b);
}

std::vector<std::string_view> runnable() {
  std::vector<std::string_view> names;
  for (const Kernels* k : all_kernels())
    if (runs_on(*k, detect_cpu())) names.push_back(k->name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Kernels, KvAttention, testing::ValuesIn(runnable()),
                         [](const auto& i) { return std::string(i.param); });

}  // namespace
}  // namespace hlwq
