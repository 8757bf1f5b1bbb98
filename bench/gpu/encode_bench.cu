// Speed of encoding on the GPU: a matrix of Gaussian BF16 weights in device memory, blocks of 128, to packed
// codes and norms. JSON lines: format, median milliseconds, M weights/s.
//
//   gpu_encode_bench [--all]            without it only Q4 l2, Q5 l2 and Q5
//   gpu_encode_bench --checkpoint DIR   all of quantize: writes 3.7 GB of BF16 to DIR, quantises them there;
//                                       seconds, M weights/s, peak memory of the process
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cuda/encode.h"
#include "cuda/tensor_encoder.h"
#include "io/safetensors_writer.h"
#include "quant/codebook.h"
#include "quant/quantize.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

/// SplitMix64's i-th number.
__device__ uint64_t mixed(uint64_t i) {
  uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

__global__ void gaussian_kernel(__nv_bfloat16* w, size_t n) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    const uint64_t bits = mixed(i);
    const float a = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
    const float b = static_cast<float>(bits & 0xffffff) * 0x1p-24f;
    w[i] = __float2bfloat16(0.02f * sqrtf(-2 * logf(a)) * cospif(2 * b));
  }
}

void bench(const HlwqFormat& format, const Buffer& source, uint64_t rows, uint64_t cols, const char* gpu,
           cudaStream_t stream) {
  const EncodeTables tables(format, standard_codebook(format.bits, format.lags), NormRule::kCorrected);
  EncodeWorkspace workspace;
  const Buffer codes(rows * format.row_bytes(cols), "codes"), stats(rows * sizeof(CodecStats), "errors");
  const Buffer norms(rows * format.row_blocks(cols) * sizeof(uint16_t), "norms");
  const EncodeRows job{source.as<void>(),    SourceType::kBf16,     rows, cols, 0, codes.as<uint8_t>(),
                       norms.as<uint16_t>(), stats.as<CodecStats>()};
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < 6; ++i) {
    check(cudaEventRecord(begin, stream), "event");
    encode_rows(tables, job, workspace, stream);
    check(cudaEventRecord(end, stream), "event");
    check(cudaEventSynchronize(end), "encoding");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i > 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  std::vector<CodecStats> sums(rows);
  check(cudaMemcpy(sums.data(), stats.as<void>(), stats.bytes(), cudaMemcpyDeviceToHost), "errors");
  CodecStats total;
  for (const CodecStats& s : sums) total += s;
  const double ms = times[times.size() / 2], weights = static_cast<double>(rows) * static_cast<double>(cols);
  std::printf(
      "{\"bench\": \"encode\", \"gpu\": \"%s\", \"format\": \"%s\", \"block\": %d, \"rows\": %llu, \"cols\": "
      "%llu, \"ms\": %.3f, "
      "\"mweights_s\": %.1f, \"mse\": %.6g, \"complete\": %s}\n",
      gpu, format_label(format).c_str(), format.block, static_cast<unsigned long long>(rows),
      static_cast<unsigned long long>(cols), ms, weights / ms / 1e3, total.relative_mse(),
      workspace.bad_row(stream) == EncodeWorkspace::kNoRow ? "true" : "false");
  std::fflush(stdout);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

constexpr uint64_t kRows = 5376, kCols = 21504;

void bench_checkpoint(const std::filesystem::path& dir, const Buffer& source, const char* gpu) {
  namespace fs = std::filesystem;
  const fs::path in = dir / "encode-bench-in", out = dir / "encode-bench-out";
  fs::create_directories(in);
  std::ofstream(in / "config.json") << "{\"model_type\": \"llama\"}";
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 16; ++i)
    specs.push_back(
        {"model.layers." + std::to_string(i) + ".mlp.down_proj.weight", DType::kBF16, {kRows, kCols}});
  {
    std::vector<uint8_t> bytes(source.bytes());
    check(cudaMemcpy(bytes.data(), source.as<void>(), bytes.size(), cudaMemcpyDeviceToHost), "weights");
    SafetensorsWriter writer(in, specs, {}, uint64_t{1} << 32);
    for (size_t i = 0; i < specs.size(); ++i) writer.append(bytes.data(), bytes.size());
    writer.finish();
  }
  const auto encoder = make_tensor_encoder(0);
  ThreadPool pool;
  for (const char* policy : {"q4-l2", "q5-l2", "q5"}) {
    QuantizeOptions options;
    options.policy = QuantPolicy::named(policy);
    options.replace = true;
    options.encoder = encoder.get();
    const QuantizeResult result = quantize_model(open_model(in), options, out, pool, {});
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf(
        "{\"bench\": \"quantize\", \"gpu\": \"%s\", \"policy\": \"%s\", \"threads\": %d, \"bytes_in\": %llu, "
        "\"bytes_out\": %llu, \"seconds\": %.3f, \"mweights_s\": %.1f, \"peak_rss_mb\": %.0f}\n",
        gpu, policy, pool.threads(), static_cast<unsigned long long>(result.bytes_in),
        static_cast<unsigned long long>(result.bytes_out), result.seconds,
        static_cast<double>(result.elements) / result.seconds / 1e6,
        static_cast<double>(usage.ru_maxrss) / 1024);
    std::fflush(stdout);
  }
  fs::remove_all(in);
  fs::remove_all(out);
}

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc > 1 && std::strcmp(argv[1], "--all") == 0;
  const bool checkpoint = argc > 2 && std::strcmp(argv[1], "--checkpoint") == 0;
  try {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "asking the device");
    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "stream");
    const Buffer source(kRows * kCols * 2, "weights");
    gaussian_kernel<<<2048, 256, 0, stream>>>(source.as<__nv_bfloat16>(), kRows * kCols);
    check_launch("weights");
    check(cudaStreamSynchronize(stream), "weights");
    if (checkpoint) {
      bench_checkpoint(argv[2], source, properties.name);
      return 0;
    }
    std::vector<HlwqFormat> formats = {{4, 2, 128}, {5, 2, 128}, {5, 1, 128}};
    if (all)
      for (const HlwqFormat f : {HlwqFormat{2, 2, 128}, HlwqFormat{3, 2, 128}, HlwqFormat{6, 2, 128},
                                 HlwqFormat{2, 3, 128}, HlwqFormat{3, 3, 128}, HlwqFormat{4, 3, 128},
                                 HlwqFormat{8, 1, 128}, HlwqFormat{5, 2, 64}, HlwqFormat{5, 2, 512}})
        formats.push_back(f);
    for (const HlwqFormat& f : formats) bench(f, source, kRows, kCols, properties.name, stream);
    cudaStreamDestroy(stream);
  } catch (const Error& e) {
    std::fprintf(stderr, "gpu_encode_bench: %s\n", e.what());
    return 1;
  }
  return 0;
}
