// Matrices that are not quantised, on the GPU: products with them, and single rows of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <string>

#include "cuda/linear_kernels.h"
#include "cuda/runtime.h"
#include "ops/linear.h"

struct cublasContext;  // what a cublasHandle_t points to

namespace hlwq::cuda {

enum class DenseType { kBF16, kF32 };

/// A matrix in device memory, not owned. Rows start at multiples of 16 bytes.
struct DenseView {
  const void* data = nullptr;
  DenseType type = DenseType::kF32;
  uint64_t rows = 0, cols = 0;
  uint64_t pitch = 0;  ///< elements from one row to the next; those beyond cols are zero

  /// Rows first .. first + n. Throws Error(kInvalidArgument) when they are not all there.
  DenseView slice(uint64_t first, uint64_t n) const;
};

/// Owns a DenseView's memory. BF16 stays BF16; every other kind of weight becomes floats, exactly.
class DenseMatrix {
 public:
  DenseMatrix() = default;
  /// Copies to the GPU: the weights of `stack` one above the other. `what` names them in errors. Throws
  /// Error(kOutOfMemory), and kInvalidArgument when the stack is empty or its widths differ.
  DenseMatrix(std::span<const Weight> stack, const std::string& what);
  DenseMatrix(const Weight& weight, const std::string& what) : DenseMatrix({&weight, 1}, what) {}
  /// Device memory that this stack takes.
  static uint64_t device_bytes(std::span<const Weight> stack);

  const DenseView& view() const { return view_; }
  operator const DenseView&() const { return view_; }
  uint64_t rows() const { return view_.rows; }
  uint64_t cols() const { return view_.cols; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  DenseView view_;
};

/// A cuBLAS handle with a workspace of its own, so that its calls can be captured into graphs. One stream at
/// a time.
class Cublas {
 public:
  /// For the current device.
  Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  ~Cublas();

  uint64_t workspace_bytes() const { return workspace_.bytes(); }
  /// y [tokens, w.rows] = x W^T + beta * y, added up in float. x holds elements of w's type, `x_pitch` from
  /// token to token, y `y_pitch` (0: w.rows). Throws Error(kDevice).
  void multiply(const DenseView& w, const void* x, uint64_t x_pitch, uint64_t tokens, float beta, float* y,
                cudaStream_t stream, uint64_t y_pitch = 0);

 private:
  cublasContext* handle_ = nullptr;
  Buffer workspace_;
};

/// Scratch that dense_linear() needs for an input of `tokens` rows; never less for more tokens.
uint64_t dense_scratch_bytes(DenseType type, uint64_t cols, uint64_t tokens);

/// y [tokens, w.rows] = x [tokens, w.cols] W^T, all floats, nothing between rows. A few tokens run at the
/// speed of memory; many go through cuBLAS, where BF16 weights meet x as the sum of two BF16 numbers, which
/// leaves out less than 2^-17 of each value. Asynchronous on `stream`, allocates nothing, may be captured
/// once the same call has run outside a capture (cuBLAS loads its kernels on first use).
void dense_linear(Cublas& cublas, const DenseView& w, const float* x, uint64_t tokens, float* y,
                  void* scratch, cudaStream_t stream);

/// The same for tokens that want different matrices of a stack, `rows_each` rows each (linear_kernels.h): y
/// [outputs, rows_each]. `max_tiles`: at least *groups.n_tiles, at most 65535.
void dense_grouped(const DenseView& stack, uint64_t rows_each, const float* x, const LinearGroups& groups,
                   uint64_t max_tiles, float* y, cudaStream_t stream);

/// out [tokens, w.cols] = scale * rows ids[t] of w. ids lie in device memory; one that is no row of w gives
/// zeros. Asynchronous on `stream`.
void dense_rows(const DenseView& w, const int32_t* ids, uint64_t tokens, float scale, float* out,
                cudaStream_t stream);

}  // namespace hlwq::cuda
