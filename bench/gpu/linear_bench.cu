// Speed of the linears on the GPU: the 31B's shapes, one token to thousands. JSON lines: matrix, format,
// tokens, median microseconds, GB/s of codes and norms, TOP/s; beside them the measured read bandwidth and,
// for many tokens, cuBLAS in BF16.
//
//   gpu_linear_bench [--quick]     INT8=1 in the environment: many tokens through INT8 tensor cores
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "cuda/activations.h"
#include "cuda/dense.h"
#include "cuda/linear.h"
#include "quant/codebook.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

__global__ void read_kernel(const uint4* p, size_t n, uint32_t* out) {
  uint32_t x = 0;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    const uint4 v = __ldg(p + i);
    x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (x == 0x12345679) *out = x;
}

__global__ void fill_kernel(uint32_t* p, size_t n, uint32_t seed, uint32_t mask, uint32_t set) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u + seed;
    h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
    p[i] = (h & mask) | set;
  }
}
void fill(const Buffer& b, uint32_t seed, uint32_t mask = ~0u, uint32_t set = 0) {
  fill_kernel<<<1024, 256>>>(b.as<uint32_t>(), b.bytes() / 4, seed, mask, set);
  check_launch("filling");
}

// Median microseconds of one run, from replays of a graph that runs `fn(i)` for i < n.
double time_us(cudaStream_t stream, int n, const std::function<void(int)>& fn) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < n; ++i) fn(i);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t a, b;
  cudaEventCreate(&a), cudaEventCreate(&b);
  std::vector<float> ms;
  for (int i = 0; i < 13; ++i) {
    cudaEventRecord(a, stream);
    check(cudaGraphLaunch(exec, stream), "graph");
    cudaEventRecord(b, stream);
    check(cudaEventSynchronize(b), "waiting");
    float t;
    cudaEventElapsedTime(&t, a, b);
    if (i >= 3) ms.push_back(t);
  }
  std::sort(ms.begin(), ms.end());
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  cudaEventDestroy(a), cudaEventDestroy(b);
  return ms[ms.size() / 2] * 1000 / n;
}

struct Shape {
  const char* name;
  uint64_t rows, cols;
};

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && !std::strcmp(argv[1], "--quick");
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, 0), "properties");
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  double bandwidth;
  {
    const Buffer big(uint64_t{4} << 30, "big"), out(4, "out");
    fill(big, 1);
    const double us = time_us(stream, 3, [&](int) {
      read_kernel<<<prop.multiProcessorCount * 8, 512, 0, stream>>>(big.as<uint4>(), big.bytes() / 16,
                                                                    out.as<uint32_t>());
    });
    bandwidth = static_cast<double>(big.bytes()) / us / 1e3;
    std::printf("{\"gpu\": \"%s\", \"read_gb_s\": %.0f}\n", prop.name, bandwidth);
  }
  const std::vector<Shape> shapes{
      {"gate+up", 43008, 5376}, {"down", 5376, 21504}, {"qkv", 16384, 5376}, {"o", 5376, 8192}};
  std::vector<std::pair<int, int>> formats{{5, 1}, {5, 2}, {4, 1}, {4, 2}, {3, 2}, {6, 2}};
  Cublas our_blas;
  cublasHandle_t blas;
  cublasCreate(&blas);
  cublasSetStream(blas, stream);
  const Buffer blas_workspace(64 << 20, "workspace");
  cublasSetWorkspace(blas, blas_workspace.as<void>(), blas_workspace.bytes());
  const uint64_t most = quick ? 512 : 4096;
  for (const Shape& s : shapes) {
    const Buffer x(most * s.cols * 4, "x"), y(most * s.rows * 4, "y"),
        activations(DeviceActivations::bytes(most, s.cols, 128), "a");
    const Buffer scratch(linear_scratch_bytes(most, s.rows, s.cols), "scratch");
    LinearResources resources = linear_resources(0);
    resources.cublas = std::getenv("INT8") ? nullptr : &our_blas;
    resources.scratch = scratch.as<void>(), resources.scratch_bytes = scratch.bytes();
    fill(x, 7, 0x00ffffff, 0x3f000000);
    for (auto [bits, lags] : formats) {
      const HlwqFormat f{bits, lags, 128};
      const Codebook codebook = standard_codebook(bits, lags);
      const LookupTables tables = make_lookup_tables(codebook);
      const uint64_t code_bytes = s.rows * f.row_bytes(s.cols),
                     norm_bytes = s.rows * f.row_blocks(s.cols) * 2;
      const int copies = static_cast<int>(200000000 / code_bytes) + 1;  // more than any cache
      const Buffer codes(code_bytes * copies, "codes"), norms(norm_bytes * copies, "norms");
      fill(codes, 3), fill(norms, 5, 0x03ff03ff, 0x3c003c00);
      std::vector<uint64_t> counts{1, 2, 8, 32};
      if (bits == 5 || (bits == 4 && lags == 2)) counts.insert(counts.end(), {128, 512, 4096});
      for (uint64_t tokens : counts) {
        if (tokens > most) continue;
        const DeviceActivations a = DeviceActivations::place(activations.as<void>(), tokens, s.cols, 128);
        quantize_step(x.as<float>(), a, lags, stream);
        const int n = tokens > 32 ? 1 : std::max(copies, 4);
        const double us = time_us(stream, n, [&](int i) {
          const DeviceTask task{{f, s.rows, s.cols, codes.as<uint8_t>() + code_bytes * (i % copies),
                                 norms.as<uint16_t>() + norm_bytes / 2 * (i % copies), &tables, &codebook},
                                y.as<float>(),
                                s.rows};
          linear(a, {&task, 1}, resources, stream);
        });
        const double gb = static_cast<double>(code_bytes + norm_bytes) / us / 1e3;
        std::printf(
            "{\"matrix\": \"%s\", \"format\": \"q%d-l%d\", \"tokens\": %llu, \"us\": %.1f, \"gb_s\": %.0f, "
            "\"of_read\": %.3f, \"tops\": %.1f}\n",
            s.name, bits, lags, static_cast<unsigned long long>(tokens), us, gb, gb / bandwidth,
            2e-6 * static_cast<double>(tokens * s.rows * s.cols) / us);
        std::fflush(stdout);
      }
    }
    // The peer: cuBLAS, BF16 weights and activations, FP32 sums.
    const Buffer w16(s.rows * s.cols * 2, "w16"), x16(most * s.cols * 2, "x16"),
        y16(most * s.rows * 2, "y16");
    fill(w16, 1, 0x80ff80ff, 0x3f003f00), fill(x16, 2, 0x80ff80ff, 0x3f003f00);
    for (uint64_t tokens : {uint64_t{1}, uint64_t{128}, uint64_t{512}, uint64_t{4096}}) {
      if (tokens > most) continue;
      const float one = 1, zero = 0;
      const double us = time_us(stream, 1, [&](int) {
        cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(s.rows), static_cast<int>(tokens),
                     static_cast<int>(s.cols), &one, w16.as<void>(), CUDA_R_16BF, static_cast<int>(s.cols),
                     x16.as<void>(), CUDA_R_16BF, static_cast<int>(s.cols), &zero, y16.as<void>(),
                     CUDA_R_16BF, static_cast<int>(s.rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
      });
      std::printf(
          "{\"matrix\": \"%s\", \"format\": \"bf16 cuBLAS\", \"tokens\": %llu, \"us\": %.1f, \"tops\": "
          "%.1f}\n",
          s.name, static_cast<unsigned long long>(tokens), us,
          2e-6 * static_cast<double>(tokens * s.rows * s.cols) / us);
    }
  }
  // The small steps between the linears, as they are in a decode step.
  {
    const uint64_t n = 5376;
    const Buffer x(n * 4, "x"), p(n * 4, "p"), w(n * 4, "w"), xo(n * 4, "xo"),
        act(DeviceActivations::bytes(1, n, 128), "a"), gate(2 * 21504 * 4, "g"),
        act2(DeviceActivations::bytes(1, 21504, 128), "a2");
    fill(x, 1, 0x80ffffff, 0x3f000000), fill(p, 2, 0x80ffffff, 0x3f000000),
        fill(w, 3, 0x00ffffff, 0x3f000000), fill(gate, 4, 0x80ffffff, 0x3f000000);
    const DeviceActivations a = DeviceActivations::place(act.as<void>(), 1, n, 128),
                            a2 = DeviceActivations::place(act2.as<void>(), 1, 21504, 128);
    const ResidualStep step{.tokens = 1,
                            .width = n,
                            .x = x.as<float>(),
                            .projected = p.as<float>(),
                            .delta_norm = w.as<float>(),
                            .norm = w.as<float>(),
                            .x_out = xo.as<float>()};
    std::printf("{\"step\": \"residual, norms, rotation\", \"us\": %.2f}\n",
                time_us(stream, 100, [&](int) { residual_step(step, &a, 2, stream); }));
    std::printf("{\"step\": \"gated activation, rotation\", \"us\": %.2f}\n", time_us(stream, 100, [&](int) {
                  gated_step(gate.as<float>(), gate.as<float>() + 21504, 43008, 1, 21504,
                             Activation::kGeluTanh, &a2, 2, nullptr, stream);
                }));
  }
  return 0;
}
