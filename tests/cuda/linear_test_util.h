// Quantised matrices and activations of the CPU's tests, in GPU memory.
#pragma once

#include "../ops/ops_test_util.h"
#include "cuda/linear.h"
#include "gpu_test_util.h"

namespace hlwq::cuda {

// Where coordinate i of a block lies in pair order.
inline uint64_t pair_place(uint64_t i, uint64_t block) {
  const uint64_t granule = std::min<uint64_t>(block, 128), j = i % granule;
  return i - j + (j < granule / 2 ? 2 * j : 2 * (j - granule / 2) + 1);
}

class HlwqGpuTest : public GpuTest {
 protected:
  // The CPU's activations in the GPU's order.
  DeviceActivations upload(const QuantizedActivations& a, Buffer& memory) {
    memory = Buffer(DeviceActivations::bytes(a.tokens, a.cols, a.block), "activations");
    const DeviceActivations x = DeviceActivations::place(memory.as<void>(), a.tokens, a.cols, a.block);
    const uint64_t n = a.tokens * a.blocks * static_cast<uint64_t>(a.block);
    for (int lag = 0; lag < 3; ++lag) {
      const int8_t* from = lag ? a.turned[lag - 1].data() : a.q.data();
      std::vector<int8_t> q(n);
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t in_block = i % static_cast<uint64_t>(a.block);
        q[i - in_block + pair_place(in_block, static_cast<uint64_t>(a.block))] = from[i];
      }
      check(cudaMemcpy(x.q[lag], q.data(), n, cudaMemcpyHostToDevice), "copying");
    }
    std::vector<float2> scale_sum(a.tokens * a.blocks);
    for (size_t i = 0; i < scale_sum.size(); ++i) scale_sum[i] = {a.scale[i], static_cast<float>(a.sum[i])};
    check(
        cudaMemcpy(x.scale_sum, scale_sum.data(), scale_sum.size() * sizeof(float2), cudaMemcpyHostToDevice),
        "copying");
    return x;
  }

  struct OnDevice {
    Buffer codes, norms;
    DeviceMatrix matrix;
  };
  OnDevice upload(const test::OwnedMatrix& m) {
    OnDevice d{to_device(m.codes), to_device(m.norms), {}};
    d.matrix = {m.matrix.format,        m.matrix.rows, m.matrix.cols, d.codes.as<uint8_t>(),
                d.norms.as<uint16_t>(), &m.tables,     &m.codebook};
    return d;
  }
};

}  // namespace hlwq::cuda
