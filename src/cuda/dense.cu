#include "cuda/dense.h"

#include <cublas_v2.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <climits>
#include <vector>

#include "base/checked.h"
#include "base/half.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kRowAlignment = 16;  // bytes: what one thread loads at once
// Up to this many tokens the weights are the whole cost, and reading them once is best.
constexpr uint32_t kFewTokens = 4;
// Floats that pass through host memory at a time on the way to the GPU.
constexpr uint64_t kStagedFloats = uint64_t{1} << 20;
constexpr int kThreads = 128;
constexpr int kRowsPerBlock = 4;

uint64_t element_bytes(DenseType type) { return type == DenseType::kBF16 ? 2 : 4; }

uint64_t pitch_of(DenseType type, uint64_t cols) {
  const uint64_t step = kRowAlignment / element_bytes(type);
  return checked_mul(ceil_div(cols, step), step, "a matrix row");
}

bool plain(const Weight& w, DType dtype) {
  return w.dense && w.dense->dtype == dtype && w.dense->rope_heads == 0 && w.dense->add == 0;
}

DenseType type_of(std::span<const Weight> stack) {
  const auto bf16 = [](const Weight& w) {
    return w.dense && w.dense->dtype == DType::kBF16 && w.dense->add == 0;
  };
  return std::all_of(stack.begin(), stack.end(), bf16) ? DenseType::kBF16 : DenseType::kF32;
}

DenseView layout_of(std::span<const Weight> stack, const std::string& what) {
  if (stack.empty()) throw Error(ErrorCode::kInvalidArgument, what + ": no matrices to put on the GPU");
  DenseView v{.data = nullptr, .type = type_of(stack), .rows = 0, .cols = stack[0].cols(), .pitch = 0};
  v.pitch = pitch_of(v.type, v.cols);
  for (const Weight& w : stack) {
    if (w.cols() != v.cols)
      throw Error(ErrorCode::kInvalidArgument, what + ": matrices of " + std::to_string(v.cols) + " and of " +
                                                   std::to_string(w.cols()) + " columns in one stack");
    v.rows = checked_add(v.rows, w.rows(), what);
  }
  return v;
}

void copy_rows(void* to, uint64_t to_pitch, const void* from, uint64_t row_bytes, uint64_t rows) {
  const char* what = "copying weights to the GPU";
  if (rows == 0 || row_bytes == 0) return;
  if (to_pitch == row_bytes)
    check(cudaMemcpy(to, from, rows * row_bytes, cudaMemcpyHostToDevice), what);
  else
    check(cudaMemcpy2D(to, to_pitch, from, row_bytes, row_bytes, rows, cudaMemcpyHostToDevice), what);
}

void upload(const Weight& w, const DenseView& layout, std::byte* to) {
  const uint64_t size = element_bytes(layout.type), rows = w.rows(), cols = w.cols();
  if (plain(w, layout.type == DenseType::kBF16 ? DType::kBF16 : DType::kF32))
    return copy_rows(to, layout.pitch * size, w.dense->data.data(), cols * size, rows);
  const uint64_t tile = std::max<uint64_t>(1, kStagedFloats / std::max<uint64_t>(cols, 1));
  std::vector<float> floats(std::min(tile, rows) * cols);
  std::vector<uint16_t> halves(layout.type == DenseType::kBF16 ? floats.size() : 0);
  for (uint64_t r = 0; r < rows; r += tile) {
    const uint64_t n = std::min(tile, rows - r);
    if (w.dense) {
      decode_rows(*w.dense, r, n, floats.data());
    } else {
      for (uint64_t i = 0; i < n; ++i) weight_row(w, r + i, floats.data() + i * cols);
    }
    const void* from = floats.data();
    if (!halves.empty()) {  // BF16 rows that were only out of order: exact
      std::transform(floats.begin(), floats.begin() + static_cast<std::ptrdiff_t>(n * cols), halves.begin(),
                     float_to_bf16);
      from = halves.data();
    }
    copy_rows(to + r * layout.pitch * size, layout.pitch * size, from, cols * size, n);
  }
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string words = std::string(what) + ": " + cublasGetStatusString(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED)
    throw Error(ErrorCode::kOutOfMemory,
                words + "; free GPU memory or keep fewer layers there (--gpu-layers)");
  throw Error(ErrorCode::kDevice, "cuBLAS failed at " + words);
}

int narrow(uint64_t n, const char* what) {
  if (n > INT_MAX)
    throw Error(ErrorCode::kInvalidArgument, std::string("a matrix product on the GPU has ") +
                                                 std::to_string(n) + " " + what + ", more than 2^31");
  return static_cast<int>(n);
}

// What cuBLAS asks for by architecture; less makes it choose slower kernels.
uint64_t workspace_for_device() {
  int device = 0, major = 0;
  cuda::check(cudaGetDevice(&device), "asking for the current GPU");
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
              "asking for the GPU's kind");
  const uint64_t mib = major == 9 || major == 10 ? 32 : major > 10 ? 12 : 4;
  return mib << 20;
}

template <DenseType kType>
struct Lanes;  // what 16 bytes of a row hold

template <>
struct Lanes<DenseType::kBF16> {
  static constexpr int kCount = 8;
  __device__ static void unpack(const uint4& raw, float* out) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};

template <>
struct Lanes<DenseType::kF32> {
  static constexpr int kCount = 4;
  __device__ static void unpack(const uint4& raw, float* out) {
    out[0] = __uint_as_float(raw.x);
    out[1] = __uint_as_float(raw.y);
    out[2] = __uint_as_float(raw.z);
    out[3] = __uint_as_float(raw.w);
  }
};

// Values c .. c + kCount of a row of x, zeros beyond its end. `vectors`: rows of x start at multiples of 16
// bytes.
template <int kCount>
__device__ void load_x(const float* x, uint64_t c, uint64_t cols, bool vectors, float* out) {
  if (vectors && c + kCount <= cols) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(x + c + i);
      out[i] = v.x;
      out[i + 1] = v.y;
      out[i + 2] = v.z;
      out[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = c + i < cols ? x[c + i] : 0.0f;
  }
}

// The products of kRowsPerBlock rows, `step` 16-byte words apart, with some tokens, on all threads of a
// block, which take turns along the columns: every thread has several loads of weights in flight, and each
// value of x serves several rows. Thread r * kTokens + t returns the one of row r and token t; others return
// nothing useful. `last`: the last row that there is, those after it count as itself.
template <DenseType kType, int kTokens>
__device__ float dot_rows(const uint4* rows, uint64_t step, uint64_t last, uint64_t cols,
                          const float* const (&x)[kTokens], bool vectors) {
  constexpr int kCount = Lanes<kType>::kCount, kSums = kRowsPerBlock * kTokens;
  const uint4* row[kRowsPerBlock];
#pragma unroll
  for (int r = 0; r < kRowsPerBlock; ++r) row[r] = rows + min(static_cast<uint64_t>(r), last) * step;
  float sum[kSums] = {};
  for (uint64_t i = threadIdx.x; i < step; i += kThreads) {
    uint4 raw[kRowsPerBlock];
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) raw[r] = __ldcs(row[r] + i);
    float in[kTokens][kCount];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) load_x<kCount>(x[t], i * kCount, cols, vectors, in[t]);
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      float w[kCount];
      Lanes<kType>::unpack(raw[r], w);
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
#pragma unroll
        for (int k = 0; k < kCount; ++k) sum[r * kTokens + t] += w[k] * in[t][k];
    }
  }
  __shared__ float partial[kThreads / 32][kSums];
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], i);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][s] = sum[s];
  }
  __syncthreads();
  float total = 0;
  if (threadIdx.x < kSums)
#pragma unroll
    for (int warp = 0; warp < kThreads / 32; ++warp) total += partial[warp][threadIdx.x];
  return total;
}

template <DenseType kType, int kTokens>
__global__ void __launch_bounds__(kThreads)
    few_tokens_kernel(DenseView w, const float* __restrict__ x, bool vectors, float* __restrict__ y) {
  const uint64_t first = uint64_t{blockIdx.x} * kRowsPerBlock, step = w.pitch / Lanes<kType>::kCount;
  const float* in[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) in[t] = x + t * w.cols;
  const float total = dot_rows<kType, kTokens>(static_cast<const uint4*>(w.data) + first * step, step,
                                               w.rows - 1 - first, w.cols, in, vectors);
  const uint64_t r = first + threadIdx.x / kTokens;
  if (threadIdx.x < kRowsPerBlock * kTokens && r < w.rows) y[threadIdx.x % kTokens * w.rows + r] = total;
}

// The same for a tile of tokens of one matrix of a stack, kFewTokens of them at a time.
template <DenseType kType>
__global__ void __launch_bounds__(kThreads)
    grouped_kernel(DenseView w, uint64_t rows_each, const float* __restrict__ x, bool vectors,
                   const LinearGroups groups, float* __restrict__ y) {
  if (blockIdx.y >= *groups.n_tiles) return;
  const LinearGroups::Tile tile = groups.tiles[blockIdx.y];
  const uint64_t first = uint64_t{blockIdx.x} * kRowsPerBlock, step = w.pitch / Lanes<kType>::kCount;
  const uint4* rows = static_cast<const uint4*>(w.data) + (tile.matrix * rows_each + first) * step;
  for (uint32_t t = 0; t < tile.count; t += kFewTokens) {
    const float* in[kFewTokens];
#pragma unroll
    for (uint32_t i = 0; i < kFewTokens; ++i) {
      const uint32_t at = tile.first + min(t + i, tile.count - 1);
      in[i] = x + (groups.inputs ? groups.inputs[at] / groups.inputs_each : at) * w.cols;
    }
    const float total = dot_rows<kType, kFewTokens>(rows, step, rows_each - 1 - first, w.cols, in, vectors);
    const uint64_t r = first + threadIdx.x / kFewTokens, i = t + threadIdx.x % kFewTokens;
    if (threadIdx.x < kRowsPerBlock * kFewTokens && r < rows_each && i < tile.count)
      y[(tile.first + i) * rows_each + r] = total;
    __syncthreads();  // dot_rows uses its shared memory again
  }
}

// Whether all rows of x start at multiples of 16 bytes.
bool takes_vectors(const DenseView& w, const float* x) {
  return w.cols % 4 == 0 && reinterpret_cast<uintptr_t>(x) % kRowAlignment == 0;
}

template <DenseType kType>
void few_tokens(const DenseView& w, const float* x, uint64_t tokens, float* y, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(narrow(ceil_div(w.rows, kRowsPerBlock), "rows"));
  const bool vectors = takes_vectors(w, x);
  const auto launch = [&](auto kernel) { kernel<<<blocks, kThreads, 0, stream>>>(w, x, vectors, y); };
  switch (tokens) {
    case 1:
      launch(few_tokens_kernel<kType, 1>);
      break;
    case 2:
      launch(few_tokens_kernel<kType, 2>);
      break;
    case 3:
      launch(few_tokens_kernel<kType, 3>);
      break;
    default:
      launch(few_tokens_kernel<kType, kFewTokens>);
  }
  check_launch("a product with a plain matrix");
}

// x = high + low + less than 2^-17 of x, both BF16; a thread takes kEach values that follow each other, of
// rows whose length they divide. The parts have rows of `pitch` elements.
template <int kEach>
__global__ void split_kernel(const float* __restrict__ x, uint32_t cols, uint64_t pitch,
                             __nv_bfloat16* __restrict__ high, __nv_bfloat16* __restrict__ low) {
  const uint32_t c = (blockIdx.y * blockDim.x + threadIdx.x) * kEach;
  if (c >= cols) return;
  struct alignas(kEach * 4) Floats {
    float v[kEach];
  };
  struct alignas(kEach * 2) Halves {
    __nv_bfloat16 v[kEach];
  };
  const Floats in = *reinterpret_cast<const Floats*>(x + uint64_t{blockIdx.x} * cols + c);
  Halves h, l;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    h.v[i] = __float2bfloat16_rn(in.v[i]);
    l.v[i] = __float2bfloat16_rn(in.v[i] - __bfloat162float(h.v[i]));
  }
  const uint64_t to = uint64_t{blockIdx.x} * pitch + c;
  *reinterpret_cast<Halves*>(high + to) = h;
  *reinterpret_cast<Halves*>(low + to) = l;
}

template <DenseType kType>
__global__ void rows_kernel(DenseView w, const int32_t* __restrict__ ids, float scale,
                            float* __restrict__ out) {
  const uint64_t t = blockIdx.x;
  const int64_t id = ids[t];
  const bool there = id >= 0 && static_cast<uint64_t>(id) < w.rows;
  for (uint64_t c = threadIdx.x; c < w.cols; c += blockDim.x) {
    float value = 0;
    if (there) {
      const uint64_t at = static_cast<uint64_t>(id) * w.pitch + c;
      if constexpr (kType == DenseType::kBF16)
        value = __bfloat162float(static_cast<const __nv_bfloat16*>(w.data)[at]);
      else
        value = static_cast<const float*>(w.data)[at];
    }
    out[t * w.cols + c] = value * scale;
  }
}

}  // namespace

DenseView DenseView::slice(uint64_t first, uint64_t n) const {
  if (first > rows || n > rows - first)
    throw Error(ErrorCode::kInvalidArgument, "rows " + std::to_string(first) + " to " +
                                                 std::to_string(first + n) + " asked of a matrix with " +
                                                 std::to_string(rows));
  DenseView v = *this;
  v.data = static_cast<const std::byte*>(data) + first * pitch * element_bytes(type);
  v.rows = n;
  return v;
}

uint64_t DenseMatrix::device_bytes(std::span<const Weight> stack) {
  const DenseView v = layout_of(stack, "weights");
  return checked_mul(checked_mul(v.rows, v.pitch, "weights"), element_bytes(v.type), "weights");
}

DenseMatrix::DenseMatrix(std::span<const Weight> stack, const std::string& what)
    : memory_(device_bytes(stack), what), view_(layout_of(stack, what)) {
  view_.data = memory_.as<void>();
  if (view_.pitch != view_.cols && memory_)
    cuda::check(cudaMemset(memory_.as<void>(), 0, memory_.bytes()), "clearing memory for weights");
  auto* to = memory_.as<std::byte>();
  for (const Weight& w : stack) {
    upload(w, view_, to);
    to += w.rows() * view_.pitch * element_bytes(view_.type);
  }
  // A copy may return before it has arrived, and streams that do not wait for the default one are to use it.
  cuda::check(cudaStreamSynchronize(nullptr), "copying weights to the GPU");
}

Cublas::Cublas() : workspace_(workspace_for_device(), "cuBLAS") {
  check(cublasCreate(&handle_), "making a handle");
}

Cublas::~Cublas() {
  if (handle_) cublasDestroy(handle_);
}

void Cublas::multiply(const DenseView& w, const void* x, uint64_t x_pitch, uint64_t tokens, float beta,
                      float* y, cudaStream_t stream, uint64_t y_pitch) {
  const int ldy = narrow(y_pitch ? y_pitch : w.rows, "outputs in a row");
  const int rows = narrow(w.rows, "rows"), cols = narrow(w.cols, "columns"), n = narrow(tokens, "tokens");
  const int ldw = narrow(w.pitch, "elements in a row"), ldx = narrow(x_pitch, "elements in a row");
  if (rows == 0 || n == 0) return;
  const float alpha = 1;
  // A new stream takes the workspace away, so both are set each time.
  check(cublasSetStream(handle_, stream), "setting its stream");
  check(cublasSetWorkspace(handle_, workspace_.as<void>(), workspace_.bytes()), "setting its workspace");
  // Row-major matrices are column-major ones turned over: y^T = W x^T. The default math mode never rounds
  // floats to TF32.
  if (w.type == DenseType::kBF16)
    check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, rows, n, cols, &alpha, w.data, CUDA_R_16BF, ldw, x,
                       CUDA_R_16BF, ldx, &beta, y, CUDA_R_32F, ldy, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "a BF16 matrix product");
  else
    check(
        cublasSgemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, rows, n, cols, &alpha,
                    static_cast<const float*>(w.data), ldw, static_cast<const float*>(x), ldx, &beta, y, ldy),
        "a float matrix product");
}

uint64_t dense_scratch_bytes(DenseType type, uint64_t cols, uint64_t tokens) {
  if (type != DenseType::kBF16 || tokens <= kFewTokens) return 0;
  return 2 * element_bytes(type) * checked_mul(tokens, pitch_of(type, cols), "an input of a linear layer");
}

void dense_linear(Cublas& cublas, const DenseView& w, const float* x, uint64_t tokens, float* y,
                  void* scratch, cudaStream_t stream) {
  if (tokens == 0 || w.rows == 0) return;
  if (tokens <= kFewTokens)
    return w.type == DenseType::kBF16 ? few_tokens<DenseType::kBF16>(w, x, tokens, y, stream)
                                      : few_tokens<DenseType::kF32>(w, x, tokens, y, stream);
  if (w.type == DenseType::kF32) return cublas.multiply(w, x, w.cols, tokens, 0, y, stream);
  auto* high = static_cast<__nv_bfloat16*>(scratch);
  __nv_bfloat16* low = high + tokens * w.pitch;
  const auto split = [&](auto kernel, uint64_t each) {
    const dim3 grid(static_cast<unsigned>(narrow(tokens, "tokens")),
                    static_cast<unsigned>(ceil_div(w.cols, 256 * each)));
    kernel<<<grid, 256, 0, stream>>>(x, static_cast<uint32_t>(narrow(w.cols, "columns")), w.pitch, high, low);
  };
  takes_vectors(w, x) ? split(split_kernel<4>, 4) : split(split_kernel<1>, 1);
  check_launch("splitting an input into BF16 parts");
  cublas.multiply(w, low, w.pitch, tokens, 0, y, stream);
  cublas.multiply(w, high, w.pitch, tokens, 1, y, stream);
}

void dense_grouped(const DenseView& stack, uint64_t rows_each, const float* x, const LinearGroups& groups,
                   uint64_t max_tiles, float* y, cudaStream_t stream) {
  if (rows_each == 0 || max_tiles == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(rows_each, kRowsPerBlock)),
                  static_cast<unsigned>(max_tiles));
  const auto kernel =
      stack.type == DenseType::kBF16 ? grouped_kernel<DenseType::kBF16> : grouped_kernel<DenseType::kF32>;
  kernel<<<grid, kThreads, 0, stream>>>(stack, rows_each, x, takes_vectors(stack, x), groups, y);
  check_launch("products with the plain matrices of experts");
}

void dense_rows(const DenseView& w, const int32_t* ids, uint64_t tokens, float scale, float* out,
                cudaStream_t stream) {
  if (tokens == 0 || w.cols == 0) return;
  const auto blocks = static_cast<unsigned>(narrow(tokens, "tokens"));
  const auto kernel =
      w.type == DenseType::kBF16 ? rows_kernel<DenseType::kBF16> : rows_kernel<DenseType::kF32>;
  kernel<<<blocks, 256, 0, stream>>>(w, ids, scale, out);
  check_launch("gathering rows of a plain matrix");
}

}  // namespace hlwq::cuda
