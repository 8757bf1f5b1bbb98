// y = W x on all cores, for quantised and for plain weights.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "io/tensor.h"
#include "ops/hlwq_matrix.h"
#include "ops/kernels.h"

namespace hlwq {

/// What ops run with; owned by the engine, passed everywhere, global nowhere.
class LinearObserver;
struct Compute {
  const Kernels* kernels;
  ThreadPool* pool;
  LinearObserver* observer = nullptr;  ///< sees every linear's input (calibration); usually none
};

/// A weight matrix of either kind; exactly one pointer is set.
struct Weight {
  const HlwqMatrix* hlwq = nullptr;
  const Tensor* dense = nullptr;
  uint64_t rows() const { return hlwq ? hlwq->rows : dense->rows(); }
  uint64_t cols() const { return hlwq ? hlwq->cols : dense->cols(); }
  explicit operator bool() const { return hlwq || dense; }
};

/// One layer input: floats [tokens, cols] and, made on first use, its rotated INT8 forms (one per block size
/// in use).
class LinearInput {
 public:
  LinearInput(const float* x, uint64_t tokens, uint64_t cols) : x_(x), tokens_(tokens), cols_(cols) {}
  const float* x() const { return x_; }
  uint64_t tokens() const { return tokens_; }
  uint64_t cols() const { return cols_; }
  /// With the turned forms that `lags` need.
  const QuantizedActivations& quantized(const Compute& compute, int block, int lags);

 private:
  const float* x_;
  uint64_t tokens_, cols_;
  std::vector<std::unique_ptr<QuantizedActivations>> quantized_;  // one per block size; addresses stay
};

/// y [tokens, w.rows()] = x W^T.
struct LinearTask {
  Weight weight;
  float* y;  ///< [tokens, weight.rows()]
};
/// Runs several matrices over one input (q, k, v; gate, up) as one parallel loop.
/// Throws Error(kInvalidArgument) when a weight's cols differ from the input's.
void linear(const Compute& compute, LinearInput& input, std::span<const LinearTask> tasks);

/// One product of a call over several inputs: y = x W^T.
struct LinearJob {
  LinearInput* input;
  Weight weight;
  float* y;  ///< [input->tokens(), weight.rows()]
};
/// The same for matrices that each have an input of their own (experts), as one parallel loop.
void linear(const Compute& compute, std::span<const LinearJob> jobs);

/// Told of each call's products before they run, on the calling thread.
class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  virtual void observe(std::span<const LinearJob> jobs) = 0;
};

/// Decodes row r of a weight to cols floats (embeddings).
void weight_row(const Weight& weight, uint64_t r, float* out);

}  // namespace hlwq
