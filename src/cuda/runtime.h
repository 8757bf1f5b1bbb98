// The CUDA runtime as the backend uses it: checked calls, owned memory, one stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

#include "hlwq/error.h"

namespace hlwq::cuda {

/// Throws Error(kOutOfMemory | kDevice) that names `what` and the runtime's own words; returns on success.
void check(cudaError_t status, const char* what);
/// After a launch: its configuration errors. What fails inside a kernel shows at the next synchronisation.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

/// Device memory, owned. Moves, never copies.
class Buffer {
 public:
  Buffer() = default;
  /// Throws Error(kOutOfMemory) with the bytes that `what` needed.
  Buffer(uint64_t bytes, const std::string& what);
  Buffer(Buffer&& o) noexcept : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~Buffer();

  uint64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Page-locked host memory, owned: copies from it overlap with kernels.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(uint64_t bytes, const std::string& what);
  PinnedBuffer(PinnedBuffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~PinnedBuffer();

  uint64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace hlwq::cuda
