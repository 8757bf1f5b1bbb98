// Speed of the kernels, one thread: decode in GB/s of codes beside the memory's read bandwidth, prefill in
// GOP/s.
//   kernels_bench --benchmark_filter=decode
// Names are kind/implementation/width. Decode walks a matrix larger than the last-level cache; prefill stays
// on one.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "ops/kernels.h"
#include "quant/codebook.h"

namespace hlwq {
namespace {

constexpr uint64_t kCols = 2048;
constexpr int kBlock = 128;

/// Random codes are as good as real ones: no kernel branches on them.
struct Matrix {
  Codebook codebook;
  LookupTables tables;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> norms;
  HlwqMatrix matrix;

  Matrix(int bits, uint64_t rows) : codebook(lloyd_max_codebook(bits)), tables(make_lookup_tables(codebook)) {
    const HlwqFormat format{bits, 1, kBlock};
    codes.resize(rows * format.row_bytes(kCols));
    norms.assign(rows * format.row_blocks(kCols), 0x3c00);
    std::mt19937_64 rng(1);
    for (size_t i = 0; i + 8 <= codes.size(); i += 8) {
      const uint64_t v = rng();
      __builtin_memcpy(&codes[i], &v, 8);
    }
    matrix = {format, rows, kCols, codes.data(), norms.data(), &tables, &codebook};
  }
};

QuantizedActivations activations(const Kernels& kernels, uint64_t tokens) {
  std::mt19937 rng(2);
  std::normal_distribution<float> gauss;
  std::vector<float> x(kCols);
  QuantizedActivations a;
  a.resize(tokens, kCols, kBlock);
  for (uint64_t t = 0; t < tokens; ++t) {
    for (auto& v : x) v = gauss(rng);
    kernels.linear.rotate_quantize(x.data(), kCols, kBlock, &a.q[t * kCols], &a.scale[t * a.blocks],
                                   &a.sum[t * a.blocks]);
  }
  return a;
}

/// What one thread can read at best: independent sums, and a prefetch past the hardware's page boundaries.
void read_bandwidth(benchmark::State& state) {
  constexpr size_t kAhead = 16384 / sizeof(uint64_t);
  const std::vector<uint64_t> data((size_t{256} << 20) / sizeof(uint64_t), 1);
  uint64_t sums[8] = {};
  for (auto _ : state) {
    for (size_t i = 0; i + 8 <= data.size(); i += 8) {
      __builtin_prefetch(data.data() + i + kAhead);
      for (size_t k = 0; k < 8; ++k) sums[k] += data[i + k];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * data.size() * sizeof(uint64_t)));
}

void decode(benchmark::State& state, const Kernels* kernels, int bits) {
  const uint64_t rows = (uint64_t{192} << 20) / HlwqFormat{bits, 1, kBlock}.row_bytes(kCols) / 64 * 64;
  const Matrix m(bits, rows);
  const auto a = activations(*kernels, 1);
  std::vector<float> y(rows);
  for (auto _ : state) {
    for (uint64_t r = 0; r < rows; r += 64) kernels->linear.hlwq_rows(m.matrix, a, r, r + 64, y.data(), rows);
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * (m.codes.size() + 2 * m.norms.size())));
}

/// The same on a matrix that fits the second-level cache: what the arithmetic alone allows.
void decode_cached(benchmark::State& state, const Kernels* kernels, int bits) {
  const Matrix m(bits, 64);
  const auto a = activations(*kernels, 1);
  std::vector<float> y(64);
  for (auto _ : state) {
    kernels->linear.hlwq_rows(m.matrix, a, 0, 64, y.data(), 64);
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * (m.codes.size() + 2 * m.norms.size())));
}

void prefill(benchmark::State& state, const Kernels* kernels, int bits, uint64_t tokens) {
  constexpr uint64_t kRows = 256;
  const Matrix m(bits, kRows);
  const auto a = activations(*kernels, tokens);
  std::vector<float> y(tokens * kRows);
  for (auto _ : state) {
    for (uint64_t r = 0; r < kRows; r += 32)
      kernels->linear.hlwq_rows(m.matrix, a, r, r + 32, y.data(), kRows);
    benchmark::DoNotOptimize(y.data());
  }
  state.counters["OP/s"] = benchmark::Counter(static_cast<double>(2 * kRows * kCols * tokens),
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void rotate(benchmark::State& state, const Kernels* kernels) {
  const std::vector<float> x(kCols, 0.5f);
  QuantizedActivations a;
  a.resize(1, kCols, kBlock);
  for (auto _ : state) {
    kernels->linear.rotate_quantize(x.data(), kCols, kBlock, a.q.data(), a.scale.data(), a.sum.data());
    benchmark::DoNotOptimize(a.q.data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kCols));
}

void gemm(benchmark::State& state, const Kernels* kernels, uint64_t tokens) {
  constexpr uint64_t kRows = 64;
  const std::vector<float> w(kRows * kCols, 0.5f), x(tokens * kCols, 0.25f);
  std::vector<float> y(tokens * kRows);
  for (auto _ : state) {
    kernels->vector.gemm(w.data(), kRows, kCols, x.data(), kCols, tokens, y.data(), kRows);
    benchmark::DoNotOptimize(y.data());
  }
  state.counters["FLOP/s"] = benchmark::Counter(static_cast<double>(2 * kRows * kCols * tokens),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

void gelu(benchmark::State& state, const Kernels* kernels) {
  const std::vector<float> gate(kCols, 0.5f), up(kCols, 0.25f);
  std::vector<float> y(kCols);
  for (auto _ : state) {
    kernels->vector.gelu_tanh_mul(gate.data(), up.data(), y.data(), kCols);
    benchmark::DoNotOptimize(y.data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kCols));
}

void register_all() {
  benchmark::RegisterBenchmark("read_bandwidth", read_bandwidth);
  for (const Kernels* kernels : all_kernels()) {
    if (!runs_on(*kernels, detect_cpu())) continue;
    const auto name = [&](const std::string& kind, const std::string& what) {
      return (kind + "/" + std::string(kernels->name) + "/" + what);
    };
    for (int bits = 2; bits <= 8; ++bits) {
      const std::string width = "q" + std::to_string(bits);
      benchmark::RegisterBenchmark(name("decode", width).c_str(), decode, kernels, bits);
      benchmark::RegisterBenchmark(name("decode_cached", width).c_str(), decode_cached, kernels, bits);
      for (uint64_t tokens : {2, 4, 8, 32, 512})
        benchmark::RegisterBenchmark(name("prefill", width + "/tokens:" + std::to_string(tokens)).c_str(),
                                     prefill, kernels, bits, tokens);
    }
    benchmark::RegisterBenchmark(name("rotate_quantize", "b128").c_str(), rotate, kernels);
    benchmark::RegisterBenchmark(name("gelu_tanh_mul", "f32").c_str(), gelu, kernels);
    for (uint64_t tokens : {1, 8, 512})
      benchmark::RegisterBenchmark(name("gemm", "f32/tokens:" + std::to_string(tokens)).c_str(), gemm,
                                   kernels, tokens);
  }
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  hlwq::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
