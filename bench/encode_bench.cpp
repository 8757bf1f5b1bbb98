// Encoding Gaussian weights: items are weights.
//   encode_bench [--benchmark_filter=encode_rows/q4]
// search/FORMAT/ISA/tries:N is the trellis search alone, on one core; encode_rows/FORMAT/threads:N is all of
// it, norms, rotation and packing included, as `hlwq quantize` runs it with the best ISA here.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "quant/codec.h"
#include "quant/trellis.h"

namespace hlwq {
namespace {

constexpr int kBlock = 128;

std::vector<float> gaussian(size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> gauss;
  std::vector<float> x(n);
  for (float& v : x) v = gauss(random);
  return x;
}

/// Weights that take about a tenth of a second: work is that of a value.
size_t problem(int bits, int lags) {
  const size_t n = (size_t{1} << 30) >> (bits * lags);
  return std::clamp<size_t>(n, size_t{1} << 15, size_t{1} << 21);
}

void search(benchmark::State& state, int bits, int lags, CpuFeatures cpu, int tries) {
  const Codebook codebook = standard_codebook(bits, lags);
  const TrellisEncoder encoder(codebook, cpu);
  const size_t n = cpu.avx2 ? problem(bits, lags) / 4 : size_t{kBlock} * 16;
  const std::vector<float> u = gaussian(n);
  std::vector<uint8_t> q(n);
  TrellisScratch scratch;
  for (auto _ : state) encoder.encode(u.data(), kBlock, n / kBlock, tries, scratch, q.data());
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(n));
}

void rows(benchmark::State& state, int bits, int lags, int threads) {
  const HlwqFormat format{bits, lags, kBlock};
  const Codebook codebook = standard_codebook(bits, lags);
  constexpr uint64_t kCols = 4096;
  const uint64_t count = 8 * problem(bits, lags) / kCols;
  const std::vector<float> w = gaussian(count * kCols);
  std::vector<uint8_t> codes(count * format.row_bytes(kCols));
  std::vector<uint16_t> norms(count * format.row_blocks(kCols));
  ThreadPool pool(threads);
  CodecStats stats;
  for (auto _ : state)
    stats = encode_rows(format, codebook, NormRule::kCorrected, w.data(), count, kCols, "w", 0, pool,
                        codes.data(), norms.data());
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(w.size()));
  state.counters["mse"] = stats.relative_mse();
}

void register_all() {
  const CpuFeatures here = detect_cpu();
  const int all = available_processors();
  for (int lags = 1; lags <= 3; ++lags)
    for (int bits = 2; bits <= 6; ++bits) {
      if (!has_standard_codebook(bits, lags)) continue;
      const std::string format = "q" + std::to_string(bits) + (lags > 1 ? "l" + std::to_string(lags) : "");
      for (const CpuFeatures cpu : {CpuFeatures{}, CpuFeatures{true, false}, CpuFeatures{true, true}}) {
        if (lags == 1 || (cpu.avx2 && !here.avx2) || (cpu.avx512 && !here.avx512)) continue;
        for (const int tries : {1, 7}) {
          const std::string name =
              "search/" + format + "/" + select_trellis(cpu).name + "/tries:" + std::to_string(tries);
          benchmark::RegisterBenchmark(name.c_str(), search, bits, lags, cpu, tries)
              ->Unit(benchmark::kMillisecond);
        }
      }
      for (const int threads : {1, all}) {
        const std::string name = "encode_rows/" + format + "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(name.c_str(), rows, bits, lags, threads)
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
        if (all == 1) break;
      }
    }
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  hlwq::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
