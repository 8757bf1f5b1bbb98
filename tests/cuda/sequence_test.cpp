// Whole models on the GPU beside the processor: every family, every form of weights and cache, chunks,
// copies, images.
#include "cuda/sequence.h"

#include <cmath>
#include <filesystem>

#include "base/cpu.h"
#include "gpu_test_util.h"
#include "quant/quantize.h"

namespace hlwq::cuda {
namespace {

// How far two runs of a model may drift apart: both sum the same integers and floats in another order, so
// hidden states differ by some 1e-6 of their size; an INT8 rounding that tips over there is worth half a
// step, 1/254 of a block's largest value, and is seen in the logits as such. Kernels that are wrong are off
// by tens of percent.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / size);
}

class SequenceTest : public GpuTest {
 protected:
  Compute compute() { return {&select_kernels(detect_cpu(), ""), &pool_, nullptr}; }

  static std::vector<int32_t> ids(const Model& model, uint64_t n, uint32_t seed = 1) {
    std::vector<int32_t> out(n);
    for (uint64_t i = 0; i < n; ++i) {
      seed = seed * 1664525 + 1013904223;
      out[i] = static_cast<int32_t>((seed >> 8) % std::min<uint64_t>(model.spec().vocab, 1000));
    }
    return out;
  }

  // Feeds `tokens` in the same pieces to both and compares the logits after each.
  void compare(const std::string& name, const KvSettings& kv, double tolerance, uint64_t gpu_layers = ~0ull,
               uint64_t most = 64) {
    SCOPED_TRACE(name + ", " + describe(kv));
    const auto model = Model::load(name[0] == '/' ? name : std::string(HLWQ_UNPACKED) + "/" + name);
    const auto gpu = std::make_shared<const GpuModel>(*model, 0, gpu_layers);
    const uint64_t context = std::min<uint64_t>(model->spec().max_context, 300);
    CpuSequence a(model->transformer(), compute(), context, 64, kv);
    GpuSequence b(gpu, compute(), context, 64, kv);
    const auto text = ids(*model, context - 10);
    std::vector<float> x(model->spec().vocab), y(model->spec().vocab);
    uint64_t done = 0;
    for (uint64_t piece : {1, 1, 1, 7, 64, 33, 1, 1, 1, 1, 40, 2, 64, 1}) {
      piece = std::min({piece, most, text.size() - done});
      if (piece == 0) break;
      const auto part = std::span(text).subspan(done, piece);
      a.forward(part, {});
      b.forward(part, {});
      done += piece;
      a.last_logits(x.data());
      b.last_logits(y.data());
      ASSERT_LT(difference(y, x), tolerance)
          << "after " << done << " tokens, the last " << piece << " at once";
    }
    EXPECT_EQ(a.length(), b.length());
  }

  ThreadPool pool_;
};

TEST_F(SequenceTest, EveryFamilyUnquantised) {
  for (const char* name :
       {"llama_tied", "llama_untied_bias", "llama3_rope", "llama_linear_rope", "gemma3", "gemma3_scaled",
        "gemma4", "gemma4_separate_v", "gemma4_untied", "gemma4_moe", "gemma4_e2b"})
    compare(name, KvSettings::f32(), 2e-3);
}

// A code that falls on the other side of a threshold, and the INT8 form in which only the CPU takes queries,
// change what a coded cache holds by whole steps: such runs agree as well as 4-bit codes do.
TEST_F(SequenceTest, NanoInEveryCache) {
  for (const KvSettings& kv :
       {KvSettings::f32(), KvSettings::bf16(), KvSettings::preset(4), KvSettings::preset(3),
        KvSettings::preset(2), KvSettings::uniform(4), KvSettings::uniform(3)})
    compare("gemma4-nano", kv, kv.full.v_bits < 16 ? 0.15 : 1e-2);
}

// A short pass in a workspace for long ones: attention cuts its keys into more parts, which take more scratch
// than those of the longest pass.
TEST_F(SequenceTest, ShortPassesInALongWorkspace) {
  const auto model = Model::load(std::string(HLWQ_UNPACKED) + "/gemma4-nano-q5");
  const auto gpu = std::make_shared<const GpuModel>(*model, 0, ~0ull);
  const auto text = ids(*model, 600);
  std::vector<float> x(model->spec().vocab), y(model->spec().vocab);
  for (const KvSettings& kv : {KvSettings::f32(), KvSettings::bf16(), KvSettings::preset(4)}) {
    CpuSequence a(model->transformer(), compute(), 1024, 1024, kv);
    GpuSequence b(gpu, compute(), 1024, 1024, kv);
    uint64_t done = 0;
    for (const uint64_t piece : {105, 19, 300, 40}) {
      const auto part = std::span(text).subspan(done, piece);
      a.forward(part, {});
      b.forward(part, {});
      done += piece;
      a.last_logits(x.data());
      b.last_logits(y.data());
      EXPECT_LT(difference(y, x), kv.full.v_bits < 16 ? 0.15 : 5e-2)
          << describe(kv) << ", after " << done << " tokens, the last " << piece << " at once";
    }
  }
}

TEST_F(SequenceTest, NanoOnItsCodes) {
  for (const KvSettings& kv : {KvSettings::f32(), KvSettings::bf16(), KvSettings::preset(4)})
    compare("gemma4-nano-q5", kv, 5e-2);
}

// Experts and per-layer embeddings in codes. These random models take rounding hard: the processor's own
// scalar and AVX2 kernels, which add floats up in another order and nothing else, drift 0.15 apart on this
// text, BF16 keys and values 0.4, the codes themselves 1.1. So pieces are small enough for the kernels that
// give the processor's integers, and the bound is twice that 0.15; what these parts compute is pinned by
// their own tests and by the models without codes above.
TEST_F(SequenceTest, ExpertsAndPerLayerEmbeddingsOnTheirCodes) {
  for (const char* name : {"gemma4_moe", "gemma4_e2b"}) {
    const auto exact = Model::load(std::string(HLWQ_UNPACKED) + "/" + name);
    QuantizeOptions options;
    options.policy = QuantPolicy::named("q5");
    options.replace = true;
    const auto out = std::filesystem::path(testing::TempDir()) / "experts_on_the_gpu";
    quantize_model(exact->source(), options, out, pool_, {});
    compare(out.string(), KvSettings::f32(), 0.3, ~0ull, 32);
    std::filesystem::remove_all(out);
  }
}

TEST_F(SequenceTest, SomeLayersOnTheProcessor) {
  compare("gemma4_moe", KvSettings::f32(), 2e-3, 1);
  compare("gemma4-nano-q5", KvSettings::bf16(), 5e-2, 1);
  compare("gemma4-nano-q5", KvSettings::bf16(), 5e-2, 3);
}

TEST_F(SequenceTest, CopiesGoTheirOwnWay) {
  const auto model = Model::load(std::string(HLWQ_UNPACKED) + "/gemma4-nano-q5");
  const auto gpu = std::make_shared<const GpuModel>(*model, 0, ~0ull);
  GpuSequence a(gpu, compute(), 200, 32, KvSettings::preset(4));
  const auto text = ids(*model, 60);
  std::vector<float> first(model->spec().vocab), again = first, other = first, straight = first;
  a.forward(std::span(text).first(32), {});
  a.forward(std::span(text).subspan(32, 8), {});
  const auto b = a.fork();
  b->last_logits(again.data());
  a.last_logits(first.data());
  EXPECT_EQ(first, again) << "a copy stands where its original stood";
  for (size_t i = 40; i < 50; ++i) {  // turn by turn, through their graphs
    a.forward(std::span(text).subspan(i, 1), {});
    b->forward(std::span(text).subspan(99 - i, 1), {});
  }
  a.last_logits(first.data());
  b->last_logits(other.data());
  EXPECT_NE(first, other);
  GpuSequence c(gpu, compute(), 200, 32, KvSettings::preset(4));
  c.forward(std::span(text).first(32), {});
  c.forward(std::span(text).subspan(32, 8), {});
  for (size_t i = 40; i < 50; ++i) c.forward(std::span(text).subspan(i, 1), {});
  c.last_logits(straight.data());
  EXPECT_EQ(first, straight) << "the same passes give the same bits";

  ASSERT_TRUE(c.truncate(40));
  for (size_t i = 40; i < 50; ++i) c.forward(std::span(text).subspan(i, 1), {});
  c.last_logits(again.data());
  EXPECT_LT(difference(again, straight), 1e-3);
}

TEST_F(SequenceTest, ImagesSeeThemselves) {
  const auto model = Model::load(std::string(HLWQ_UNPACKED) + "/gemma4-nano");
  const auto gpu = std::make_shared<const GpuModel>(*model, 0, ~0ull);
  CpuSequence a(model->transformer(), compute(), 200, 100, KvSettings::bf16());
  GpuSequence b(gpu, compute(), 200, 100, KvSettings::bf16());
  const auto text = ids(*model, 90);
  std::vector<float> image(30 * model->spec().hidden), x(model->spec().vocab), y = x;
  for (size_t i = 0; i < image.size(); ++i) image[i] = std::sin(static_cast<float>(i) * 0.7f);
  const ImageRun run{20, 30, image.data()};
  a.forward(text, {&run, 1});
  b.forward(text, {&run, 1});
  a.last_logits(x.data());
  b.last_logits(y.data());
  EXPECT_LT(difference(y, x), 1e-2);
  std::vector<float> sa(5 * model->spec().hidden), sb = sa;
  a.states(18, 5, sa.data());
  b.states(18, 5, sb.data());
  EXPECT_LT(difference(sb, sa), 1e-2);
  std::vector<float> la(5 * model->spec().vocab), lb = la;
  a.logits(sa.data(), 5, la.data());
  b.logits(sa.data(), 5, lb.data());
  EXPECT_LT(difference(lb, la), 1e-4);
}

TEST_F(SequenceTest, WhatIsWrongIsRefused) {
  const auto model = Model::load(std::string(HLWQ_UNPACKED) + "/gemma4-nano-q5");
  const auto gpu = std::make_shared<const GpuModel>(*model, 0, ~0ull);
  GpuSequence s(gpu, compute(), 20, 8, KvSettings::bf16());
  std::vector<float> out(model->spec().vocab);
  EXPECT_THROW(s.last_logits(out.data()), Error);
  EXPECT_THROW(s.forward({}, {}), Error);
  const std::vector<int32_t> bad{static_cast<int32_t>(model->spec().vocab)}, many(9, 1), fine(8, 1);
  EXPECT_THROW(s.forward(bad, {}), Error);
  EXPECT_THROW(s.forward(many, {}), Error);
  s.forward(fine, {});
  s.forward(fine, {});
  EXPECT_THROW(s.forward(fine, {}), Error) << "the context is full";
  EXPECT_EQ(s.length(), 16u);
  EXPECT_THROW(GpuSequence(gpu, compute(), 20, 8, KvSettings{.sliding = {5, 5}, .full = {5, 5}}), Error);
  EXPECT_THROW(device_info(99), Error);
}

}  // namespace
}  // namespace hlwq::cuda
