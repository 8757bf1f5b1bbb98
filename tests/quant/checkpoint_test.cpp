#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <map>

#include "base/file.h"
#include "base/half.h"
#include "io/safetensors_writer.h"
#include "io/test_files.h"
#include "quant/hlwq_checkpoint.h"
#include "quant/quantize.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Made {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
};

/// A model directory of random BF16 (and other) tensors, big enough to need several shards when asked.
void make_model(const fs::path& dir, const std::vector<Made>& tensors, uint64_t max_shard = 1u << 30) {
  fs::create_directories(dir);
  std::ofstream(dir / "config.json")
      << R"({"model_type": "llama", "zeta": 1, "alpha": 2, "torch_dtype": "bfloat16"})";
  std::ofstream(dir / "generation_config.json") << R"({"temperature": 0.6})";
  std::ofstream(dir / "tokenizer.json") << "{}";
  std::ofstream(dir / "chat_template.jinja") << "{{ messages }}";
  std::ofstream(dir / "processor_config.json") << "{}";
  std::ofstream(dir / "README.md") << "---\nlicense: apache-2.0\nlanguage: en\n---\nlicense: not this one\n";
  std::vector<TensorSpec> specs;
  for (const Made& m : tensors) specs.push_back({m.name, m.dtype, m.shape});
  SafetensorsWriter writer(dir, specs, {}, max_shard);
  uint64_t seed = 1;
  for (const TensorSpec& s : specs) {
    uint64_t n = 1;
    for (const uint64_t d : s.shape) n *= d;
    const std::vector<float> w = gaussian(n, seed++);
    if (s.dtype == DType::kF32) {
      writer.append(w.data(), n * 4);
    } else if (s.dtype == DType::kBF16) {
      std::vector<uint16_t> b(n);
      for (uint64_t i = 0; i < n; ++i) b[i] = float_to_bf16(w[i]);
      writer.append(b.data(), n * 2);
    } else {
      const std::vector<uint8_t> bytes(s.bytes(), 7);
      writer.append(bytes.data(), bytes.size());
    }
  }
  writer.finish();
}

const std::vector<Made>& model() {
  static const std::vector<Made> kModel = {
      {"model.embed_tokens.weight", DType::kBF16, {300, 192}},
      {"model.layers.0.mlp.up_proj.weight", DType::kBF16, {256, 192}},
      {"model.layers.0.mlp.odd.weight", DType::kBF16, {16, 50}},
      {"model.layers.0.mask", DType::kU8, {3}},
      {"model.layers.0.input_layernorm.weight", DType::kF32, {192}},
      {"model.layers.0.self_attn.q_proj.weight", DType::kF32, {128, 256}},
      {"model.layers.0.experts.down_proj", DType::kBF16, {4, 32, 96}},
      {"model.layers.0.counter", DType::kI64, {1}},
      {"model.vision_tower.a.weight", DType::kBF16, {64, 64}},
  };
  return kModel;
}

/// Relative error of what the checkpoint decodes to, per matrix.
double error_against(const HlwqCheckpoint& checkpoint, const ModelSource& source, const std::string& name) {
  const StoredMatrix m = *checkpoint.find(name);
  const Tensor& t = source.tensors->at(name);
  EXPECT_EQ(m.rows, t.rows());
  EXPECT_EQ(m.cols, t.cols());
  EXPECT_EQ(m.shape, t.shape);
  std::vector<float> a(m.cols), b(m.cols);
  double error = 0, total = 0;
  for (uint64_t r = 0; r < m.rows; ++r) {
    decode_rows(t, r, 1, a.data());
    decode_row(m.format, checkpoint.codebook(m.format.bits, m.format.lags),
               m.codes + r * m.format.row_bytes(m.cols), m.norms + r * m.format.row_blocks(m.cols), m.cols,
               b.data());
    for (uint64_t i = 0; i < m.cols; ++i) {
      error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
      total += static_cast<double>(a[i]) * a[i];
    }
  }
  return error / total;
}

Error error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorCode::kIo, "none");
}

uint64_t entries(const fs::path& dir) {
  return static_cast<uint64_t>(std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
}

class Checkpoint : public testing::Test {
 protected:
  TempDir dir_;
  ThreadPool pool_{2};
  fs::path in() const { return dir_.path() / "in"; }
  fs::path out() const { return dir_.path() / "out"; }
};

TEST_F(Checkpoint, RoundTripInBothLayouts) {
  make_model(in(), model(), 100'000);
  const ModelSource source = open_model(in());
  for (const CheckpointLayout layout : {CheckpointLayout::kNative, CheckpointLayout::kPublished})
    for (const uint64_t shard : {uint64_t{1} << 30, uint64_t{40'000}}) {
      QuantizeOptions options;
      options.layout = layout;
      options.max_shard_bytes = shard;
      options.replace = true;
      const QuantizeResult result = quantize_model(source, options, out(), pool_, {});
      const bool native = layout == CheckpointLayout::kNative;

      const ModelSource written = open_model(out());
      ASSERT_TRUE(HlwqCheckpoint::is_hlwq(written));
      const HlwqCheckpoint checkpoint(written);
      ASSERT_EQ(result.tensors.size(), model().size());
      uint64_t quantized = 0, bytes = 0;
      for (size_t i = 0; i < model().size(); ++i) {
        const QuantizedTensor& t = result.tensors[i];
        EXPECT_EQ(t.name, source.tensors->tensors()[i].name);
        bytes += t.bytes;
        EXPECT_EQ(checkpoint.contains(t.name), t.bits > 0) << t.name;
        if (t.bits > 0) {
          ++quantized;
          // The report was summed in double over float residuals of relative 2^-22, against errors of 1e-2
          // and more.
          EXPECT_NEAR(error_against(checkpoint, source, t.name) / t.mse, 1, 1e-3) << t.name;
          EXPECT_LT(t.mse, t.bits == 6 ? 0.0013 : 0.0035) << t.name;
        } else {
          const Tensor& kept = written.tensors->at(t.name);
          const Tensor& original = source.tensors->at(t.name);
          EXPECT_EQ(kept.dtype, original.dtype);
          EXPECT_EQ(kept.shape, original.shape);
          EXPECT_TRUE(
              std::equal(kept.data.begin(), kept.data.end(), original.data.begin(), original.data.end()))
              << t.name;
        }
      }
      // Native: not "odd", whose columns fit no block. Published: not the experts, which are no matrix.
      EXPECT_EQ(quantized, 4u);
      EXPECT_EQ(result.bytes_out, predict_quantized_bytes(source, options));
      EXPECT_GE(result.bytes_out, bytes);
      EXPECT_EQ(checkpoint.find("model.embed_tokens.weight")->format.bits, 6);
      EXPECT_EQ(checkpoint.find("model.embed_tokens.weight")->format.block, native ? 64 : 128);
      EXPECT_EQ(checkpoint.codebook_id(), native ? "lloyd-max-converged" : "published-a");
      EXPECT_EQ(fs::exists(out() / "model.safetensors.index.json"), shard < 100'000);
    }
}

/// Encodes on the CPU, and hands slabs over as late as another device may.
class LateEncoder : public TensorEncoder {
 public:
  void encode(const EncodeTask& task, ThreadPool& pool) override {
    const uint64_t rows = task.tensor.rows(), cols = task.tensor.cols(), slab = 7;
    struct Slab {
      uint64_t first, rows;
      std::vector<uint8_t> codes;
      std::vector<uint16_t> norms;
      CodecStats stats;
    };
    std::vector<Slab> slabs;
    for (uint64_t first = 0; first < rows; first += slab) {
      const uint64_t n = std::min(slab, rows - first);
      task.reading(first + n);
      std::vector<float> w(n * cols);
      decode_rows(task.tensor, first, n, w.data());
      Slab s{first,
             n,
             std::vector<uint8_t>(n * task.format.row_bytes(cols)),
             std::vector<uint16_t>(n * task.format.row_blocks(cols)),
             {}};
      s.stats = encode_rows(task.format, task.codebook, task.rule, w.data(), n, cols, task.tensor.name, first,
                            pool, s.codes.data(), s.norms.data());
      slabs.push_back(std::move(s));
    }
    for (const Slab& s : slabs) task.done(s.first, s.rows, s.codes.data(), s.norms.data(), s.stats);
    ++tensors;
  }
  int tensors = 0;
};

TEST_F(Checkpoint, AnotherEncoderWritesTheSameFiles) {
  make_model(in(), model(), 100'000);
  const ModelSource source = open_model(in());
  const auto files = [&](const QuantizeOptions& options) {
    quantize_model(source, options, out(), pool_, {});
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::directory_iterator(out()))
      result[entry.path().filename()] = read_file(entry.path());
    return result;
  };
  for (const CheckpointLayout layout : {CheckpointLayout::kNative, CheckpointLayout::kPublished}) {
    LateEncoder encoder;
    QuantizeOptions options;
    options.layout = layout;
    options.replace = true;
    const auto expected = files(options);
    options.encoder = &encoder;
    const auto got = files(options);
    EXPECT_EQ(encoder.tensors, 4);
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [name, bytes] : expected) EXPECT_TRUE(got.at(name) == bytes) << name;
  }
}

TEST_F(Checkpoint, ConfigAndCompanions) {
  make_model(in(), model());
  const ModelSource source = open_model(in());
  QuantizeOptions options;
  options.base_model = "someone/model: \"x\"";
  quantize_model(source, options, out(), pool_, {});
  const OrderedJson config = read_ordered_json(out() / "config.json");
  EXPECT_EQ(config["zeta"], 1);
  const OrderedJson& q = config["quantization_config"];
  EXPECT_EQ(q["quant_method"], "hlwq");
  EXPECT_EQ(q["version"], 1);
  EXPECT_EQ(q["layout"], "native");
  EXPECT_EQ(q["codebook"], "lloyd-max-converged");
  EXPECT_EQ(q["norm"], "corrected");
  EXPECT_EQ(q["modules"].size(), 4u);
  EXPECT_EQ(q["modules"]["model.layers.0.experts.down_proj"]["shape"], OrderedJson({4, 32, 96}));
  for (const char* f :
       {"generation_config.json", "tokenizer.json", "chat_template.jinja", "processor_config.json"})
    EXPECT_EQ(read_file(out() / f), read_file(in() / f)) << f;
  const std::string card = read_file(out() / "README.md");
  EXPECT_THAT(card, HasSubstr("license: apache-2.0\n"));
  EXPECT_THAT(card, Not(HasSubstr("not this one")));
  EXPECT_THAT(
      card,
      HasSubstr(
          "base_model: \"someone/model: \\\"x\\\"\"\nbase_model_relation: quantized\nlibrary_name: hlwq\n"));
  EXPECT_EQ(entries(dir_.path()), 2u) << "a temporary was left behind";
}

TEST_F(Checkpoint, EverythingStartsAligned) {
  make_model(in(), model());
  quantize_model(open_model(in()), {}, out(), pool_, {});
  const ModelSource written = open_model(out());
  for (const Tensor& t : written.tensors->tensors()) {
    // The mapped file's data begins on a multiple of 64 and maps on a page.
    const uint64_t align = t.name.ends_with(".hlwq_codes") ? 2 : info(t.dtype).block_bytes;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data.data()) % align, 0u) << t.name;
  }
}

TEST_F(Checkpoint, PaddingOnRequest) {
  make_model(in(), model());
  const ModelSource source = open_model(in());
  QuantizeOptions options;
  options.pad = true;
  options.policy = QuantPolicy::named("q8");
  quantize_model(source, options, out(), pool_, {});
  const ModelSource written = open_model(out());
  const HlwqCheckpoint checkpoint(written);
  for (const char* name : {"model.layers.0.mlp.odd.weight", "model.layers.0.experts.down_proj"}) {
    EXPECT_EQ(checkpoint.find(name)->format.block, 128);
    EXPECT_LT(error_against(checkpoint, source, name), 6e-5) << name;
  }
}

TEST_F(Checkpoint, SmallSlabsAndWholeTensorsGiveTheSameBytes) {
  // 300 rows of 65536 columns are 79 MB of floats, five slabs.
  make_model(in(), {{"a.weight", DType::kBF16, {300, 65536}}});
  const ModelSource source = open_model(in());
  QuantizeOptions options;
  options.policy = QuantPolicy::named("q3");
  quantize_model(source, options, out(), pool_, {});
  const ModelSource written = open_model(out());
  const HlwqCheckpoint checkpoint(written);
  const StoredMatrix m = *checkpoint.find("a.weight");
  std::vector<float> row(m.cols);
  std::vector<uint8_t> codes(m.format.row_bytes(m.cols));
  std::vector<uint16_t> norms(m.format.row_blocks(m.cols));
  for (const uint64_t r : {0u, 63u, 64u, 299u}) {
    decode_rows(source.tensors->at("a.weight"), r, 1, row.data());
    encode_rows(m.format, lloyd_max_codebook(3), NormRule::kCorrected, row.data(), 1, m.cols, "a", r, pool_,
                codes.data(), norms.data());
    EXPECT_EQ(std::memcmp(codes.data(), m.codes + r * codes.size(), codes.size()), 0) << r;
    EXPECT_EQ(std::memcmp(norms.data(), m.norms + r * norms.size(), norms.size() * 2), 0) << r;
  }
}

TEST_F(Checkpoint, GgufSourcesKeepTheirNormsInF32) {
  for (const char* name : {"llama.gguf", "gemma3.gguf"}) {
    SCOPED_TRACE(name);
    const ModelSource source = open_model(golden(name));
    QuantizeOptions options;
    options.policy = QuantPolicy::named("q8");
    options.tokenizer_json = "{\"made\": \"elsewhere\"}";
    options.replace = true;
    quantize_model(source, options, out(), pool_, {});
    EXPECT_EQ(read_file(out() / "tokenizer.json"), options.tokenizer_json);
    const ModelSource written = open_model(out());
    const HlwqCheckpoint checkpoint(written);
    EXPECT_FALSE(checkpoint.matrices().empty());
    for (const Tensor& t : source.tensors->tensors()) {
      if (checkpoint.contains(t.name)) {
        EXPECT_LT(error_against(checkpoint, source, t.name), 1e-4) << t.name;
        continue;
      }
      const Tensor& kept = written.tensors->at(t.name);
      EXPECT_EQ(kept.rope_heads, 0u);
      std::vector<float> a(t.elements()), b(t.elements());
      decode_rows(t, 0, t.rows(), a.data());
      decode_rows(kept, 0, kept.rows(), b.data());
      EXPECT_EQ(a, b) << t.name;
    }
  }
}

TEST_F(Checkpoint, InterruptionLeavesNothing) {
  make_model(in(), model());
  const ModelSource source = open_model(in());
  std::atomic<bool> cancelled{false};
  Progress progress;
  progress.cancelled = &cancelled;
  uint64_t last = 0;
  progress.report = [&](uint64_t done, uint64_t total, const std::string&) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    if (done > total / 2) cancelled = true;
  };
  EXPECT_EQ(error_of([&] { quantize_model(source, {}, out(), pool_, progress); }).code(),
            ErrorCode::kCancelled);
  EXPECT_EQ(entries(dir_.path()), 1u);
  EXPECT_GT(last, 0u);
}

TEST_F(Checkpoint, AFullDiskIsAnErrorAndLeavesNothing) {
  make_model(in(), {{"a.weight", DType::kBF16, {512, 1024}}});
  const ModelSource source = open_model(in());
  // A limit on file sizes stands in for the disk: writes fail in the middle just so.
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Error e = error_of([&] { quantize_model(source, {}, out(), pool_, {}); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(e.code(), ErrorCode::kIo);
  EXPECT_THAT(e.what(), HasSubstr("model"));
  EXPECT_EQ(entries(dir_.path()), 1u);
}

TEST_F(Checkpoint, NanNamesTheTensorAndLeavesNothing) {
  fs::create_directories(in());
  std::ofstream(in() / "config.json") << "{}";
  std::vector<float> w = gaussian(4 * 128, 1);
  w[2 * 128 + 5] = NAN;
  {
    SafetensorsWriter writer(in(), {{"x.weight", DType::kF32, {4, 128}}}, {});
    writer.append(w.data(), w.size() * 4);
    writer.finish();
  }
  const ModelSource source = open_model(in());
  const Error e = error_of([&] { quantize_model(source, {}, out(), pool_, {}); });
  EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(e.what(), HasSubstr("x.weight [2, 5]"));
  EXPECT_EQ(entries(dir_.path()), 1u);
}

TEST_F(Checkpoint, WhatCannotBeQuantizedSaysSo) {
  make_model(in(), model());
  const ModelSource source = open_model(in());
  quantize_model(source, {}, out(), pool_, {});
  const ModelSource again = open_model(out());
  EXPECT_EQ(error_of([&] { quantize_model(again, {}, dir_.path() / "twice", pool_, {}); }).code(),
            ErrorCode::kUnsupported);
  EXPECT_EQ(error_of([&] { quantize_model(source, {}, out(), pool_, {}); }).code(),
            ErrorCode::kInvalidArgument);
  QuantizeOptions seven;
  seven.layout = CheckpointLayout::kPublished;
  seven.policy = QuantPolicy::named("q7");
  EXPECT_THAT(error_of([&] { quantize_model(source, seven, dir_.path() / "q7", pool_, {}); }).what(),
              HasSubstr("7-bit"));
  QuantizeOptions none;
  none.policy = QuantPolicy::from_json(R"([{"match": "*", "bits": null}])", "p");
  EXPECT_THAT(error_of([&] { quantize_model(source, none, dir_.path() / "none", pool_, {}); }).what(),
              HasSubstr("no tensor"));
  EXPECT_EQ(entries(dir_.path()), 2u);
}

TEST(PublishedCheckpoint, BothNamingsDecodeAsTheOracleDoes) {
  for (const char* name : {"published", "published-underscored"}) {
    SCOPED_TRACE(name);
    const ModelSource source = open_model(quant_golden(name));
    ASSERT_TRUE(HlwqCheckpoint::is_hlwq(source));
    const HlwqCheckpoint checkpoint(source);
    const auto expected = open_safetensors(quant_golden(std::string(name) + "-decoded.safetensors"));
    EXPECT_EQ(checkpoint.matrices().size(), expected->tensors().size());
    for (const Tensor& t : expected->tensors()) {
      SCOPED_TRACE(t.name);
      const auto m = checkpoint.find(t.name);
      ASSERT_TRUE(m);
      ASSERT_EQ(m->shape, t.shape);
      const std::vector<float> want = values<float>(t);
      std::vector<float> got(m->cols);
      for (uint64_t r = 0; r < m->rows; ++r) {
        decode_row(m->format, checkpoint.codebook(m->format.bits, 1),
                   m->codes + r * m->format.row_bytes(m->cols), m->norms + r * m->format.row_blocks(m->cols),
                   m->cols, got.data());
        // Tables agree to 4e-6 (see PublishedTablesAgreeWithTheOracle) and values are about 1: sums of 128 /
        // sqrt(128).
        for (uint64_t i = 0; i < m->cols; ++i)
          ASSERT_NEAR(got[i], want[r * m->cols + i], 1e-4) << r << " " << i;
      }
    }
  }
}
}  // namespace
}  // namespace hlwq
