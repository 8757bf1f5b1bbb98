// Attention and the storing of keys and values on the GPU, over every form of cache, against the CPU's cache
// and attention over its vectors in double.
#include "attention_test_util.h"

namespace hlwq::cuda {
namespace {

class AttentionTest : public GpuTest {
 protected:
  Compute compute() { return {&select_kernels(detect_cpu(), ""), &pool_}; }

  std::vector<float> gaussian(uint64_t n, float scale) {
    std::normal_distribution<float> g(0, scale);
    std::vector<float> x(n);
    for (float& v : x) v = g(random_);
    return x;
  }

  static AttentionPlan plan(const CacheCase& s, const KvView& view, uint64_t sequences, uint64_t tokens) {
    AttentionPlan p;
    p.heads = s.kv_heads * s.group;
    p.sequences = sequences;
    p.tokens = tokens;
    p.window = s.window;
    p.context = s.context;
    p.layout = view;
    return p;
  }

  /// attention() of device views at positions; multiprocessors of a common GPU, so that splits do not depend
  /// on the machine.
  std::vector<float> attend_on_gpu(const AttentionPlan& p, const std::vector<KvView>& views,
                                   const std::vector<uint64_t>& positions, const std::vector<uint64_t>& ends,
                                   const std::vector<float>& q) {
    const Buffer dv = to_device(views), dp = to_device(positions), dq = to_device(q);
    const Buffer de = ends.empty() ? Buffer() : to_device(ends);
    const Buffer out = to_device(std::vector<float>(q.size(), -1.0f));
    const Buffer scratch(attention_scratch_bytes(p, kMultiprocessors), "scratch");
    if (scratch) check(cudaMemset(scratch.as<void>(), 0xff, scratch.bytes()), "filling scratch");  // NaN
    attention(p, {dv.as<KvView>(), dp.as<uint64_t>(), ends.empty() ? nullptr : de.as<uint64_t>()}, tables_,
              dq.as<float>(), out.as<float>(), scratch.as<void>(), kMultiprocessors, stream_);
    return to_host<float>(out);
  }

  // Float kernels, and the decode kernels on tensor cores over BF16, which split queries and weights in two
  // BF16 parts (2^-17 of their size): scores of up to some 20 units from d products each, 2^-24 relative to
  // their terms (about 2 d^(1/2) units in all): 1e-5, and 2^-17 times 2 units; the output is a mean of values
  // of some units: 2e-4 leaves room.
  // FP16 operands (levels of codes; queries, weights and rebuilt keys of many tokens) are off by 2^-12 of
  // their size at most, 2^-12 / 3^(1/2) = 1.4e-4 in the mean square. Scores, sums of d products that make 2
  // units in all, are off by 2.8e-4. Where two keys share the weight, the output moves by a quarter of their
  // values' difference (up to 6 units) times the difference of two such errors, 4e-4; some 10^5 outputs are
  // compared, so five times that occurs: 3e-3. Levels of values add 5 * 1.4e-4. In all less than rounding
  // weights to BF16, 2^-9 of values of some units, could cost.
  static double tolerance(const CacheCase& s, uint64_t tokens) {
    const bool float_kernel =
        s.format.v_bits == 32 || s.format.k_bits == 32 || s.head_dim % 64 || s.head_dim < 64;
    const bool split = tokens == 1 && s.head_dim >= 128 && !s.rebuilt && !s.k_coded() && !s.v_coded();
    return float_kernel || split ? 2e-4 : 4e-3;
  }

  void compare(const CacheCase& s, const KvView& host, const ViewBooks& books, uint64_t start,
               const std::vector<float>& q, const std::vector<uint64_t>& ends, const std::vector<float>& out,
               uint64_t token, uint64_t head, uint64_t tokens) {
    const uint64_t d = s.head_dim, heads = s.kv_heads * s.group, at = (token * heads + head) * d;
    const uint64_t end = ends.empty() ? start + token + 1 : ends[token];
    const auto want = attend(host, books, q.data() + at, head / s.group, start + token, end, s.window);
    for (uint64_t i = 0; i < d; ++i)
      ASSERT_NEAR(out[at + i], want[i], tolerance(s, tokens))
          << s << "; token " << token << " at " << start << ", head " << head << ", channel " << i;
  }

  /// Feeds chunks until the context is full, storing and attending on both sides.
  void run(const CacheCase& s, const std::vector<uint64_t>& chunks) {
    const ModelSpec spec = make_spec(s);
    KvCache cache = make_cache(s, spec);
    const uint64_t d = s.head_dim, kv = s.kv_heads * d, heads = s.kv_heads * s.group;
    const auto w = gaussian(d, 0.3f);
    DeviceLayer device(cache.view(0, w.data()), s.context);
    const ViewBooks books(cache.view(0));
    uint64_t differing = 0, stored = 0;
    for (uint64_t next = 0;; ++next) {
      const uint64_t tokens = chunks[next % chunks.size()], start = cache.length();
      if (start + tokens > s.context) break;
      const auto k = gaussian(tokens * kv, 1), v = gaussian(tokens * kv, 1);
      // Scores of some units, so that softmax neither is flat nor looks at one key alone.
      const auto q = gaussian(tokens * heads * d, 2 / std::sqrt(static_cast<float>(d)));
      cache.store(compute(), 0, tokens, s.rebuilt ? nullptr : k.data(), v.data());
      const KvView host = cache.view(0, w.data());
      const AttentionPlan p = plan(s, device.view(), 1, tokens);
      {
        const Buffer views = to_device(std::vector{device.view()}), positions = to_device(std::vector{start});
        const Buffer dk = to_device(k), dv = to_device(v);
        store_kv(p, {views.as<KvView>(), positions.as<uint64_t>()}, tables_,
                 s.rebuilt ? nullptr : dk.as<float>(), dv.as<float>(), stream_);
        wait();
      }
      const auto [now, all] = device.differing_bytes(host);
      differing += now;
      stored += all;
      // From here on both sides read the same bits.
      device.copy_from(host, start + tokens);
      std::vector<uint64_t> ends;
      if (s.image)
        for (uint64_t t = 0; t < tokens; ++t) ends.push_back(tokens > 20 ? start + tokens : start + t + 1);
      const auto out = attend_on_gpu(p, {device.view()}, {start}, ends, q);
      for (float x : out) ASSERT_TRUE(std::isfinite(x)) << s;
      for (uint64_t t : {uint64_t{0}, tokens * 5 / 8, tokens - 1})
        for (uint64_t h = 0; h<heads; h += heads> 5 ? 5 : 1) {
          compare(s, host, books, start, q, ends, out, t, h, tokens);
          if (HasFatalFailure()) return;
        }
      cache.advance(tokens);
    }
    // A value within float rounding (some 2^-22 of its size) of a threshold may fall on either side; the
    // density of normal values there is below 1/2, thresholds are few: one code in 10^5 is generous. With 8
    // bits thresholds lie close: 127 of them, a gap of 0.02 or more.
    EXPECT_LE(static_cast<double>(differing), 2 + 1e-4 * static_cast<double>(stored)) << s;
  }
  void run(const CacheCase& s) { run(s, {1, 37, 5, 1, 70, 1, 100, 1, 11}); }

  /// Sequences of different lengths, one new token each.
  void decode(const CacheCase& s, const std::vector<uint64_t>& lengths) {
    const ModelSpec spec = make_spec(s);
    const uint64_t d = s.head_dim, kv = s.kv_heads * d, heads = s.kv_heads * s.group;
    const auto w = gaussian(d, 0.3f);
    std::vector<KvView> hosts, views;
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<DeviceLayer> devices;
    std::vector<uint64_t> positions;
    for (uint64_t length : lengths) {
      caches.push_back(std::make_unique<KvCache>(make_cache(s, spec)));
      for (uint64_t at = 0; at < length;) {
        const uint64_t n = std::min(s.chunk, length - at);
        const auto k = gaussian(n * kv, 1), v = gaussian(n * kv, 1);
        caches.back()->store(compute(), 0, n, s.rebuilt ? nullptr : k.data(), v.data());
        caches.back()->advance(n);
        at += n;
      }
      hosts.push_back(caches.back()->view(0, w.data()));
      devices.emplace_back(hosts.back(), s.context);
      devices.back().copy_from(hosts.back(), length);
      views.push_back(devices.back().view());
      positions.push_back(length - 1);
    }
    const ViewBooks books(hosts[0]);
    const auto q = gaussian(lengths.size() * heads * d, 2 / std::sqrt(static_cast<float>(d)));
    const auto out = attend_on_gpu(plan(s, views[0], lengths.size(), 1), views, positions, {}, q);
    for (uint64_t i = 0; i < lengths.size(); ++i) {
      const std::vector<float> own_q(q.begin() + i * heads * d, q.begin() + (i + 1) * heads * d);
      const std::vector<float> own_out(out.begin() + i * heads * d, out.begin() + (i + 1) * heads * d);
      for (uint64_t h = 0; h<heads; h += heads> 4 ? 3 : 1) {
        compare(s, hosts[i], books, positions[i], own_q, {}, own_out, 0, h, 1);
        if (HasFatalFailure()) return;
      }
    }
  }

  static constexpr int kMultiprocessors = 80;
  ThreadPool pool_{8};
  std::mt19937 random_{5};
  KvTables tables_ = kv_tables();
};

TEST_F(AttentionTest, PlainCaches) {
  for (uint64_t d : {24, 64, 72, 80, 96, 256, 512})
    for (int bits : {16, 32})
      for (uint64_t window : {0, 50}) {
        run({d, 3, 2, window, 0, 0, {bits, bits}});
        if (HasFatalFailure()) return;
      }
}

TEST_F(AttentionTest, EveryWidthAndHeadSize) {
  for (uint64_t d : {32, 64, 128, 256, 512})
    for (int bits : {2, 3, 4}) {
      run({d, 2, d == 64 ? 6u : 2u, 0, 0, 0, {bits, bits}});
      if (HasFatalFailure()) return;
    }
}

TEST_F(AttentionTest, KeysAndValuesOfDifferentWidths) {
  for (const KvFormat f : {KvFormat{4, 16}, {16, 3}, {32, 2}, {2, 4}, {3, 32}, {8, 4}, {8, 16}})
    for (uint64_t d : {64, 128}) {
      run({d, 3, 1, 0, 0, 0, f});
      if (HasFatalFailure()) return;
    }
}

TEST_F(AttentionTest, WindowsTailsAndSinks) {
  for (uint64_t window : {0, 100})
    for (uint64_t tail : {0, 1, 20})
      for (uint64_t sinks : {0, 4}) {
        run({128, 2, 2, window, tail, sinks, {4, 4}});
        run({32, 2, 3, window, tail, sinks, {3, 16}});
        if (HasFatalFailure()) return;
      }
}

TEST_F(AttentionTest, ImagesSeeThemselvesWhole) {
  run({64, 2, 2, 60, 0, 0, {16, 16}, false, true});
  run({64, 2, 2, 60, 10, 3, {4, 3}, false, true});
}

TEST_F(AttentionTest, KeysRebuiltFromValues) {
  for (uint64_t d : {32, 128, 512})
    for (int bits : {2, 3, 4, 16, 32}) {
      run({d, 2, d == 128 ? 8u : 1u, 0, 0, 0, {bits, bits}, true});
      if (HasFatalFailure()) return;
    }
  run({64, 2, 4, 0, 20, 4, {3, 3}, true});
  run({24, 2, 2, 0, 0, 0, {16, 16}, true});  // no codes for this head size, rebuilt all the same
}

TEST_F(AttentionTest, SequencesOfDifferentLengths) {
  const std::vector<uint64_t> lengths = {1, 2, 16, 17, 65, 700, 1200};
  for (uint64_t d : {64, 128, 256, 512})
    for (const KvFormat f : {KvFormat{16, 16}, {4, 4}, {3, 3}, {2, 2}, {8, 4}, {16, 4}, {4, 16}})
      for (uint64_t window : {0, 300}) {
        if (window && f.k_bits != f.v_bits) continue;
        decode({d, 2, d == 512 ? 8u : 2u, window, 0, 0, f, false, false, 1200, 128}, lengths);
        if (HasFatalFailure()) return;
      }
  decode({256, 2, 3, 0, 100, 4, {4, 4}, false, false, 1200, 128}, lengths);
  decode({512, 1, 8, 200, 70, 4, {3, 4}, false, false, 1200, 128}, lengths);
}

TEST_F(AttentionTest, SequencesWhoseKeysAreRebuilt) {
  const std::vector<uint64_t> lengths = {1, 17, 64, 129, 1200};
  for (int bits : {2, 3, 4, 16, 32}) {
    decode({512, 2, 8, 0, 0, 0, {bits, bits}, true, false, 1200, 128}, lengths);
    decode({512, 1, 5, 0, 100, 4, {bits, bits}, true, false, 1200, 128}, lengths);
    decode({128, 2, 2, 0, 100, 4, {bits, bits}, true, false, 1200, 128}, lengths);
    if (HasFatalFailure()) return;
  }
}

// More heads than a tile has rows, and head counts that do not fill it.
TEST_F(AttentionTest, GroupsOfAnySize) {
  for (uint64_t group : {1, 3, 7, 8, 9, 16, 20})
    for (int bits : {16, 4}) {
      decode({128, 1, group, 0, 0, 0, {bits, bits}, false, false, 200, 64}, {1, 40, 200});
      if (HasFatalFailure()) return;
    }
}

TEST_F(AttentionTest, LongPromptsInChunks) {
  for (const KvFormat f : {KvFormat{16, 16}, {4, 4}, {8, 3}}) {
    run({256, 1, 2, 256, 0, 0, f, false, false, 1400, 700}, {700, 1, 333});
    run({512, 1, 8, 0, f.v_bits < 16 ? 128u : 0, 4, f, false, true, 900, 300}, {300, 150});
    if (HasFatalFailure()) return;
  }
  run({512, 1, 8, 0, 128, 4, {4, 4}, true, false, 900, 300}, {300, 1, 150});
  run({512, 1, 8, 0, 0, 0, {16, 16}, true, false, 900, 300}, {300, 1, 150});
}

// The CPU's own attention on the same bits. It rounds queries to INT8 where keys are coded, so only plain
// stores agree to rounding.
TEST_F(AttentionTest, AgreesWithTheCpu) {
  const CacheCase s{256, 2, 4, 0, 0, 0, {16, 16}, false, false, 400, 400};
  const ModelSpec spec = make_spec(s);
  KvCache cache = make_cache(s, spec);
  const uint64_t tokens = 400;
  const auto k = gaussian(tokens * 2 * 256, 1), v = gaussian(tokens * 2 * 256, 1);
  const auto q = gaussian(tokens * 8 * 256, 2 / 16.0f);
  cache.store(compute(), 0, tokens, k.data(), v.data());
  DeviceLayer device(cache.view(0), s.context);
  device.copy_from(cache.view(0), tokens);
  const auto out = attend_on_gpu(plan(s, device.view(), 1, tokens), {device.view()}, {0}, {}, q);
  std::vector<float> want(q.size());
  AttentionScratch scratch;
  hlwq::attention(compute(), cache.view(0), {8, 0, tokens, 0, 1}, q.data(), want.data(), scratch);
  for (uint64_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], want[i], tolerance(s, tokens)) << i;
}

// A captured step is replayed while positions and views change in device memory.
TEST_F(AttentionTest, GraphsFollowPositions) {
  const CacheCase s{256, 2, 2, 0, 0, 0, {4, 4}, false, false, 1000, 1000};
  const ModelSpec spec = make_spec(s);
  KvCache cache = make_cache(s, spec);
  const uint64_t length = 1000, kv = 512, heads = 4;
  const auto k = gaussian(length * kv, 1), v = gaussian(length * kv, 1), q = gaussian(heads * 256, 2 / 16.0f);
  cache.store(compute(), 0, length, k.data(), v.data());
  DeviceLayer device(cache.view(0), s.context);
  const Buffer views = to_device(std::vector{device.view()}), positions = to_device(std::vector<uint64_t>{0});
  const Buffer dk = to_device(k), dv = to_device(v), dq = to_device(q), out = to_device(q);
  const AttentionPlan p = plan(s, device.view(), 1, 1);
  const Buffer scratch(attention_scratch_bytes(p, kMultiprocessors), "scratch");
  // The same keys at every position: the output is the value of one vector whatever the position.
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing");
  const AttentionSequences sequences{views.as<KvView>(), positions.as<uint64_t>()};
  store_kv(p, sequences, tables_, dk.as<float>(), dv.as<float>(), stream_);
  attention(p, sequences, tables_, dq.as<float>(), out.as<float>(), scratch.as<void>(), kMultiprocessors,
            stream_);
  check(cudaStreamEndCapture(stream_, &graph), "capturing");
  check(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  KvCache steps = make_cache(s, spec);
  const ViewBooks books(steps.view(0));
  for (uint64_t position = 0; position < 600; ++position) {
    steps.store(compute(), 0, 1, k.data(), v.data());
    steps.advance(1);
    check(cudaMemcpyAsync(positions.as<void>(), &position, 8, cudaMemcpyHostToDevice, stream_), "positions");
    check(cudaGraphLaunch(exec, stream_), "a graph");
    if (position % 150 > 1) {
      wait();
      continue;
    }
    compare(s, steps.view(0), books, position, q, {}, to_host<float>(out), 0, 1, 1);
    if (HasFatalFailure()) break;
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(AttentionTest, VectorsThatAreZeroOrNotFinite) {
  CacheCase s{128, 1, 1, 0, 0, 0, {4, 4}};
  const ModelSpec spec = make_spec(s);
  KvCache cache = make_cache(s, spec);
  DeviceLayer device(cache.view(0), s.context);
  std::vector<float> x(4 * 128, 0.0f);
  x[128] = std::numeric_limits<float>::infinity();
  x[256] = std::numeric_limits<float>::quiet_NaN();
  x[384] = 1e30f;  // its norm is the largest of FP16
  cache.store(compute(), 0, 4, x.data(), x.data());
  const Buffer views = to_device(std::vector{device.view()}), positions = to_device(std::vector<uint64_t>{0});
  const Buffer dx = to_device(x);
  store_kv(plan(s, device.view(), 1, 4), {views.as<KvView>(), positions.as<uint64_t>()}, tables_,
           dx.as<float>(), dx.as<float>(), stream_);
  wait();
  EXPECT_EQ(device.differing_bytes(cache.view(0)).first, 0u);
}

// The reference itself, where no GPU is needed: it must be the CPU's attention.
TEST(AttentionReference, IsTheCpusAttention) {
  std::mt19937 random(3);
  std::normal_distribution<float> g(0, 1);
  for (const CacheCase& s :
       {CacheCase{64, 2, 2, 50, 0, 0, {32, 32}}, CacheCase{64, 2, 2, 0, 0, 0, {16, 16}, true},
        CacheCase{64, 2, 2, 70, 20, 4, {4, 4}}, CacheCase{64, 2, 2, 0, 20, 4, {3, 3}, true}}) {
    ThreadPool pool(2);
    const Compute compute{&select_kernels(detect_cpu(), ""), &pool};
    KvCache cache = make_cache(s, make_spec(s));
    std::vector<float> q(4 * 64), out(4 * 64), w(64);
    for (float& x : w) x = 0.3f * g(random);
    AttentionScratch scratch;
    for (uint64_t position = 0; position < 200; ++position) {
      std::vector<float> k(2 * 64), v(2 * 64);
      for (auto* x : {&k, &v})
        for (float& y : *x) y = g(random);
      cache.store(compute, 0, 1, s.rebuilt ? nullptr : k.data(), v.data());
      cache.advance(1);
    }
    for (float& x : q) x = g(random) / 4;
    const KvView view = cache.view(0, w.data());
    const ViewBooks books(view);
    hlwq::attention(compute, view, {4, 199, 1, s.window, 1}, q.data(), out.data(), scratch);
    // The CPU meets codes with queries in INT8: steps of 1/127 of the largest, so scores are off by some
    // 1/127 of their size (about 2) over sqrt(12), and outputs, means of values of one unit, by less.
    const double tolerance = s.format.v_bits < 16 ? 2e-2 : 2e-5;
    for (uint64_t h = 0; h < 4; ++h) {
      const auto want = attend(view, books, q.data() + h * 64, h / 2, 199, 200, s.window);
      for (uint64_t i = 0; i < 64; ++i) EXPECT_NEAR(out[h * 64 + i], want[i], tolerance) << s;
    }
  }
}

TEST(AttentionPlans, ThatMakeNoSenseAreRefused) {
  AttentionPlan p;
  p.heads = 5;
  p.layout.kv_heads = 2;
  p.layout.head_dim = 64;
  EXPECT_THROW(attention_scratch_bytes(p, 80), Error);
  p.heads = 4;
  EXPECT_NO_THROW(attention_scratch_bytes(p, 80));
  p.sequences = p.tokens = 2;
  EXPECT_THROW(attention_scratch_bytes(p, 80), Error);
}

}  // namespace
}  // namespace hlwq::cuda
