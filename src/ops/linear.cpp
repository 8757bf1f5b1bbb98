// The loop over matrices, rows and threads; the arithmetic is in the kernels.
#include "ops/linear.h"

#include <algorithm>
#include <memory>
#include <string>

#include "hlwq/error.h"
#include "quant/codec.h"

namespace hlwq {
namespace {

// Rows go to the threads in chunks: small enough that the last ones to finish do not keep the others waiting,
// large enough that a chunk's weights (some 64 KB of codes) outweigh the hand-over.
constexpr uint64_t kRowGranule = 32;  // every kernel's row tile divides it
constexpr uint64_t kChunkBytes = 64 << 10;
constexpr uint64_t kChunksPerThread = 8;
// Floats of decoded dense rows a thread keeps at a time (1 MiB).
constexpr uint64_t kDenseTile = uint64_t{1} << 18;

const Tensor& checked_dense(const Tensor& tensor) {
  if (!info(tensor.dtype).is_float)
    throw Error(ErrorCode::kInvalidArgument, "tensor " + tensor.name + " holds integers (" +
                                                 std::string(info(tensor.dtype).name) +
                                                 "), which cannot be a linear layer's weight");
  return tensor;
}

/// Whether rows of `tensor` can be read where they lie, as elements of `dtype`.
bool in_place(const Tensor& tensor, DType dtype) {
  const size_t alignment = info(dtype).block_bytes;
  return tensor.dtype == dtype && tensor.rope_heads == 0 && tensor.add == 0 &&
         reinterpret_cast<uintptr_t>(tensor.data.data()) % alignment == 0;
}

/// y[t, r] for rows [begin, end) of a plain matrix. `scratch` is this thread's, allocated on first use.
void dense_rows(const VectorKernels& kernels, const Tensor& w, const LinearInput& input, uint64_t begin,
                uint64_t end, float* y, std::unique_ptr<float[]>& scratch) {
  const uint64_t rows = w.rows(), cols = w.cols();
  if (in_place(w, DType::kF32)) {
    const float* data = reinterpret_cast<const float*>(w.data.data());
    kernels.gemm(data + begin * cols, end - begin, cols, input.x(), cols, input.tokens(), y + begin, rows);
    return;
  }
  if (input.tokens() == 1 && in_place(w, DType::kBF16)) {
    const uint16_t* data = reinterpret_cast<const uint16_t*>(w.data.data());
    for (uint64_t r = begin; r < end; ++r) y[r] = kernels.dot_bf16(input.x(), data + r * cols, cols);
    return;
  }
  const uint64_t tile = std::clamp<uint64_t>(kDenseTile / cols, 1, kRowGranule);
  if (!scratch) scratch = std::make_unique_for_overwrite<float[]>(std::max(kDenseTile, cols));
  for (uint64_t r = begin; r < end; r += tile) {
    const uint64_t n = std::min(tile, end - r);
    decode_rows(w, r, n, scratch.get());
    kernels.gemm(scratch.get(), n, cols, input.x(), cols, input.tokens(), y + r, rows);
  }
}

uint64_t weight_bytes_per_row(const Weight& w) {
  return w.hlwq ? w.hlwq->format.row_bytes(w.hlwq->cols) : w.dense->row_bytes();
}

/// One matrix of a call, and where its chunks start in the common count.
struct Part {
  LinearJob job;
  const QuantizedActivations* activations;  // null for dense weights
  uint64_t chunk_rows, first_chunk;
};

}  // namespace

const QuantizedActivations& LinearInput::quantized(const Compute& compute, int block, int lags) {
  for (const auto& done : quantized_)
    if (done->block == block) {
      done->add_turns(lags);
      return *done;
    }
  auto made = std::make_unique<QuantizedActivations>();
  made->resize(tokens_, cols_, block);
  QuantizedActivations& a = *made;
  const uint64_t padded = a.blocks * block;
  const uint64_t grain = std::max<uint64_t>(1, 8192 / std::max<uint64_t>(padded, 1));
  compute.pool->parallel_for(tokens_, grain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      compute.kernels->linear.rotate_quantize(x_ + t * cols_, cols_, block, a.q.data() + t * padded,
                                              a.scale.data() + t * a.blocks, a.sum.data() + t * a.blocks);
  });
  a.add_turns(lags);
  quantized_.push_back(std::move(made));
  return *quantized_.back();
}

void linear(const Compute& compute, LinearInput& input, std::span<const LinearTask> tasks) {
  std::vector<LinearJob> jobs;
  jobs.reserve(tasks.size());
  for (const LinearTask& task : tasks) jobs.push_back({&input, task.weight, task.y});
  linear(compute, jobs);
}

void linear(const Compute& compute, std::span<const LinearJob> jobs) {
  const uint64_t threads = compute.pool->threads();
  std::vector<Part> parts;
  parts.reserve(jobs.size());
  uint64_t all_rows = 0, chunks = 0;
  for (const LinearJob& job : jobs) all_rows += job.weight.rows();
  const uint64_t share = ceil_div(all_rows, threads * kChunksPerThread);
  for (const LinearJob& job : jobs) {
    const Weight& w = job.weight;
    LinearInput& input = *job.input;
    if (input.tokens() == 0) continue;
    if (w.cols() != input.cols())
      throw Error(ErrorCode::kInvalidArgument,
                  "linear: " + (w.dense ? "weight " + w.dense->name : std::string("an HLWQ weight")) +
                      " has " + std::to_string(w.cols()) + " columns, but its input has " +
                      std::to_string(input.cols()));
    if (w.dense) checked_dense(*w.dense);
    const QuantizedActivations* a =
        w.hlwq ? &input.quantized(compute, w.hlwq->format.block, w.hlwq->format.lags) : nullptr;
    // With many tokens a row is much work: chunks are only as large as the row tiles need. With few, cache
    // sized.
    const uint64_t cache_rows =
        input.tokens() > 8 ? kRowGranule : kChunkBytes / std::max<uint64_t>(weight_bytes_per_row(w), 1);
    const uint64_t chunk_rows =
        ceil_div(std::max<uint64_t>(1, std::min(share, cache_rows)), kRowGranule) * kRowGranule;
    parts.push_back({job, a, chunk_rows, chunks});
    chunks += ceil_div(w.rows(), chunk_rows);
  }

  if (compute.observer) compute.observer->observe(jobs);

  std::vector<std::unique_ptr<float[]>> scratch(threads);
  compute.pool->parallel_for(chunks, 1, [&](size_t begin, size_t end, int thread) {
    for (size_t chunk = begin; chunk < end; ++chunk) {
      const auto after = std::upper_bound(parts.begin(), parts.end(), chunk,
                                          [](uint64_t c, const Part& part) { return c < part.first_chunk; });
      const Part& part = *(after - 1);
      const Weight& w = part.job.weight;
      const uint64_t r0 = (chunk - part.first_chunk) * part.chunk_rows,
                     r1 = std::min(r0 + part.chunk_rows, w.rows());
      if (w.hlwq)
        compute.kernels->linear.hlwq_rows(*w.hlwq, *part.activations, r0, r1, part.job.y, w.rows());
      else
        dense_rows(compute.kernels->vector, *w.dense, *part.job.input, r0, r1, part.job.y, scratch[thread]);
    }
  });
}

void weight_row(const Weight& weight, uint64_t r, float* out) {
  if (r >= weight.rows())
    throw Error(ErrorCode::kInvalidArgument, "row " + std::to_string(r) + " of a weight with " +
                                                 std::to_string(weight.rows()) + " rows was asked for");
  if (weight.dense) return decode_rows(*weight.dense, r, 1, out);
  const HlwqMatrix& m = *weight.hlwq;
  decode_row(m.format, *m.codebook, m.codes + r * m.format.row_bytes(m.cols),
             m.norms + r * m.format.row_blocks(m.cols), m.cols, out);
}

}  // namespace hlwq
