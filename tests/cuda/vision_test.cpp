// The image encoder on the GPU against transformers' golden values and against the CPU's.
#include "cuda/vision.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <list>
#include <random>

#include "base/half.h"
#include "base/json.h"
#include "cuda/vision_attention.h"
#include "gpu_test_util.h"
#include "io/model_source.h"
#include "io/tensor_source.h"
#include "model/config_reader.h"
#include "model/model.h"
#include "model/tensor_list.h"

namespace hlwq::cuda {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(HLWQ_UNPACKED);
constexpr double kSame = 5e-3;  // to transformers, as the CPU's tests have it

struct Machine {
  ThreadPool pool{2};
  Compute compute{&select_kernels(detect_cpu(), ""), &pool};
};

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    worst = d <= worst ? worst : d;  // a NaN is no match
  }
  return worst;
}

double rms(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum / static_cast<double>(v.size()));
}

// Each of the two blocks of a layer takes its inputs twice through a split that leaves out 2^-18 of every
// value, and adds rounding of the size of 2^-22 in attention and sums. Softmax passes an error of queries and
// keys on times the spread of the scores, which is about one in the encoders here. So 2^-15 of what a block
// adds is ample; embedding and projection make one block more. Blocks of unit scale add up in the residual,
// so the whole is off by that much a block, of the result's own size.
double tolerance(const VisionSpec& spec, const std::vector<float>& result) {
  return static_cast<double>(2 * spec.layers + 2) * 0x1p-15 * rms(result);
}

class VisionGpuTest : public GpuTest {
 protected:
  // Both encoders, all the way and before the projection.
  void expect_same(const VisionTower& host, const ImagePatches& patches, const std::string& what) {
    std::vector<float> host_tower, tower;
    const std::vector<float> expected = host.encode(machine_.compute, patches, {}, &host_tower);
    const CudaVisionTower device(host);
    const std::vector<float> soft = device.encode(cublas(), patches, stream_, {}, &tower);
    EXPECT_LT(max_difference(tower, host_tower), tolerance(host.spec(), host_tower)) << what;
    EXPECT_LT(max_difference(soft, expected), tolerance(host.spec(), expected)) << what;
  }
  Cublas& cublas() {
    if (!cublas_) cublas_ = std::make_unique<Cublas>();
    return *cublas_;
  }
  Machine machine_;
  std::unique_ptr<Cublas> cublas_;
};

ImagePatches random_patches(uint64_t cols, uint64_t rows, const VisionSpec& spec, uint32_t seed) {
  ImagePatches p{cols, rows, {spec.patch, spec.pooling}, {}};
  std::mt19937 random(seed);
  p.pixels.resize(cols * rows * 3 * spec.patch * spec.patch);
  for (uint8_t& v : p.pixels) v = static_cast<uint8_t>(random());
  return p;
}

struct Pictures {
  explicit Pictures(const fs::path& path) : file(open_safetensors(path)) {}
  ImagePatches patches(const std::string& name, uint64_t cols, uint64_t rows) const {
    const Tensor& t = file->at(name);
    const auto* data = reinterpret_cast<const uint8_t*>(t.data.data());
    return {cols, rows, {}, {data, data + t.data.size()}};
  }
  std::vector<float> floats(const std::string& name) const {
    const Tensor& t = file->at(name);
    std::vector<float> v(t.elements());
    decode_rows(t, 0, t.rows(), v.data());
    return v;
  }
  std::unique_ptr<TensorSource> file;
};

TEST_F(VisionGpuTest, SoftTokensEqualTransformers) {
  int images = 0;
  for (const char* name : {"gemma4_mm_dense", "gemma4_mm_moe", "gemma4_mm_e2b"}) {
    const fs::path dir = kModels / name;
    const ModelSource source = open_model(dir);
    ModelSpec spec;
    read_gemma4_vision(source.config, spec);
    WeightStore weights(source);
    const VisionTower host(*spec.vision, source.config["text_config"]["hidden_size"], weights);
    const CudaVisionTower device(host);
    const Pictures pictures(dir / "golden.safetensors");
    const OrderedJson golden = read_ordered_json(dir / "golden.json");
    for (size_t p = 0; p < golden["prompts"].size(); ++p)
      for (size_t i = 0; i < golden["prompts"][p]["images"].size(); ++i, ++images) {
        const auto& image = golden["prompts"][p]["images"][i];
        const std::string key = std::to_string(p) + ".image_" + std::to_string(i);
        const ImagePatches patches = pictures.patches(key + ".pixels_u8", image["grid"][0], image["grid"][1]);
        EXPECT_LT(
            max_difference(device.encode(cublas(), patches, stream_), pictures.floats(key + ".soft_tokens")),
            kSame)
            << name << " " << key;
        expect_same(host, patches, std::string(name) + " " + key);
      }
  }
  EXPECT_EQ(images, 12);
}

TEST_F(VisionGpuTest, NanoEqualsTransformersAndRefusesWhatTheCpuRefuses) {
  const auto model = Model::load(kModels / "gemma4-nano");
  const VisionTower& host = model->require_vision();
  const CudaVisionTower device(host);
  const Pictures pictures(kModels / "gemma4-nano/golden/tensors.safetensors");
  const Tensor& positions = pictures.file->at("image_0.position_ids");
  const auto* ids = reinterpret_cast<const int32_t*>(positions.data.data());
  const uint64_t n = positions.rows();
  const auto cols = static_cast<uint64_t>(ids[2 * (n - 1)] + 1),
             rows = static_cast<uint64_t>(ids[2 * n - 1] + 1);
  const ImagePatches patches = pictures.patches("image_0.pixels_u8", cols, rows);
  std::vector<float> tower;
  const std::vector<float> soft = device.encode(cublas(), patches, stream_, {}, &tower);
  EXPECT_LT(max_difference(tower, pictures.floats("image_0.tower")), kSame);
  EXPECT_LT(max_difference(soft, pictures.floats("image_0.soft_tokens")), kSame);
  expect_same(host, patches, "nano");

  const ImagePatches narrow{4, 3, {}, std::vector<uint8_t>(12 * 768)};
  EXPECT_THROW(device.encode(cublas(), narrow, stream_), Error);
  const ImagePatches beyond{1026, 3, {}, std::vector<uint8_t>(1026 * 3 * 768)};
  EXPECT_THROW(device.encode(cublas(), beyond, stream_), Error);
  std::atomic<bool> cancelled{true};
  try {
    device.encode(cublas(), patches, stream_, {.report = {}, .cancelled = &cancelled});
    FAIL() << "not cancelled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
  }
}

/// An encoder of any shape with random BF16 weights of unit scale.
class RandomWeights : public TensorSource {
 public:
  RandomWeights(const OrderedJson& config, const ModelSpec& spec) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (const ListedTensor& listed : list_tensors(config, spec).tensors) {
      if (listed.role != TensorRole::kVision) continue;
      Tensor t;
      t.name = listed.name;
      t.dtype = DType::kBF16;
      t.shape = listed.shape;
      std::vector<uint16_t>& values = memory_.emplace_back(t.elements());
      const auto is = [&](const char* part) { return t.name.find(part) != std::string::npos; };
      const float scale = is("position_embedding") ? 0.3f : 1 / std::sqrt(static_cast<float>(t.cols()));
      for (uint16_t& v : values) {
        float value = normal(random);
        // |q| |k| / sqrt(head size) = 1: scores that spread by one.
        const float unit =
            is("q_norm") || is("k_norm") ? std::pow(static_cast<float>(t.cols()), -0.25f) : 1.0f;
        if (is("_min") || is("_max"))  // ranges that clip some values, and differ from linear to linear
          value = (is("_min") ? -1.0f : 1.0f) * (1.5f + 0.1f * std::abs(value));
        else
          value = is("norm") || is("std_scale") ? unit * (1 + 0.2f * value) : value * scale;
        v = float_to_bf16(value);
      }
      t.data = std::as_bytes(std::span(values));
      tensors_.push_back(std::move(t));
    }
    build_index();
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor&) const override {}

 private:
  std::vector<Tensor> tensors_;
  std::list<std::vector<uint16_t>> memory_;
};

TEST_F(VisionGpuTest, EveryShapeOfEncoderEqualsTheCpu) {
  struct Case {
    const char* what;
    OrderedJson config;
    uint64_t cols, rows;
  };
  // hidden, intermediate, heads, kv heads, head size, pooling, standardise, clip
  const auto config = [](int hidden, int inner, int heads, int kv, int dim, int pooling, bool standardize,
                         bool clipped) {
    OrderedJson c;
    c["vision_config"] = {{"model_type", "gemma4_vision"},
                          {"hidden_size", hidden},
                          {"intermediate_size", inner},
                          {"num_hidden_layers", 2},
                          {"num_attention_heads", heads},
                          {"num_key_value_heads", kv},
                          {"head_dim", dim},
                          {"pooling_kernel_size", pooling},
                          {"position_embedding_size", 96},
                          {"patch_size", 8},
                          {"standardize", standardize},
                          {"use_clipped_linears", clipped}};
    return c;
  };
  const Case cases[] = {
      {"as the 31B, more than one chunk", config(288, 344, 4, 4, 72, 3, true, false), 51, 27},
      {"ranges that differ, shared keys", config(70, 50, 6, 2, 20, 2, false, true), 10, 14},
      {"one soft token", config(64, 96, 2, 1, 64, 1, false, false), 1, 1},
      {"wide heads", config(96, 100, 2, 2, 128, 1, true, true), 13, 7},
      {"odd sizes, tall grid", config(33, 27, 3, 1, 4, 3, true, false), 3, 96},
  };
  for (const Case& c : cases) {
    ModelSpec spec;
    spec.hidden = 57;
    read_gemma4_vision(c.config, spec);
    ModelSource source;
    source.config = c.config;
    source.tensors = std::make_unique<RandomWeights>(c.config, spec);
    WeightStore weights(source);
    const VisionTower host(*spec.vision, spec.hidden, weights);
    expect_same(host, random_patches(c.cols, c.rows, *spec.vision, 6), c.what);
  }
}

TEST(VisionGpu, HeadsThatAreTooWideAreRefused) {
  const VisionSpec spec{.heads = 1, .kv_heads = 1, .head_dim = 132};
  try {
    VisionHeads::bytes(spec, 9);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
  }
}

TEST(VisionGpu, ScratchOfTheLargestImageStaysFarBelowItsScores) {
  const VisionSpec spec{.hidden = 1152,
                        .intermediate = 4304,
                        .layers = 27,
                        .heads = 16,
                        .kv_heads = 16,
                        .head_dim = 72,
                        .positions = 10240};
  const uint64_t usual = CudaVisionTower::scratch_bytes(spec, 5376, 280);
  const uint64_t largest = CudaVisionTower::scratch_bytes(spec, 5376, 1120);
  EXPECT_LT(usual, uint64_t{130} << 20);
  EXPECT_LT(largest, uint64_t{340} << 20);
  EXPECT_EQ(CudaVisionTower::scratch_bytes(spec, 5376, 0), 0u);
}

// Attention alone, at sizes on both sides of every tile, against sums in double of the same heads.
TEST_F(VisionGpuTest, AttentionOfEverySize) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const uint64_t dim : {4, 16, 20, 48, 64, 72, 96, 128})
    for (const uint64_t n : {1, 9, 63, 64, 65, 130, 200}) {
      const VisionSpec spec{.heads = 4, .kv_heads = 2, .head_dim = dim};
      const uint64_t width = (spec.heads + 2 * spec.kv_heads) * dim;
      std::vector<float> qkv(n * width), q_norm(dim), k_norm(dim);
      for (float& x : qkv) x = normal(random);
      for (float& x : q_norm) x = 1 + 0.3f * normal(random);
      for (float& x : k_norm) x = 1 + 0.3f * normal(random);
      const std::vector<float> rotations = vision_rotations(spec, n);
      const ClipRange narrow{-1.5f, 1.25f}, out_range{-0.75f, 0.5f};
      const Buffer in = to_device(qkv), turn = to_device(rotations), qn = to_device(q_norm),
                   kn = to_device(k_norm);
      const Buffer memory(VisionHeads::bytes(spec, n), "heads"),
          out(n * spec.heads * dim * sizeof(float), "out");
      const VisionHeads heads(spec, n, memory.as<void>());
      const uint64_t grid_cols = n % 5 == 0 ? 5 : 1, first = n / 3;
      // In two parts, as chunks come.
      for (const auto& [begin, rows] : {std::pair<uint64_t, uint64_t>{0, first}, {first, n - first}}) {
        if (rows == 0) continue;
        const float* at = in.as<float>() + begin * width;
        heads.store({at, width, {}}, {at + spec.heads * dim, width, narrow},
                    {at + (spec.heads + spec.kv_heads) * dim, width, {}}, qn.as<float>(), kn.as<float>(),
                    turn.as<float>(), grid_cols, begin, rows, stream_);
      }
      heads.attend(out_range, out.as<float>(), stream_);
      const std::vector<float> got = to_host<float>(out);

      // Heads in double: slot 0.. queries, then keys, then values.
      const auto head = [&](uint64_t patch, uint64_t slot) {
        const bool is_q = slot < spec.heads, is_v = slot >= spec.heads + spec.kv_heads;
        std::vector<double> x(dim), y(dim);
        double sum = 0;
        for (uint64_t i = 0; i < dim; ++i) {
          x[i] = qkv[patch * width + slot * dim + i];
          if (!is_q && !is_v) x[i] = std::clamp<double>(x[i], narrow.low, narrow.high);
          sum += x[i] * x[i];
        }
        for (uint64_t i = 0; i < dim; ++i)
          x[i] *= (is_q   ? q_norm[i]
                   : is_v ? 1
                          : k_norm[i]) /
                  std::sqrt(sum / static_cast<double>(dim) + 1e-6);
        if (is_v) return x;
        const uint64_t quarter = dim / 4, position[] = {patch % grid_cols, patch / grid_cols};
        for (uint64_t i = 0; i < dim; ++i) {
          const float* t = rotations.data() + position[i / (2 * quarter)] * 2 * quarter;
          const double c = t[i % quarter], s = t[quarter + i % quarter];
          y[i] = i % (2 * quarter) < quarter ? x[i] * c - x[i + quarter] * s : x[i] * c + x[i - quarter] * s;
        }
        return y;
      };
      double worst = 0, largest = 0, longest = 0;
      for (uint64_t h = 0; h < spec.heads; ++h) {
        const uint64_t kv = h / (spec.heads / spec.kv_heads);
        std::vector<std::vector<double>> keys(n), values(n);
        for (uint64_t j = 0; j < n; ++j) {
          keys[j] = head(j, spec.heads + kv);
          values[j] = head(j, spec.heads + spec.kv_heads + kv);
        }
        for (uint64_t p = 0; p < n; ++p) {
          const std::vector<double> q = head(p, h);
          std::vector<double> score(n), sum(dim);
          double top = -1e300, total = 0, q2 = 0;
          for (double v : q) q2 += v * v;
          for (uint64_t j = 0; j < n; ++j) {
            double k2 = 0;
            for (uint64_t i = 0; i < dim; ++i) score[j] += q[i] * keys[j][i], k2 += keys[j][i] * keys[j][i];
            top = std::max(top, score[j]);
            longest = std::max(longest, std::sqrt(q2 * k2));
          }
          for (uint64_t j = 0; j < n; ++j) {
            const double w = std::exp(score[j] - top);
            total += w;
            for (uint64_t i = 0; i < dim; ++i) {
              sum[i] += w * values[j][i];
              largest = std::max(largest, std::abs(values[j][i]));
            }
          }
          for (uint64_t i = 0; i < dim; ++i) {
            const double expected = std::clamp<double>(sum[i] / total, out_range.low, out_range.high);
            const double d = std::abs(got[(p * spec.heads + h) * dim + i] - expected);
            worst = d <= worst ? worst : d;
          }
        }
      }
      // Factors keep 22 bits, and floats round the sums of their products: a score is off by a few 2^-22 of
      // |q||k|, a weight by as much of itself, and the mean by twice that of the largest value.
      EXPECT_LT(worst, 2 * largest * (1 + longest) * 6 * 0x1p-22)
          << "head size " << dim << ", " << n << " patches";
    }
}

}  // namespace
}  // namespace hlwq::cuda
