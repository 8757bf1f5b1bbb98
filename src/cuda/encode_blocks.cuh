// Around the search, one warp a block: source rows into rotated blocks of unit variance, the nearest codes of
// plain codebooks, and from codes to what a checkpoint holds. Each sum and product is the codec's own
// (quant/codec.cpp), in its order and never fused, so that codes, norms and figures come out bit by bit the
// same.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/encode.h"
#include "cuda/rotate.cuh"
#include "quant/layout.h"

namespace hlwq::cuda {

constexpr int kMaxBlock = 512;
constexpr int kEncodeWarps = 4;  ///< of a thread block of these kernels

/// Blocks of a matrix, numbered along its rows.
struct SourceBlocks {
  const void* data;  ///< [rows, cols]
  SourceType type;
  uint64_t cols, row_blocks, blocks;
  int block;

  __device__ uint64_t row(uint64_t b) const { return b / row_blocks; }
  __device__ uint64_t begin(uint64_t b) const {
    return row(b) * cols + b % row_blocks * static_cast<uint64_t>(block);
  }
  /// Values of the matrix in block b; the rest is padding.
  __device__ int count(uint64_t b) const {
    const uint64_t left = cols - b % row_blocks * static_cast<uint64_t>(block);
    return left < static_cast<uint64_t>(block) ? static_cast<int>(left) : block;
  }
  __device__ float value(uint64_t i) const {
    switch (type) {
      case SourceType::kBf16:
        return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
      case SourceType::kF16:
        return __half2float(static_cast<const __half*>(data)[i]);
      default:
        return static_cast<const float*>(data)[i];
    }
  }
};

/// Norms under it are zero: far below FP16's least positive value, where 1 / norm may not be a float any
/// more.
__device__ inline double usable_norm(double square) {
  const double norm = __dsqrt_rn(square);
  return norm >= 1e-12 ? norm : 0;
}

/// u [blocks, block], and squares [blocks], the sums of the source's squares. A block that is not finite puts
/// its row into *bad_row, if that is the first one, and counts as zero.
template <int kPer>
__global__ void __launch_bounds__(32 * kEncodeWarps)
    rotate_kernel(const SourceBlocks source, uint64_t first_row, float* u, double* squares,
                  unsigned long long* bad_row) {
  constexpr int kBlock = 32 * kPer;
  __shared__ float staged[kEncodeWarps][kBlock];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint64_t b = static_cast<uint64_t>(blockIdx.x) * kEncodeWarps + warp;
  if (b >= source.blocks) return;
  const uint64_t begin = source.begin(b);
  const int count = source.count(b), whole = count & ~3;
  float* w = staged[warp];
  for (int i = lane; i < kBlock; i += 32) w[i] = i < count ? source.value(begin + i) : 0;
  __syncwarp();

  // Squares of floats are exact in double: here a fused sum is the same.
  double part = 0;
  if (lane < 4)
    for (int i = lane; i < whole; i += 4) part = __fma_rn(w[i], w[i], part);
  if (lane == 0)
    for (int i = whole; i < count; ++i) part = __fma_rn(w[i], w[i], part);
  double lanes[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) lanes[j] = __shfl_sync(0xffffffffu, part, j);
  double square = __dadd_rn(__dadd_rn(lanes[0], lanes[1]), __dadd_rn(lanes[2], lanes[3]));
  if (!isfinite(square)) {
    if (lane == 0) atomicMin(bad_row, static_cast<unsigned long long>(first_row + source.row(b)));
    square = 0;
  }
  if (lane == 0) squares[b] = square;

  float x[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) x[i] = w[lane * kPer + i];
  warp_butterflies(x);
  const double norm = usable_norm(square);
  const float inverse = norm > 0 ? __double2float_rn(__ddiv_rn(1, norm)) : 0;
  float* out = u + b * kBlock + lane * kPer;
#pragma unroll
  for (int i = 0; i < kPer; ++i) out[i] = norm > 0 ? __fmul_rn(x[i], inverse) : 0;
}

/// Stored codes q [n] of u [n] with one lag. thresholds [2^(bits-1) - 1], ascending: between magnitudes.
__global__ void nearest_kernel(const float* thresholds, int bits, const float* u, uint64_t n, uint8_t* q) {
  __shared__ float shared[128];
  const int half = 1 << (bits - 1);
  for (int i = static_cast<int>(threadIdx.x); i < half - 1; i += static_cast<int>(blockDim.x))
    shared[i] = thresholds[i];
  __syncthreads();
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const float x = u[i], a = fabsf(x);
    int magnitude = 0;
    for (int part = half / 2; part > 0; part /= 2)
      if (a > shared[magnitude + part - 1]) magnitude += part;
    q[i] = static_cast<uint8_t>(x < 0 ? half | magnitude : magnitude);
  }
}

/// Byte k of a block's packed codes (quant/layout.h).
__device__ inline uint8_t packed_byte(const uint8_t* q, int bits, int granule, int k) {
  const int granule_bytes = granule * bits / 8;
  q += k / granule_bytes * granule;
  k %= granule_bytes;
  const Planes p = planes(bits);
  int plane = 0;
  while (k >= granule * p.width[plane] / 8) k -= granule * p.width[plane++] / 8;
  const int width = p.width[plane], shift = p.shift[plane];
  // A byte of the one-bit plane holds neighbours, one of the others codes that lie far apart.
  const int parts = 8 / width, apart = width == 1 ? 1 : granule / parts;
  const uint8_t* from = q + (width == 1 ? 8 * k : k);
  unsigned byte = 0;
  for (int j = 0; j < parts; ++j) byte |= (from[j * apart] >> shift & ((1u << width) - 1)) << (j * width);
  return static_cast<uint8_t>(byte);
}

struct FinishTables {
  const float* values;  ///< [lags][2^bits]
  int bits, lags;
  bool corrected;  ///< NormRule::kCorrected
};

/// Norms and packed codes of all blocks, and what each adds to CodecStats. A norm over FP16's range puts the
/// row into *bad_row.
template <int kPer>
__global__ void __launch_bounds__(32 * kEncodeWarps)
    finish_kernel(const SourceBlocks source, const FinishTables tables, uint64_t first_row, const float* u,
                  const double* squares, const uint8_t* q, uint8_t* codes, uint16_t* norms, CodecStats* stats,
                  unsigned long long* bad_row) {
  constexpr int kBlock = 32 * kPer;
  constexpr unsigned kAll = 0xffffffffu;
  __shared__ float u_of[kEncodeWarps][kBlock], c_of[kEncodeWarps][kBlock];
  __shared__ uint8_t q_of[kEncodeWarps][kBlock];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint64_t b = static_cast<uint64_t>(blockIdx.x) * kEncodeWarps + warp;
  if (b >= source.blocks) return;
  const int bytes = kBlock * tables.bits / 8;
  const double square = squares[b], norm = usable_norm(square);
  float *us = u_of[warp], *cs = c_of[warp];
  uint8_t* qs = q_of[warp];
  for (int i = lane; i < kBlock; i += 32) us[i] = u[b * kBlock + i], qs[i] = q[b * kBlock + i];
  __syncwarp();
  for (int i = lane; i < kBlock; i += 32) {
    float c = tables.values[qs[i]];
    for (int lag = 1; lag < tables.lags; ++lag)
      c = __fadd_rn(c, tables.values[(lag << tables.bits) + qs[i >= lag ? i - lag : i - lag + kBlock]]);
    cs[i] = c;
  }
  __syncwarp();

  float uc = 0, cc = 0;
  if (lane < 8)
    for (int i = lane; i < kBlock; i += 8) {
      uc = __fadd_rn(uc, __fmul_rn(us[i], cs[i]));
      cc = __fadd_rn(cc, __fmul_rn(cs[i], cs[i]));
    }
  double sum_uc = 0, sum_cc = 0;
  for (int j = 0; j < 8; ++j) {
    sum_uc = __dadd_rn(sum_uc, __shfl_sync(kAll, uc, j));
    sum_cc = __dadd_rn(sum_cc, __shfl_sync(kAll, cc, j));
  }
  const double scale = tables.corrected ? __ddiv_rn(__dmul_rn(norm, sum_uc), sum_cc) : norm;
  uint16_t stored = norm > 0 ? __half_as_ushort(__float2half_rn(__double2float_rn(scale))) : 0;
  if (stored >= 0x7c00) {
    if (lane == 0) atomicMin(bad_row, static_cast<unsigned long long>(first_row + source.row(b)));
    stored = 0;
  }
  if (lane == 0) norms[b] = stored;
  for (int k = lane; k < bytes; k += 32)
    codes[b * bytes + k] = stored == 0 ? 0 : packed_byte(qs, tables.bits, kBlock < 128 ? kBlock : 128, k);
  if (!stats) return;
  if (stored == 0) {
    if (lane == 0) stats[b] = {square, square, 0, 0};
    return;
  }

  const int count = source.count(b);
  const double decoded = __half2float(__ushort_as_half(stored));
  if (count == kBlock) {
    // H keeps lengths, so the error is measured where u and c are.
    const float ratio = __double2float_rn(__ddiv_rn(decoded, norm));
    float error = 0;
    if (lane < 8)
      for (int i = lane; i < kBlock; i += 8) {
        const float d = __fsub_rn(us[i], __fmul_rn(ratio, cs[i]));
        error = __fadd_rn(error, __fmul_rn(d, d));
      }
    double residual = 0;
    for (int j = 0; j < 8; ++j) residual = __dadd_rn(residual, __shfl_sync(kAll, error, j));
    if (lane == 0)
      stats[b] = {square, __dmul_rn(__ddiv_rn(square, kBlock), residual),
                  __dmul_rn(__ddiv_rn(__dmul_rn(norm, decoded), kBlock), sum_uc),
                  __dmul_rn(__ddiv_rn(__dmul_rn(decoded, decoded), kBlock), sum_cc)};
    return;
  }
  // What a partly padded block decodes to beyond the matrix is dropped, so only its real columns count.
  float x[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) x[i] = cs[lane * kPer + i];
  warp_butterflies(x);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPer; ++i) cs[lane * kPer + i] = x[i];
  __syncwarp();
  if (lane != 0) return;
  CodecStats s{square, 0, 0, 0};
  const double per_sum = __ddiv_rn(decoded, kBlock);
  for (int i = 0; i < count; ++i) {
    const double w = source.value(source.begin(b) + i), v = __dmul_rn(per_sum, cs[i]), d = __dsub_rn(w, v);
    s.error_sq = __dadd_rn(s.error_sq, __dmul_rn(d, d));
    s.dot = __dadd_rn(s.dot, __dmul_rn(w, v));
    s.decoded_sq = __dadd_rn(s.decoded_sq, __dmul_rn(v, v));
  }
  stats[b] = s;
}

/// Sums over each row's blocks, in their order.
__global__ void row_stats_kernel(const CodecStats* blocks, uint64_t rows, uint64_t row_blocks,
                                 CodecStats* stats) {
  const uint64_t row = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  CodecStats s{0, 0, 0, 0};
  for (uint64_t i = row * row_blocks; i < (row + 1) * row_blocks; ++i) {
    s.source_sq = __dadd_rn(s.source_sq, blocks[i].source_sq);
    s.error_sq = __dadd_rn(s.error_sq, blocks[i].error_sq);
    s.dot = __dadd_rn(s.dot, blocks[i].dot);
    s.decoded_sq = __dadd_rn(s.decoded_sq, blocks[i].decoded_sq);
  }
  stats[row] = s;
}

}  // namespace hlwq::cuda
