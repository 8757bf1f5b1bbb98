// Logits and greedy continuations of tiny random models of every family and option, against transformers
// (float32).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/json.h"
#include "model/model.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(HLWQ_UNPACKED);

struct Runner {
  explicit Runner(const std::string& name, std::string_view isa = "")
      : model(Model::load(kModels / name)), pool(2) {
    compute = {&select_kernels(detect_cpu(), isa), &pool};
  }
  // Logits [ids, vocab] of a sequence fed in chunks of `chunk` tokens.
  std::vector<float> logits(const std::vector<int32_t>& ids, uint64_t chunk,
                            const KvSettings& kv = KvSettings::f32()) {
    KvCache cache(model->spec(), ids.size(), chunk, kv);
    Workspace ws;
    const uint64_t vocab = model->spec().vocab;
    std::vector<float> out(ids.size() * vocab);
    for (uint64_t t = 0; t < ids.size(); t += chunk) {
      const uint64_t n = std::min<uint64_t>(chunk, ids.size() - t);
      const auto hidden = model->transformer().forward(compute, cache, std::span(ids).subspan(t, n), ws);
      model->transformer().logits(compute, hidden.data(), n, out.data() + t * vocab);
    }
    return out;
  }
  std::shared_ptr<const Model> model;
  ThreadPool pool;
  Compute compute;
};

struct Golden {
  std::vector<int32_t> ids, positions, greedy;
  std::vector<float> margin;
  std::vector<std::vector<float>> logits;
};

std::vector<Golden> read_goldens(const std::string& name) {
  std::vector<Golden> all;
  const OrderedJson golden = read_ordered_json(kModels / name / "golden.json");
  for (const auto& p : golden["prompts"])
    all.push_back({p["ids"], p["positions"], p["greedy_ids"], p["greedy_margin"], p["logits"]});
  return all;
}

double max_error(const Golden& g, const std::vector<float>& logits, uint64_t vocab) {
  double worst = 0;
  for (size_t i = 0; i < g.positions.size(); ++i)
    for (size_t v = 0; v < vocab; ++v) {
      const double d = std::abs(static_cast<double>(g.logits[i][v]) -
                                logits[static_cast<size_t>(g.positions[i]) * vocab + v]);
      if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    }
  return worst;
}

class GoldenModel : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenModel, LogitsEqualTransformers) {
  Runner run(GetParam());
  for (const Golden& g : read_goldens(GetParam()))
    for (uint64_t chunk : {uint64_t{512}, uint64_t{7}, uint64_t{1}})
      EXPECT_LE(max_error(g, run.logits(g.ids, chunk), run.model->spec().vocab), 5e-3)
          << g.ids.size() << " tokens in chunks of " << chunk;
}

TEST_P(GoldenModel, ScalarKernelsGiveTheSameLogits) {
  Runner run(GetParam(), "scalar");
  const auto goldens = read_goldens(GetParam());
  EXPECT_LE(max_error(goldens.back(), run.logits(goldens.back().ids, 32), run.model->spec().vocab), 5e-3);
}

TEST_P(GoldenModel, GreedyContinuationEqualsTransformers) {
  Runner run(GetParam());
  const uint64_t vocab = run.model->spec().vocab;
  for (const Golden& g : read_goldens(GetParam())) {
    std::vector<int32_t> ids = g.ids;
    for (size_t step = 0; step < g.greedy.size(); ++step) {
      const auto logits = run.logits(ids, 512);
      const auto last = logits.end() - static_cast<std::ptrdiff_t>(vocab);
      const auto best = static_cast<int32_t>(std::max_element(last, logits.end()) - last);
      if (best != g.greedy[step]) {
        // Both logits are within 5e-3 of ours, so a smaller margin than their sum may flip.
        EXPECT_LT(g.margin[step], 1e-2) << "step " << step;
        break;
      }
      ids.push_back(best);
    }
  }
}

// BF16 rounds keys and values by at most 2^-9 of each value, an RMS of about 2^-9 / sqrt(3) = 0.1 %.
// Attention sharpens what it does to scores (these random models score up to about +-30), so a few percent of
// the logits' own spread of about 1.5 is what may be left; the error must be there at all. Where experts are
// chosen, rounding may choose others (of 8 with scores of spread 2, a few percent of it change one token in
// ten at each of five layers), and attention passes that on; what is left must still be far from the sqrt(2)
// of unrelated logits.
TEST_P(GoldenModel, Bf16CacheIsAPerturbation) {
  Runner run(GetParam());
  const Golden g = read_goldens(GetParam()).back();
  const auto exact = run.logits(g.ids, 16), rounded = run.logits(g.ids, 16, KvSettings::bf16());
  double error = 0, spread = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += (exact[i] - rounded[i]) * (exact[i] - rounded[i]);
    spread += exact[i] * exact[i];
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(std::sqrt(error / spread), run.model->spec().experts ? 0.5 : 0.05);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenModel,
                         ::testing::Values("llama_tied", "llama_untied_bias", "llama3_rope",
                                           "llama_linear_rope", "gemma3", "gemma3_scaled", "gemma4",
                                           "gemma4_separate_v", "gemma4_untied", "gemma4_moe", "gemma4_e2b"),
                         [](const auto& i) { return std::string(i.param); });

TEST(Nano, LogitsAndHiddenStatesEqualTransformers) {
  Runner run("gemma4-nano");
  const uint64_t vocab = run.model->spec().vocab;
  const OrderedJson cases = read_ordered_json(kModels / "gemma4-nano/golden/logits.json");
  int text_cases = 0;
  for (const auto& c : cases) {
    if (c["kind"] != "text") continue;
    ++text_cases;
    const std::vector<int32_t> ids = c["input_ids"];
    const auto logits = run.logits(ids, 512);
    for (const auto& p : c["positions"]) {
      const float* row = logits.data() + p["position"].get<size_t>() * vocab;
      const std::vector<int32_t> top = p["top_ids"];
      const std::vector<float> expected = p["top_logits"];
      double kl = 0, sum = 0;
      for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]));
      const double lse = std::log(sum), golden_lse = p["logsumexp"];
      EXPECT_NEAR(lse, golden_lse, 5e-3);
      for (size_t i = 0; i < top.size(); ++i) {
        EXPECT_NEAR(row[top[i]], expected[i], 5e-3)
            << c["name"] << " position " << p["position"] << " id " << top[i];
        const double p_golden = std::exp(expected[i] - golden_lse);
        kl += p_golden * ((expected[i] - golden_lse) - (row[top[i]] - lse));
      }
      EXPECT_LT(std::abs(kl), 1e-5);
    }
  }
  EXPECT_EQ(text_cases, 3);
}

TEST(Nano, GreedyContinuationsEqualTransformers) {
  Runner run("gemma4-nano");
  const OrderedJson cases = read_ordered_json(kModels / "gemma4-nano/golden/logits.json");
  for (const auto& c : cases) {
    if (c["kind"] != "text") continue;
    const std::vector<int32_t> prompt = c["input_ids"], greedy = c["greedy_ids"];
    const std::vector<float> margin = c["greedy_margin"];
    KvCache cache(run.model->spec(), prompt.size() + greedy.size(), 256, KvSettings::f32());
    Workspace ws;
    std::vector<float> logits(run.model->spec().vocab);
    std::vector<int32_t> feed = prompt;
    for (size_t step = 0; step < greedy.size(); ++step) {
      std::span<const float> hidden;
      uint64_t rows = 0;
      for (size_t t = 0; t < feed.size(); t += 256) {
        rows = std::min<size_t>(256, feed.size() - t);
        hidden = run.model->transformer().forward(run.compute, cache, std::span(feed).subspan(t, rows), ws);
      }
      run.model->transformer().logits(run.compute, hidden.data() + (rows - 1) * run.model->spec().hidden, 1,
                                      logits.data());
      const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      if (best != greedy[step]) {
        EXPECT_LT(margin[step], 1e-2) << c["name"] << " step " << step;
        break;
      }
      feed = {best};
    }
  }
}

TEST(Transformer, WorkspaceIsWhatThePlanSays) {
  for (const char* name : {"llama_tied", "gemma4_moe", "gemma4_e2b"}) {
    const Runner run(name);
    for (const uint64_t tokens : {uint64_t{1}, uint64_t{7}, uint64_t{40}, uint64_t{300}}) {
      Workspace ws;
      ws.reserve(run.model->spec(), tokens);
      uint64_t bytes = 0;
      const auto add = [&](const auto&... buffers) { ((bytes += buffers.size() * sizeof(buffers[0])), ...); };
      add(ws.x, ws.normed, ws.q, ws.k, ws.v, ws.attended, ws.projected, ws.gate, ws.up);
      const ExpertScratch& e = ws.experts;
      add(e.scores, e.weights, e.chosen, e.order, e.begin, e.input, e.output, e.gate, e.up, e.sum);
      add(ws.per_layer.values, ws.per_layer.gate);
      EXPECT_EQ(bytes, Workspace::bytes(run.model->spec(), tokens)) << name << " " << tokens;
    }
  }
}

TEST(Transformer, RefusesWhatItCannotRun) {
  Runner run("llama_tied");
  KvCache cache(run.model->spec(), 4, 4, KvSettings::bf16());
  Workspace ws;
  const auto forward = [&](std::vector<int32_t> ids) {
    return run.model->transformer().forward(run.compute, cache, ids, ws);
  };
  EXPECT_THROW(forward({}), Error);
  EXPECT_THROW(forward({-1}), Error);
  EXPECT_THROW(forward({320}), Error);
  EXPECT_THROW(forward({1, 2, 3, 4, 5}), Error);
  forward({1, 2, 3});
  try {
    forward({1, 2});
    FAIL() << "five tokens fit in a context of four";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kContextFull);
  }
}

}  // namespace
}  // namespace hlwq
