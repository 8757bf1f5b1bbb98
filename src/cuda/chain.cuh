// Kernels that follow each other closely: a successor is set up, and does what needs no result, while its
// predecessor still runs (programmatic dependent launch; from compute capability 9.0 on).
//
// A kernel started by launch_chained() calls wait_for_previous_kernel() in every thread before it reads what
// an earlier kernel wrote, or writes what an earlier one reads. What it reads so must not be loaded with
// __ldg(): that promises data which no kernel changes meanwhile, and may move before the wait.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "cuda/runtime.h"

namespace hlwq::cuda {

/// Until all work before this kernel in its stream is done and visible.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next chained kernel be set up as soon as every block of this one has come here. It is about
/// multiprocessors only; results are waited for all the same.
__device__ __forceinline__ void start_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...), chained where the device can.
template <typename... Parameters, typename... Arguments>
void launch_chained(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared_bytes,
                    cudaStream_t stream, Arguments&&... arguments) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the device");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute chained{};
  chained.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  chained.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &chained;
  config.numAttrs = major >= 9 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...),
        "starting a kernel");
}

}  // namespace hlwq::cuda
