// Experts and per-layer tables in codes: errors as large as the codes' own, and text models that load alone
// or inside a multimodal one.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "io/safetensors_writer.h"
#include "model/config_reader.h"
#include "model/experts.h"
#include "model/model.h"
#include "quant/quantize.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(HLWQ_UNPACKED);

/// Relative squared error of Gaussian weights in codes of the given bits (docs/formats.md): blocks of 32 do a
/// little better, since the norm takes up one of their 32 degrees of freedom.
double gaussian_mse(int bits) { return bits == 5 ? 0.0025 : 0.00004; }

class QuantizedFamily : public testing::Test {
 protected:
  /// `model` with the tensors that match in codes and all others exact; with "*" whatever may be.
  std::shared_ptr<const Model> quantized(const Model& model, const std::string& match, int bits) {
    QuantizeOptions options;
    options.policy = QuantPolicy::from_json(R"({"default": {"bits": null}, "rules": [{"match": ")" + match +
                                                R"(", "bits": )" + std::to_string(bits) + "}]}",
                                            "test policy");
    options.replace = true;
    const fs::path out = fs::path(testing::TempDir()) / "quantized_family";
    last = quantize_model(model.source(), options, out, pool, {});
    return Model::load(out);
  }

  std::vector<float> logits(const Model& model, uint64_t chunk = 512) {
    std::vector<int32_t> ids = {2};
    for (int i = 1; i < 75; ++i) ids.push_back(3 + i * 37 % 317);
    KvCache cache(model.spec(), ids.size(), chunk, KvSettings::f32());
    Workspace ws;
    const uint64_t vocab = model.spec().vocab;
    std::vector<float> out(ids.size() * vocab);
    for (uint64_t t = 0; t < ids.size(); t += chunk) {
      const uint64_t n = std::min<uint64_t>(chunk, ids.size() - t);
      const auto hidden = model.transformer().forward(compute, cache, std::span(ids).subspan(t, n), ws);
      model.transformer().logits(compute, hidden.data(), n, out.data() + t * vocab);
    }
    return out;
  }

  static double relative_mse(const std::vector<float>& exact, const std::vector<float>& other) {
    double error = 0, whole = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += (exact[i] - other[i]) * (exact[i] - other[i]);
      whole += exact[i] * exact[i];
    }
    return error / whole;
  }

  ThreadPool pool{2};
  Compute compute{&select_kernels(detect_cpu(), ""), &pool};
  QuantizeResult last;
};

// One layer's experts, routed alike since the router stays exact: gate, up and down each bring the codes'
// error once, the activation's slope a little more of the gate's, and the INT8 inputs of two linears some
// 0.00005 each. Twice the sum is the bound, half the codes' part alone must be there.
TEST_F(QuantizedFamily, ExpertsErrAsMuchAsTheirCodes) {
  const auto exact = Model::load(kModels / "gemma4_moe");
  const ModelSpec& spec = exact->spec();
  const uint64_t tokens = 60;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(tokens * spec.hidden), room(x.size());
  for (float& v : x) v = normal(random);
  const auto run = [&](const Model& model) {
    WeightStore weights(model.source());
    const Experts experts(model.spec(), weights, "model.layers.1.");
    std::vector<float> sum(x.size());  // no dense part: zeros stay zeros
    ExpertScratch scratch;
    scratch.reserve(spec, tokens);
    experts.mix(compute, model.spec(), x.data(), tokens, room.data(), sum.data(), scratch);
    return sum;
  };
  const auto expected = run(*exact);
  for (const int bits : {5, 8}) {
    const auto model = quantized(*exact, "*", bits);
    const double mse = relative_mse(expected, run(*model)), codes = 3.1 * gaussian_mse(bits);
    EXPECT_LT(mse, 2 * (codes + 2 * 0.00005)) << bits;
    EXPECT_GT(mse, 0.5 * codes) << bits;
  }
}

// Of two parts with normed outputs the experts may not cost more than the dense MLP beside them.
TEST_F(QuantizedFamily, ExpertsCostTheLogitsWhatTheDenseMlpDoes) {
  const auto exact = Model::load(kModels / "gemma4_moe");
  const auto expected = logits(*exact);
  for (const int bits : {5, 8}) {
    const double dense = relative_mse(expected, logits(*quantized(*exact, "*.mlp.*", bits)));
    const double experts = relative_mse(expected, logits(*quantized(*exact, "*.experts.*", bits)));
    EXPECT_LT(experts, 2 * dense) << bits;
    EXPECT_GT(experts, 0.25 * dense) << bits;
  }
}

// The table is an addend of one small input of each layer, so nothing amplifies its error much: the logits'
// is proportional to the codes', 62 times as large at 5 bits as at 8 (half of that where the large one
// bends).
TEST_F(QuantizedFamily, PerLayerTablesErrInProportion) {
  const auto exact = Model::load(kModels / "gemma4_e2b");
  const auto expected = logits(*exact);
  double mse[2];
  for (const int i : {0, 1}) {
    const int bits = i == 0 ? 5 : 8;
    const auto model = quantized(*exact, "*embed_tokens_per_layer*", bits);
    mse[i] = relative_mse(expected, logits(*model));
    EXPECT_LT(mse[i], 10 * gaussian_mse(bits));
    EXPECT_LT(relative_mse(logits(*model), logits(*model, 1)), 1e-6) << "prefill and decode";
  }
  EXPECT_GT(mse[0] / mse[1], 31);
  EXPECT_LT(mse[0] / mse[1], 70);
}

TEST_F(QuantizedFamily, WholeModelsStayNearAtEightBits) {
  for (const char* name : {"gemma4_moe", "gemma4_e2b"}) {
    const auto exact = Model::load(kModels / name);
    const auto expected = logits(*exact);
    const auto eight = quantized(*exact, "*", 8);
    // These models amplify the codes' 0.6 % to 17 % even without experts or tables (gemma4); unrelated logits
    // are 200 % in square.
    EXPECT_LT(relative_mse(expected, logits(*eight)), 0.2) << name;
    const double five = relative_mse(expected, logits(*quantized(*exact, "*", 5)));
    EXPECT_GT(five, relative_mse(expected, logits(*eight))) << name;
    EXPECT_LT(five, 1.0) << name;
    for (const QuantizedTensor& t : last.tensors) {
      const bool exact_kind = t.name.find("router") != std::string::npos ||
                              t.name.find("norm") != std::string::npos ||
                              t.name.find("scal") != std::string::npos;
      EXPECT_EQ(t.bits, exact_kind ? 0 : 5) << t.name;
    }
  }
}

TEST_F(QuantizedFamily, StacksAreUsedOnce) {
  const auto exact = Model::load(kModels / "gemma4_moe");
  const auto model = quantized(*exact, "*", 5);
  for (const Model* m : {exact.get(), model.get()}) {
    uint64_t stacks = 0, params = 0;
    for (const WeightStore::Use& use : m->weights().used()) {
      if (use.name.find("experts.") == std::string::npos) continue;
      ++stacks;
      params += use.rows * use.cols;
    }
    const ModelSpec& spec = m->spec();
    EXPECT_EQ(stacks, 2 * spec.layers.size());
    EXPECT_EQ(params, spec.layers.size() * spec.experts * 3 * spec.expert_intermediate * spec.hidden);
  }
}

// The same text model as transformers saves it inside a multimodal one.
TEST_F(QuantizedFamily, NestedTextModelsAreTheSame) {
  for (const char* name : {"gemma4_moe", "gemma4_e2b"}) {
    const auto alone = Model::load(kModels / name);
    const fs::path dir = fs::path(testing::TempDir()) / (std::string("nested_") + name);
    fs::remove_all(dir);
    fs::create_directories(dir);
    std::vector<TensorSpec> specs;
    const auto& tensors = alone->source().tensors->tensors();
    for (const Tensor& t : tensors)
      specs.push_back(
          {"model.language_model." + t.name.substr(std::string("model.").size()), t.dtype, t.shape});
    SafetensorsWriter writer(dir, specs, {}, 1 << 30);
    for (const Tensor& t : tensors) writer.append(t.data.data(), t.data.size());
    writer.finish();
    OrderedJson config = {{"model_type", "gemma4"},
                          {"architectures", {"Gemma4ForConditionalGeneration"}},
                          {"text_config", alone->source().config}};
    std::ofstream(dir / "config.json") << config.dump();
    const auto nested = Model::load(dir);
    EXPECT_EQ(nested->spec().prefix, "model.language_model.");
    EXPECT_EQ(logits(*nested), logits(*alone)) << name;
    EXPECT_EQ(relative_mse(logits(*quantized(*nested, "*", 5)), logits(*quantized(*alone, "*", 5))), 0)
        << name;
  }
}

}  // namespace
}  // namespace hlwq
