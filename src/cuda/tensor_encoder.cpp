#include "cuda/tensor_encoder.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/encode.h"

namespace hlwq::cuda {
namespace {

void select_device(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw Error(ErrorCode::kDevice, "there is no CUDA device to encode on (" +
                                        std::string(cudaGetErrorString(status)) + "); use --device cpu");
  }
  if (device < 0 || device >= count)
    throw Error(ErrorCode::kDevice, "there is no CUDA device " + std::to_string(device) +
                                        "; this machine has " +
                                        (count == 1 ? "device 0 only" : "0 to " + std::to_string(count - 1)));
  check(cudaSetDevice(device), "choosing the device");
}

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
  Stream(const Stream&) = delete;
  ~Stream() {
    cudaStreamSynchronize(stream_);  // what it still uses may go after it
    cudaStreamDestroy(stream_);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// How rows reach the GPU: as they are where it can read them, else as floats.
struct Upload {
  SourceType type = SourceType::kF32;
  bool as_stored = false;
};
Upload upload_of(const Tensor& t) {
  if (t.add != 0 || (t.rope_heads != 0 && t.shape.size() < 2)) return {};
  switch (t.dtype) {
    case DType::kBF16:
      return {SourceType::kBf16, true};
    case DType::kF16:
      return {SourceType::kF16, true};
    case DType::kF32:
      return {SourceType::kF32, true};
    default:
      return {};
  }
}

template <typename B>
void reserve(B& buffer, uint64_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return;
  buffer = B();
  buffer = B(bytes, what);
}

/// A slab on its way: read, encoded and fetched back on a stream of its own.
class Slab {
 public:
  bool busy() const { return busy_; }
  /// What is under way is given up.
  void cancel() {
    cudaStreamSynchronize(stream_);
    busy_ = false;
  }

  void submit(const EncodeTask& task, const EncodeTables& tables, uint64_t first, uint64_t rows,
              ThreadPool& pool) {
    const HlwqFormat& f = task.format;
    const uint64_t cols = task.tensor.cols();
    first_ = first, rows_ = rows;
    code_bytes_ = rows * f.row_bytes(cols);
    norm_bytes_ = rows * f.row_blocks(cols) * sizeof(uint16_t);
    const Upload upload = upload_of(task.tensor);
    const uint64_t bytes = rows * cols * source_bytes(upload.type);
    reserve(host_source_, bytes, "rows of weights");
    reserve(source_, bytes, "rows of weights");
    reserve(codes_, code_bytes_, "codes");
    reserve(norms_, norm_bytes_, "norms");
    reserve(stats_, rows * sizeof(CodecStats), "error sums");
    reserve(host_codes_, code_bytes_, "codes");
    reserve(host_norms_, norm_bytes_, "norms");
    reserve(host_stats_, rows * sizeof(CodecStats) + sizeof(uint64_t), "error sums");
    read(task.tensor, upload, pool);

    busy_ = true;
    workspace_.clear_bad_row(stream_);
    check(
        cudaMemcpyAsync(source_.as<void>(), host_source_.as<void>(), bytes, cudaMemcpyHostToDevice, stream_),
        "copying weights");
    encode_rows(tables,
                {source_.as<void>(), upload.type, rows, cols, first, codes_.as<uint8_t>(),
                 norms_.as<uint16_t>(), stats_.as<CodecStats>()},
                workspace_, stream_);
    fetch(host_codes_.as<void>(), codes_.as<void>(), code_bytes_);
    fetch(host_norms_.as<void>(), norms_.as<void>(), norm_bytes_);
    fetch(host_stats_.as<void>(), stats_.as<void>(), rows * sizeof(CodecStats));
    fetch(bad_row(), workspace_.device_bad_row(), sizeof(uint64_t));
  }

  /// Hands the slab to the task's owner.
  void finish(const EncodeTask& task, ThreadPool& pool) {
    busy_ = false;
    check(cudaStreamSynchronize(stream_), "encoding weights");
    if (*bad_row() != EncodeWorkspace::kNoRow) fail(task, *bad_row(), pool);
    CodecStats total;
    for (uint64_t r = 0; r < rows_; ++r) total += host_stats_.as<CodecStats>()[r];
    task.done(first_, rows_, host_codes_.as<uint8_t>(), host_norms_.as<uint16_t>(), total);
  }

 private:
  uint64_t* bad_row() const { return reinterpret_cast<uint64_t*>(host_stats_.as<CodecStats>() + rows_); }

  void fetch(void* to, const void* from, uint64_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "fetching codes");
  }

  void read(const Tensor& t, const Upload& upload, ThreadPool& pool) {
    const uint64_t cols = t.cols(), row = cols * source_bytes(upload.type);
    const uint64_t grain = std::clamp<uint64_t>(65536 / std::max<uint64_t>(cols, 1), 1, 1024);
    pool.parallel_for(rows_, grain, [&](size_t begin, size_t end, int) {
      uint8_t* to = host_source_.as<uint8_t>() + begin * row;
      if (!upload.as_stored)
        decode_rows(t, first_ + begin, end - begin, reinterpret_cast<float*>(to));
      else if (t.rope_heads == 0)
        std::memcpy(to, t.data.data() + (first_ + begin) * row, (end - begin) * row);
      else
        for (uint64_t r = begin; r < end; ++r, to += row)
          std::memcpy(to, t.data.data() + t.stored_row(first_ + r) * row, row);
    });
  }

  /// The CPU's encoder says what is wrong with the row, and where.
  [[noreturn]] static void fail(const EncodeTask& task, uint64_t row, ThreadPool& pool) {
    const Tensor& t = task.tensor;
    std::vector<float> w(t.cols());
    decode_rows(t, row, 1, w.data());
    std::vector<uint8_t> codes(task.format.row_bytes(t.cols()));
    std::vector<uint16_t> norms(task.format.row_blocks(t.cols()));
    hlwq::encode_rows(task.format, task.codebook, task.rule, w.data(), 1, t.cols(), t.name, row, pool,
                      codes.data(), norms.data());
    throw Error(ErrorCode::kDevice, "the GPU cannot encode row " + std::to_string(row) + " of " + t.name +
                                        ", which the CPU can: use --device cpu, and report this");
  }

  // The stream goes first, when all that it used is still there.
  PinnedBuffer host_source_, host_codes_, host_norms_, host_stats_;
  Buffer source_, codes_, norms_, stats_;
  EncodeWorkspace workspace_;
  Stream stream_;
  uint64_t first_ = 0, rows_ = 0, code_bytes_ = 0, norm_bytes_ = 0;
  bool busy_ = false;
};

class GpuTensorEncoder : public TensorEncoder {
 public:
  explicit GpuTensorEncoder(int device) : device_(device) {}

  void encode(const EncodeTask& task, ThreadPool& pool) override {
    check(cudaSetDevice(device_), "choosing the device");
    const EncodeTables tables(task.format, task.codebook, task.rule);
    try {
      run(task, tables, pool);
    } catch (...) {
      for (Slab& s : slabs_) s.cancel();  // before the tables go
      throw;
    }
  }

 private:
  void run(const EncodeTask& task, const EncodeTables& tables, ThreadPool& pool) {
    const uint64_t rows = task.tensor.rows();
    uint64_t turn = 0;
    for (uint64_t first = 0; first < rows; first += task.slab_rows, ++turn) {
      const uint64_t n = std::min(task.slab_rows, rows - first);
      Slab& slab = slabs_[turn % 2];
      if (slab.busy()) slab.finish(task, pool);
      task.reading(first + n);
      slab.submit(task, tables, first, n, pool);
    }
    for (uint64_t i = 0; i < 2; ++i)
      if (Slab& slab = slabs_[(turn + i) % 2]; slab.busy()) slab.finish(task, pool);
  }

  int device_;
  Slab slabs_[2];
};

}  // namespace

std::unique_ptr<TensorEncoder> make_tensor_encoder(int device) {
  select_device(device);
  return std::make_unique<GpuTensorEncoder>(device);
}

}  // namespace hlwq::cuda
