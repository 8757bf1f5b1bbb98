// Linears of a mixture of experts: a few tokens of each of many matrices in one launch.
#include "cuda/linear_batch.cuh"

namespace hlwq::cuda {

void launch_grouped(LinearCall& call, int bits, int lags, const LinearGroups& groups, uint64_t max_tiles,
                    uint64_t tile_tokens, cudaStream_t stream) {
  const dim3 grid(call.set_groups(kBatchRows), static_cast<unsigned>(max_tiles));
  dispatch_format(bits, lags, [&]<int kBits, int kLags>() {
    if (tile_tokens <= 8)
      batch_kernel<kBits, kLags, 1, true><<<grid, kBatchThreads, 0, stream>>>(call, 0, groups);
    else
      batch_kernel<kBits, kLags, 4, true><<<grid, kBatchThreads, 0, stream>>>(call, 0, groups);
  });
  check_launch("the linears of experts");
}

}  // namespace hlwq::cuda
