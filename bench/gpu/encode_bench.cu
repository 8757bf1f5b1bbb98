// Speed of encoding on the GPU: a matrix of Gaussian BF16 weights in device memory, blocks of 128, to packed
// codes and norms. JSON lines: format, median milliseconds, M weights/s.
//
//   encode_bench [--all]       without it only Q4 l2, Q5 l2 and Q5
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/encode.h"
#include "quant/codebook.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

__device__ uint32_t mixed(uint32_t x) {
  x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

__global__ void gaussian_kernel(__nv_bfloat16* w, size_t n) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    const auto k = static_cast<uint32_t>(i);
    const float a = (static_cast<float>(mixed(2 * k + 1)) + 0.5f) * 0x1p-32f;
    const float b = static_cast<float>(mixed(2 * k)) * 0x1p-32f;
    w[i] = __float2bfloat16(0.02f * sqrtf(-2 * logf(fminf(a, 1.0f))) * cospif(2 * b));
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

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc > 1 && std::strcmp(argv[1], "--all") == 0;
  try {
    constexpr uint64_t kRows = 5376, kCols = 21504;
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "asking the device");
    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "stream");
    const Buffer source(kRows * kCols * 2, "weights");
    gaussian_kernel<<<2048, 256, 0, stream>>>(source.as<__nv_bfloat16>(), kRows * kCols);
    check_launch("weights");
    std::vector<HlwqFormat> formats = {{4, 2, 128}, {5, 2, 128}, {5, 1, 128}};
    if (all)
      for (const HlwqFormat f : {HlwqFormat{2, 2, 128}, HlwqFormat{3, 2, 128}, HlwqFormat{6, 2, 128},
                                 HlwqFormat{2, 3, 128}, HlwqFormat{3, 3, 128}, HlwqFormat{4, 3, 128},
                                 HlwqFormat{8, 1, 128}, HlwqFormat{5, 2, 64}, HlwqFormat{5, 2, 512}})
        formats.push_back(f);
    for (const HlwqFormat& f : formats) bench(f, source, kRows, kCols, properties.name, stream);
    cudaStreamDestroy(stream);
  } catch (const Error& e) {
    std::fprintf(stderr, "encode_bench: %s\n", e.what());
    return 1;
  }
  return 0;
}
