// What the GPU tests share: a fixture that skips, saying so, where there is no GPU, and copies to and from
// it.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "cuda/runtime.h"

namespace hlwq::cuda {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no CUDA device on this machine (" << cudaGetErrorString(status)
                   << "); run this program on one that has a GPU";
    }
    check(cudaStreamCreate(&stream_), "making a stream");
  }
  void TearDown() override {
    if (stream_) cudaStreamDestroy(stream_);
  }
  void wait() { check(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

  template <typename T>
  Buffer to_device(const std::vector<T>& host) {
    Buffer b(host.size() * sizeof(T), "test data");
    check(cudaMemcpy(b.as<T>(), host.data(), b.bytes(), cudaMemcpyHostToDevice), "copying to the GPU");
    return b;
  }
  template <typename T>
  std::vector<T> to_host(const Buffer& b) {
    wait();
    std::vector<T> host(b.bytes() / sizeof(T));
    check(cudaMemcpy(host.data(), b.as<T>(), b.bytes(), cudaMemcpyDeviceToHost), "copying from the GPU");
    return host;
  }

  cudaStream_t stream_ = nullptr;
};

}  // namespace hlwq::cuda
