#include "cuda/runtime.h"

#include <string>

namespace hlwq::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string words = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation)
    throw Error(ErrorCode::kOutOfMemory, std::string(what) + ": the GPU has no memory left (" + words + ")");
  throw Error(ErrorCode::kDevice, std::string("the GPU failed at ") + what + ": " + words);
}

namespace {

std::string no_memory(uint64_t bytes, const std::string& what, const char* where) {
  return "no " + std::string(where) + " memory for " + what + " of " + std::to_string(bytes) +
         " bytes; use a shorter context, fewer bits, or fewer layers on the GPU (--gpu-layers)";
}

}  // namespace

Buffer::Buffer(uint64_t bytes, const std::string& what) {
  if (bytes == 0) return;
  if (cudaMalloc(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();  // out of memory is no lasting error of the context: clear it
    data_ = nullptr;
    throw Error(ErrorCode::kOutOfMemory, no_memory(bytes, what, "GPU"));
  }
  bytes_ = bytes;
}

Buffer::~Buffer() { cudaFree(data_); }

PinnedBuffer::PinnedBuffer(uint64_t bytes, const std::string& what) {
  if (bytes == 0) return;
  if (cudaMallocHost(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();
    data_ = nullptr;
    throw Error(ErrorCode::kOutOfMemory, no_memory(bytes, what, "page-locked"));
  }
  bytes_ = bytes;
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

}  // namespace hlwq::cuda
