#include "cuda/encode.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "base/file.h"
#include "base/half.h"
#include "cuda/tensor_encoder.h"
#include "gpu_test_util.h"
#include "io/safetensors_writer.h"
#include "io/test_files.h"
#include "quant/quant_test_util.h"
#include "quant/quantize.h"

namespace hlwq::cuda {
namespace {

using testing::HasSubstr;

/// A matrix as it is stored, and the floats that it stands for.
struct Matrix {
  uint64_t rows, cols;
  SourceType type;
  std::vector<float> floats;
  std::vector<uint8_t> stored;
};

Matrix make_matrix(uint64_t rows, uint64_t cols, SourceType type, std::vector<float> w) {
  Matrix m{rows, cols, type, std::move(w), {}};
  m.stored.resize(rows * cols * source_bytes(type));
  for (size_t i = 0; i < m.floats.size(); ++i) {
    float& x = m.floats[i];
    if (type == SourceType::kF32) {
      std::memcpy(&m.stored[4 * i], &x, 4);
      continue;
    }
    const uint16_t half = type == SourceType::kBf16 ? float_to_bf16(x) : float_to_fp16(x);
    x = type == SourceType::kBf16 ? bf16_to_float(half) : fp16_to_float(half);
    std::memcpy(&m.stored[2 * i], &half, 2);
  }
  return m;
}

/// Gaussian rows with what real ones have besides: large and tiny values, zero blocks, one value alone.
std::vector<float> mixed_rows(uint64_t rows, uint64_t cols, int block, uint64_t seed) {
  std::vector<float> w = gaussian(rows * cols, seed);
  const auto b = static_cast<uint64_t>(block);
  for (uint64_t i = 0; i < w.size(); ++i) {
    if (i % 97 == 0) w[i] *= 50;
    if (i / b % 5 == 3) w[i] *= 1e-5f;
  }
  if (rows > 2) {
    std::fill_n(w.begin() + static_cast<ptrdiff_t>(cols), std::min(b, cols), 0.0f);
    std::fill_n(w.begin() + static_cast<ptrdiff_t>(2 * cols), std::min(b, cols), 0.0f);
    w[2 * cols + std::min(cols - 1, uint64_t{5})] = 900;
  }
  return w;
}

class EncodeTest : public GpuTest {
 protected:
  struct Result {
    Encoded encoded;
    uint64_t bad_row = 0;
  };

  Result on_gpu(const HlwqFormat& f, const Codebook& codebook, NormRule rule, const Matrix& m,
                EncodeWorkspace& workspace, uint64_t first_row = 0) {
    const EncodeTables tables(f, codebook, rule);
    const Buffer source = to_device(m.stored);
    // Filled with what no encoder leaves by chance, and a guard behind.
    const uint64_t code_bytes = m.rows * f.row_bytes(m.cols), blocks = m.rows * f.row_blocks(m.cols);
    const Buffer codes = to_device(std::vector<uint8_t>(code_bytes + 64, 0xcc));
    const Buffer norms = to_device(std::vector<uint16_t>(blocks + 32, 0xcccc));
    const Buffer stats = to_device(std::vector<CodecStats>(m.rows));
    encode_rows(tables,
                {source.as<void>(), m.type, m.rows, m.cols, first_row, codes.as<uint8_t>(),
                 norms.as<uint16_t>(), stats.as<CodecStats>()},
                workspace, stream_);
    Result r{{f, to_host<uint8_t>(codes), to_host<uint16_t>(norms), {}}, workspace.bad_row(stream_)};
    for (uint64_t i = 0; i < 64; ++i) EXPECT_EQ(r.encoded.codes[code_bytes + i], 0xcc);
    for (uint64_t i = 0; i < 32; ++i) EXPECT_EQ(r.encoded.norms[blocks + i], 0xcccc);
    r.encoded.codes.resize(code_bytes);
    r.encoded.norms.resize(blocks);
    for (const CodecStats& s : to_host<CodecStats>(stats)) r.encoded.stats += s;
    return r;
  }

  /// Codes, norms and figures: all equal, not near.
  void expect_equal(const HlwqFormat& f, NormRule rule, const Matrix& m, EncodeWorkspace& workspace) {
    SCOPED_TRACE(format_label(f) + " block " + std::to_string(f.block) + " " + std::to_string(m.rows) + "x" +
                 std::to_string(m.cols) + " type " + std::to_string(static_cast<int>(m.type)));
    const Codebook codebook = standard_codebook(f.bits, f.lags);
    const Encoded cpu = encode(f, codebook, rule, m.floats, m.rows, m.cols, pool_);
    const Result gpu = on_gpu(f, codebook, rule, m, workspace);
    EXPECT_EQ(gpu.bad_row, EncodeWorkspace::kNoRow);
    uint64_t wrong_codes = 0, wrong_norms = 0;
    for (size_t i = 0; i < cpu.codes.size(); ++i) wrong_codes += cpu.codes[i] != gpu.encoded.codes[i];
    for (size_t i = 0; i < cpu.norms.size(); ++i) wrong_norms += cpu.norms[i] != gpu.encoded.norms[i];
    EXPECT_EQ(wrong_codes, 0u) << "of " << cpu.codes.size() << " bytes";
    EXPECT_EQ(wrong_norms, 0u) << "of " << cpu.norms.size();
    EXPECT_EQ(gpu.encoded.stats.source_sq, cpu.stats.source_sq);
    EXPECT_EQ(gpu.encoded.stats.error_sq, cpu.stats.error_sq);
    EXPECT_EQ(gpu.encoded.stats.dot, cpu.stats.dot);
    EXPECT_EQ(gpu.encoded.stats.decoded_sq, cpu.stats.decoded_sq);
  }

  ThreadPool pool_;
};

TEST_F(EncodeTest, EveryFormatEqualsTheCpu) {
  EncodeWorkspace workspace;
  uint64_t seed = 1;
  for (int lags = 1; lags <= 3; ++lags)
    for (int bits = 2; bits <= 8; ++bits) {
      if (!has_standard_codebook(bits, lags)) continue;
      for (const int block : {32, 64, 128, 256, 512}) {
        const auto b = static_cast<uint64_t>(block);
        const auto type = static_cast<SourceType>(seed % 3);
        // Blocks that do not fill the last warp, and a padded one at the end of each row.
        const uint64_t rows = 5, cols = 3 * b - b / 2 + 3;
        expect_equal({bits, lags, block}, NormRule::kCorrected,
                     make_matrix(rows, cols, type, mixed_rows(rows, cols, block, seed)), workspace);
        ++seed;
      }
    }
}

TEST_F(EncodeTest, ManyBlocksInSeveralBatchesEqualTheCpu) {
  EncodeWorkspace workspace(100'000);
  uint64_t seed = 100;
  for (const HlwqFormat f : {HlwqFormat{4, 1, 128}, HlwqFormat{3, 2, 128}, HlwqFormat{4, 2, 128},
                             HlwqFormat{5, 2, 128}, HlwqFormat{6, 2, 64}, HlwqFormat{3, 3, 128}}) {
    const uint64_t rows = 75, cols = 5376;
    expect_equal(f, NormRule::kCorrected,
                 make_matrix(rows, cols, SourceType::kBf16, gaussian(rows * cols, ++seed)), workspace);
  }
}

TEST_F(EncodeTest, PublishedNormsEqualTheCpu) {
  EncodeWorkspace workspace;
  for (const int bits : {3, 5})
    expect_equal({bits, 1, 128}, NormRule::kPublished,
                 make_matrix(9, 1024, SourceType::kF32, mixed_rows(9, 1024, 128, 7)), workspace);
}

TEST_F(EncodeTest, NarrowRowsAreAllPadding) {
  EncodeWorkspace workspace;
  for (const uint64_t cols : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{31}, uint64_t{33}})
    for (const int lags : {1, 2})
      expect_equal({4, lags, 32}, NormRule::kCorrected,
                   make_matrix(37, cols, SourceType::kF16, mixed_rows(37, cols, 32, cols)), workspace);
}

// The search holds |u| up to 16 and its sums were proven for it: a block whose only value is rotated into
// +-1 everywhere, one with all its weight in one coordinate (u = sqrt(block)), and norms at FP16's ends.
TEST_F(EncodeTest, ExtremeScalesEqualTheCpu) {
  EncodeWorkspace workspace;
  for (const HlwqFormat f :
       {HlwqFormat{5, 1, 128}, HlwqFormat{8, 1, 512}, HlwqFormat{2, 2, 512}, HlwqFormat{4, 2, 256},
        HlwqFormat{5, 2, 512}, HlwqFormat{6, 2, 512}, HlwqFormat{2, 3, 512}, HlwqFormat{4, 3, 128}}) {
    const auto b = static_cast<uint64_t>(f.block);
    std::vector<float> w;
    const auto add = [&](auto&& value) {
      for (uint64_t i = 0; i < b; ++i) w.push_back(value(i));
    };
    add([](uint64_t) { return 1.0f; });                          // all in coordinate 0
    add([](uint64_t i) { return i % 2 == 0 ? 1.0f : -1.0f; });   // in another
    add([&](uint64_t i) { return i == b / 2 ? -3.0f : 0.0f; });  // in none
    add([&](uint64_t i) { return __builtin_popcountll(i & (b / 2)) ? 1.0f : -1.0f; });
    add([](uint64_t) { return 1e-10f; });                       // norm 0 in FP16
    add([&](uint64_t i) { return i == 0 ? 6e-8f : 0.0f; });     // subnormal
    add([&](uint64_t i) { return i == 0 ? 30000.0f : 0.0f; });  // near the top: norms grow by up to 1.62
    add([&](uint64_t i) { return i < 2 ? std::numeric_limits<float>::denorm_min() : 0.0f; });
    expect_equal(f, NormRule::kCorrected, make_matrix(w.size() / b, b, SourceType::kF32, w), workspace);
  }
}

TEST_F(EncodeTest, RowsThatCannotBeEncodedAreTold) {
  const HlwqFormat f{4, 2, 64};
  const Codebook codebook = standard_codebook(4, 2);
  constexpr uint64_t kRows = 20, kCols = 100;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 3e38f}) {
    std::vector<float> w = gaussian(kRows * kCols, 3);
    w[13 * kCols + 99] = bad;
    w[17 * kCols] = bad;
    EncodeWorkspace workspace;
    const Matrix m = make_matrix(kRows, kCols, SourceType::kF32, w);
    EXPECT_EQ(on_gpu(f, codebook, NormRule::kCorrected, m, workspace, 1000).bad_row, 1013u);
    workspace.clear_bad_row(stream_);
    EXPECT_EQ(workspace.bad_row(stream_), EncodeWorkspace::kNoRow);
  }
}

TEST_F(EncodeTest, WhatTheCpuRefusesIsRefused) {
  const auto code_of = [](const HlwqFormat& f, const Codebook& c) {
    try {
      EncodeTables(f, c, NormRule::kCorrected);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::kIo;
  };
  EXPECT_EQ(code_of({5, 1, 100}, standard_codebook(5, 1)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of({5, 1, 128}, standard_codebook(4, 1)), ErrorCode::kInvalidArgument);
  Codebook disordered = standard_codebook(3, 1);
  std::swap(disordered.values[1], disordered.values[2]);
  EXPECT_EQ(code_of({3, 1, 128}, disordered), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of({5, 3, 128}, {5, 3, std::vector<float>(96)}), ErrorCode::kUnsupported);
}

class GpuCheckpointTest : public GpuTest {
 protected:
  std::filesystem::path make_source(float spoilt = 0) {
    const std::filesystem::path dir = dir_.path() / "in";
    std::filesystem::create_directories(dir);
    std::ofstream(dir / "config.json") << R"({"model_type": "llama"})";
    // The first needs several slabs, the last several turns of few rows; F64 goes up as floats.
    const std::vector<TensorSpec> specs = {{"model.embed_tokens.weight", DType::kBF16, {3000, 2048}},
                                           {"model.norm.weight", DType::kF32, {100}},
                                           {"model.layers.0.self_attn.q_proj.weight", DType::kF32, {96, 192}},
                                           {"model.layers.0.mlp.up_proj.weight", DType::kF16, {40, 96}},
                                           {"model.layers.0.mlp.down_proj.weight", DType::kF64, {33, 128}}};
    SafetensorsWriter writer(dir, specs, {}, uint64_t{1} << 30);
    uint64_t seed = 1;
    for (const TensorSpec& s : specs) {
      uint64_t n = 1;
      for (const uint64_t d : s.shape) n *= d;
      std::vector<float> w = gaussian(n, ++seed);
      if (s.name.find("embed") != std::string::npos && spoilt != 0) w[2900 * 2048 + 77] = spoilt;
      std::vector<uint8_t> bytes(s.bytes());
      for (uint64_t i = 0; i < n; ++i) {
        const uint16_t half = s.dtype == DType::kBF16 ? float_to_bf16(w[i]) : float_to_fp16(w[i]);
        const double wide = w[i];
        if (s.dtype == DType::kF32) std::memcpy(&bytes[4 * i], &w[i], 4);
        if (s.dtype == DType::kF64) std::memcpy(&bytes[8 * i], &wide, 8);
        if (s.dtype == DType::kBF16 || s.dtype == DType::kF16) std::memcpy(&bytes[2 * i], &half, 2);
      }
      writer.append(bytes.data(), bytes.size());
    }
    writer.finish();
    return dir;
  }

  TempDir dir_;
  ThreadPool pool_{2};
};

TEST_F(GpuCheckpointTest, EveryFileEqualsTheCpus) {
  const ModelSource source = open_model(make_source());
  const auto encoder = make_tensor_encoder(0);
  for (const CheckpointLayout layout : {CheckpointLayout::kNative, CheckpointLayout::kPublished}) {
    QuantizeOptions options;
    options.layout = layout;
    options.replace = true;
    if (layout == CheckpointLayout::kNative) options.policy = QuantPolicy::named("q4-l2");
    const auto cpu = dir_.path() / "cpu", gpu = dir_.path() / "gpu";
    const QuantizeResult a = quantize_model(source, options, cpu, pool_, {});
    options.encoder = encoder.get();
    const QuantizeResult b = quantize_model(source, options, gpu, pool_, {});
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (size_t i = 0; i < a.tensors.size(); ++i) {
      EXPECT_EQ(a.tensors[i].mse, b.tensors[i].mse) << a.tensors[i].name;
      EXPECT_EQ(a.tensors[i].cosine, b.tensors[i].cosine) << a.tensors[i].name;
    }
    for (const auto& entry : std::filesystem::directory_iterator(cpu)) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(read_file(entry.path().string(), 1u << 30) == read_file((gpu / name).string(), 1u << 30))
          << name;
    }
  }
}

TEST_F(GpuCheckpointTest, DamageIsNamedAsTheCpuNamesItAndTheEncoderGoesOn) {
  const auto encoder = make_tensor_encoder(0);
  QuantizeOptions options;
  options.replace = true;
  options.encoder = encoder.get();
  try {
    quantize_model(open_model(make_source(INFINITY)), options, dir_.path() / "out", pool_, {});
    FAIL() << "infinity was encoded";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(e.what(), HasSubstr("model.embed_tokens.weight [2900, 77] is infinite"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "out"));
  EXPECT_NO_THROW(quantize_model(open_model(make_source()), options, dir_.path() / "out", pool_, {}));
}

TEST_F(GpuCheckpointTest, ADeviceThatIsNotThereIsAnError) {
  for (const int device : {-1, 1000}) {
    try {
      make_tensor_encoder(device);
      FAIL() << device;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kDevice);
    }
  }
}

}  // namespace
}  // namespace hlwq::cuda
