// A few tokens (2 to 32).
#include "cuda/linear_batch.cuh"

namespace hlwq::cuda {

void launch_batch(LinearCall& call, int bits, int lags, uint64_t tokens, cudaStream_t stream) {
  const uint32_t groups = call.set_groups(kBatchRows);
  dispatch_format(bits, lags, [&]<int kBits, int kLags>() {
    const auto n = static_cast<uint32_t>(tokens);
    if (tokens <= 8)
      batch_kernel<kBits, kLags, 1, false><<<groups, kBatchThreads, 0, stream>>>(call, n, {});
    else if (tokens <= 16)
      batch_kernel<kBits, kLags, 2, false><<<groups, kBatchThreads, 0, stream>>>(call, n, {});
    else
      batch_kernel<kBits, kLags, 4, false><<<groups, kBatchThreads, 0, stream>>>(call, n, {});
  });
  check_launch("the linear of a few tokens");
}

}  // namespace hlwq::cuda
