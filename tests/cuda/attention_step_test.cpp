// A decode step in two kernels against the kernels that do its parts, step by step over growing caches.
#include <cstring>

#include "attention_test_util.h"

namespace hlwq::cuda {
namespace {

constexpr int kMultiprocessors = 80;  // of a common GPU, so that splits do not depend on the machine

class AttentionStepTest : public GpuTest {
 protected:
  std::vector<float> gaussian(uint64_t n, float scale) {
    std::normal_distribution<float> g(0, scale);
    std::vector<float> x(n);
    for (float& v : x) v = g(random_);
    return x;
  }

  /// Rings of sequences whose first tokens were stored in chunks, all at other positions.
  struct Caches {
    std::vector<DeviceLayer> layers;
    Buffer views;
  };

  void run(const CacheCase& s, bool k_norm, bool own_kv = true) {
    SCOPED_TRACE(testing::Message() << s << (k_norm ? "" : ", no norms") << (own_kv ? "" : ", others' keys"));
    const ModelSpec spec = make_spec(s);
    const uint64_t d = s.head_dim, kv = s.kv_heads * d, heads = s.kv_heads * s.group, q_width = heads * d;
    const std::vector<uint64_t> starts{0, 61, 190};
    const uint64_t n = starts.size(), steps = 40;
    Caches parts, whole;
    for (uint64_t start : starts) {
      KvCache cache = make_cache(s, spec);
      for (uint64_t at = 0; at < start;) {
        const uint64_t now = std::min(s.chunk, start - at);
        const auto k = gaussian(now * kv, 1), v = gaussian(now * kv, 1);
        cache.store(compute(), 0, now, k.data(), v.data());
        cache.advance(now);
        at += now;
      }
      if (!own_kv && start == 0) {  // there must be something to see
        const auto k = gaussian(steps * kv, 1), v = gaussian(steps * kv, 1);
        cache.store(compute(), 0, steps, k.data(), v.data());
      }
      for (Caches* c : {&parts, &whole}) {
        c->layers.emplace_back(cache.view(0), s.context);
        c->layers.back().copy_from(cache.view(0), start);
      }
    }
    for (Caches* c : {&parts, &whole}) {
      std::vector<KvView> views;
      for (const DeviceLayer& l : c->layers) views.push_back(l.view());
      c->views = to_device(views);
    }
    AttentionPlan plan;
    plan.heads = heads;
    plan.sequences = n;
    plan.window = s.window;
    plan.context = s.context;
    plan.scale = 0.1f;
    plan.layout = parts.layers[0].view();
    ASSERT_TRUE(attention_step_fits(plan, 128));

    const Buffer q_norm = to_device(gaussian(d, 1)), k_norms = to_device(gaussian(d, 1)),
                 inv_freq = to_device(spec.ropes[0].inv_freq);
    const Buffer scratch(attention_scratch_bytes(plan, kMultiprocessors) + 16, "scratch");
    const Buffer q_out = to_device(std::vector<float>(n * q_width)),
                 k_out = to_device(std::vector<float>(n * kv)), v_out = to_device(std::vector<float>(n * kv));
    const Buffer out = to_device(std::vector<float>(n * q_width)),
                 out_whole = to_device(std::vector<float>(n * q_width));
    const uint64_t bytes = DeviceActivations::bytes(n, q_width, 128);
    const Buffer quantized = to_device(std::vector<uint8_t>(bytes)),
                 expected = to_device(std::vector<uint8_t>(bytes));
    double error = 0, size = 0;
    for (uint64_t step = 0; step < steps; ++step) {
      std::vector<uint64_t> at;
      for (uint64_t start : starts)
        at.push_back(start + (own_kv || start == 0 ? step : 0) - (own_kv || start == 0 ? 0 : 1));
      const Buffer positions = to_device(at), q = to_device(gaussian(n * q_width, 2)),
                   k = to_device(gaussian(n * kv, 1)), v = to_device(gaussian(n * kv, 1));
      const HeadStep head{.tokens = n,
                          .heads = heads,
                          .kv_heads = s.kv_heads,
                          .head_dim = d,
                          .q_stride = q_width,
                          .kv_stride = kv,
                          .q = q.as<float>(),
                          .k = own_kv ? k.as<float>() : nullptr,
                          .v = own_kv ? v.as<float>() : nullptr,
                          .q_out = q_out.as<float>(),
                          .k_out = k_out.as<float>(),
                          .v_out = v_out.as<float>(),
                          .q_norm = k_norm ? q_norm.as<float>() : nullptr,
                          .k_norm = k_norm ? k_norms.as<float>() : nullptr,
                          .v_norm = k_norm,
                          .inv_freq = inv_freq.as<float>(),
                          .rope_scale = 1.1f,
                          .positions = positions.as<uint64_t>(),
                          .tokens_each = 1};
      const AttentionSequences in_parts{parts.views.as<KvView>(), positions.as<uint64_t>()},
          in_whole{whole.views.as<KvView>(), positions.as<uint64_t>()};
      head_step(head, stream_);
      if (own_kv) store_kv(plan, in_parts, tables_, k_out.as<float>(), v_out.as<float>(), stream_);
      attention(plan, in_parts, tables_, q_out.as<float>(), out.as<float>(), scratch.as<void>(),
                kMultiprocessors, stream_);
      const auto act = DeviceActivations::place(quantized.as<void>(), n, q_width, 128);
      attention_step(head, plan, in_whole, tables_, out_whole.as<float>(), true, act, 2, scratch.as<void>(),
                     kMultiprocessors, stream_);
      const auto a = to_host<float>(out), b = to_host<float>(out_whole);
      for (size_t i = 0; i < a.size(); ++i) {
        ASSERT_TRUE(std::isfinite(b[i])) << "step " << step << ", value " << i;
        error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        size += static_cast<double>(a[i]) * a[i];
      }
      quantize_step(out_whole.as<float>(), DeviceActivations::place(expected.as<void>(), n, q_width, 128), 2,
                    stream_);
      ASSERT_EQ(to_host<uint8_t>(quantized), to_host<uint8_t>(expected)) << "step " << step;
    }
    // Both compute alike but for the order of a norm's sum, 1e-7. Where that moves a value over the threshold
    // of a code (or of BF16) the rings differ by a step there: some 10^5 codes were stored, of which one in
    // 10^6 per threshold is that close, each worth a step of 1.5 sigma at most in outputs of 10^6 values.
    EXPECT_LT(std::sqrt(error / size), 3e-3);
  }

  Compute compute() { return {&select_kernels(detect_cpu(), ""), &pool_}; }
  ThreadPool pool_{8};
  std::mt19937 random_{5};
  KvTables tables_ = kv_tables();
};

TEST_F(AttentionStepTest, EqualsItsPartsForEveryForm) {
  for (uint64_t d : {128, 256, 512})
    for (const KvFormat f : {KvFormat{16, 16}, {4, 4}, {3, 3}, {2, 2}, {8, 4}, {16, 3}, {4, 16}}) {
      run({d, 2, 2, 0, 0, 0, f}, true);
      run({d, 2, 2, 100, 20, 4, f}, true);
      if (HasFatalFailure()) return;
    }
}

TEST_F(AttentionStepTest, GroupsOfEverySize) {
  for (uint64_t group : {1, 3, 8, 12})
    for (const KvFormat f : {KvFormat{16, 16}, {4, 4}}) {
      run({256, 3, group, 50, f.v_bits < 16 ? 8u : 0u, 0, f}, true);
      if (HasFatalFailure()) return;
    }
}

TEST_F(AttentionStepTest, WithoutNormsAndWithoutKeysOfItsOwn) {
  run({128, 2, 4, 0, 0, 0, {16, 16}}, false);
  run({256, 2, 4, 0, 0, 0, {16, 16}}, true, false);
  run({256, 2, 4, 0, 16, 4, {4, 4}}, true, false);
}

}  // namespace
}  // namespace hlwq::cuda
