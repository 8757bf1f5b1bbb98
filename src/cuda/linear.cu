#include "cuda/linear.h"

#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <string>

#include "cuda/dense.h"
#include "cuda/linear_kernels.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kBatchTokens = 32;  // the most that launch_batch takes at once

LinearCall make_call(const DeviceActivations& x, const HlwqFormat& f, const LookupTables& tables) {
  LinearCall call;
  call.granule = f.granule();
  call.granules = static_cast<uint32_t>(x.blocks * static_cast<uint64_t>(f.block / f.granule()));
  call.granules_shift = std::countr_zero(static_cast<unsigned>(f.block / f.granule()));
  call.granule_bytes = static_cast<uint32_t>(f.granule_bytes());
  for (int lag = 0; lag < 3; ++lag) call.q[lag] = x.q[lag];
  call.scale_sum = x.scale_sum;
  call.tables = prmt_tables(tables);
  return call;
}

// Some tokens of a call, from `first` on.
LinearCall tokens_from(const LinearCall& call, uint64_t first) {
  LinearCall part = call;
  const uint64_t row = static_cast<uint64_t>(call.granules) * static_cast<uint64_t>(call.granule);
  for (const int8_t*& q : part.q) q += first * row;
  part.scale_sum += first * (call.granules >> call.granules_shift);
  for (int i = 0; i < part.n_parts; ++i) part.parts[i].y += first * part.parts[i].y_stride;
  return part;
}

void run(LinearCall call, const HlwqFormat& f, const LookupTables& tables, uint64_t tokens,
         const LinearResources& resources, cudaStream_t stream) {
  if (f.bits > 6) return launch_table(call, tables, tokens, stream);
  if (f.lags > (f.bits <= 4 ? 3 : 2))
    throw Error(ErrorCode::kUnsupported,
                "the GPU has no kernel for " + format_label(f) + "; run this model with --device cpu");
  if (tokens == 1 &&
      launch_pairs(call, f.bits, f.lags, resources.multiprocessors, resources.shared_memory, stream))
    return;
  // Granules below 128 codes fill no tensor-core operand.
  if (tokens == 1 || f.granule() < 128)
    return launch_vector(call, f.bits, f.lags, tokens, resources.multiprocessors, stream);
  const auto bf16 = [&] {
    return resources.cublas && launch_bf16(call, f, tokens, *resources.cublas, resources.scratch,
                                           resources.scratch_bytes, stream);
  };
  if (tokens > kBatchTokens) {
    if (resources.prefers_bf16 && bf16()) return;
    if (launch_matrix(call, f, tables, tokens, resources.scratch, resources.scratch_bytes,
                      resources.shared_memory, stream))
      return;
    if (!resources.prefers_bf16 && bf16()) return;
  }
  for (uint64_t t = 0; t < tokens; t += kBatchTokens) {
    LinearCall part = tokens_from(call, t);
    launch_batch(part, f.bits, f.lags, std::min(kBatchTokens, tokens - t), stream);
  }
}

void check_fit(const DeviceMatrix& w, const DeviceActivations& x) {
  if (w.cols != x.cols || w.format.block != x.block)
    throw Error(ErrorCode::kInvalidArgument, "a matrix of " + std::to_string(w.cols) +
                                                 " columns in blocks of " + std::to_string(w.format.block) +
                                                 " cannot take activations of " + std::to_string(x.cols) +
                                                 " in blocks of " + std::to_string(x.block));
}

}  // namespace

LinearResources linear_resources(int device) {
  LinearResources r;
  check(cudaDeviceGetAttribute(&r.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "asking for multiprocessors");
  check(cudaDeviceGetAttribute(&r.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for shared memory");
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "asking for the architecture");
  r.prefers_bf16 = major == 9 || major == 10;
  return r;
}

uint64_t linear_scratch_bytes(uint64_t tokens, uint64_t rows, uint64_t cols) {
  return tokens > kBatchTokens
             ? std::max(matrix_scratch_bytes(tokens, rows, cols), bf16_scratch_bytes(tokens, rows, cols))
             : 0;
}

void linear(const DeviceActivations& x, std::span<const DeviceTask> tasks, const LinearResources& resources,
            cudaStream_t stream) {
  for (const DeviceTask& task : tasks) check_fit(task.weight, x);
  for (size_t i = 0; i < tasks.size();) {
    const DeviceMatrix& w = tasks[i].weight;
    LinearCall call = make_call(x, w.format, *w.tables);
    while (i < tasks.size() && call.n_parts < LinearCall::kMaxParts && tasks[i].weight.format == w.format &&
           tasks[i].weight.tables == w.tables) {
      const DeviceTask& t = tasks[i++];
      call.parts[call.n_parts++] = {
          t.weight.codes, t.weight.norms, t.y, t.y_stride, static_cast<uint32_t>(t.weight.rows), 0};
    }
    run(call, w.format, *w.tables, x.tokens, resources, stream);
  }
}

bool has_grouped_kernel(const HlwqFormat& f) { return f.bits <= 6 && f.lags <= (f.bits <= 4 ? 3 : 2); }

void linear_grouped(const DeviceActivations& x, const DeviceMatrix& stack, uint64_t rows_each,
                    const LinearGroups& groups, uint64_t max_tiles, uint64_t tile_tokens, float* y,
                    cudaStream_t stream) {
  check_fit(stack, x);
  if (!has_grouped_kernel(stack.format))
    throw Error(ErrorCode::kUnsupported, "the GPU has no kernel for experts in " +
                                             format_label(stack.format) +
                                             "; run this model with --device cpu");
  if (max_tiles == 0 || rows_each == 0) return;
  LinearCall call = make_call(x, stack.format, *stack.tables);
  call.parts[call.n_parts++] = {stack.codes, stack.norms, y, rows_each, static_cast<uint32_t>(rows_each), 0};
  launch_grouped(call, stack.format.bits, stack.format.lags, groups, max_tiles, tile_tokens, stream);
}

namespace {

struct LevelTable {
  float value[3 * 256];  // [lag][stored code]
};

__device__ int code_at(const uint8_t* g, int bits, int size, int i) {
  int code = 0, shift = 0;
  for (int width = 8; width > 0; width /= 2) {
    if (!(bits & width)) continue;
    const int each = size * width / 8;  // bytes of this plane
    code |= (width == 1 ? g[i / 8] >> (i % 8) & 1 : g[i % each] >> (width * (i / each)) & ((1 << width) - 1))
            << shift;
    g += each;
    shift += width;
  }
  return code;
}

__global__ void rows_kernel(DeviceMatrix w, const int32_t* ids, float scale,
                            const __grid_constant__ LevelTable levels, float* out) {
  __shared__ float value[512];
  const int block = w.format.block, i = threadIdx.x, bits = w.format.bits;
  const int size = block < 128 ? block : 128;
  const uint64_t blocks = gridDim.x, b = blockIdx.x, row = static_cast<uint64_t>(ids[blockIdx.y]);
  const uint64_t block_bytes = static_cast<uint64_t>(block) * bits / 8;
  const uint8_t* codes = w.codes + (row * blocks + b) * block_bytes;
  float v = 0;
  for (int lag = 0; lag < w.format.lags; ++lag) {
    const int t = (i - lag + block) % block;
    v += levels.value[lag << bits | code_at(codes + t / size * (size * bits / 8), bits, size, t % size)];
  }
  const float norm = __half2float(__ushort_as_half(w.norms[row * blocks + b]));
  value[i] = v;
  __syncthreads();
  for (int stride = 1; stride < block; stride *= 2) {
    const float a = value[i], o = value[i ^ stride];
    __syncthreads();
    value[i] = i & stride ? o - a : a + o;
    __syncthreads();
  }
  const uint64_t col = b * block + i;
  if (col < w.cols) out[blockIdx.y * w.cols + col] = value[i] * norm * (scale / static_cast<float>(block));
}

}  // namespace

void decode_rows(const DeviceMatrix& w, const int32_t* ids, uint64_t tokens, float scale, float* out,
                 cudaStream_t stream) {
  LevelTable levels{};
  std::copy(w.codebook->values.begin(), w.codebook->values.end(), levels.value);
  const dim3 grid(static_cast<unsigned>(w.format.row_blocks(w.cols)), static_cast<unsigned>(tokens));
  rows_kernel<<<grid, w.format.block, 0, stream>>>(w, ids, scale, levels, out);
  check_launch("decoding rows");
}

}  // namespace hlwq::cuda
