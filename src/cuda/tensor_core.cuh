// Products of the integer tensor cores.
#pragma once

#include <cstdint>

namespace hlwq::cuda {

/// c [16, 8] += a [16, 32] b [32, 8] in INT8, as mma.m16n8k32 lays its operands out over a warp: lane i holds
/// of rows i / 4 (a0, a2) and i / 4 + 8 (a1, a3) the bytes 4 (i % 4) .. + 3 of the first and the second 16,
/// of column i / 4 of b the same bytes (b0, b1), and of c columns 2 (i % 4) and + 1 of both rows. sm_75 has
/// products of half the depth.
__device__ __forceinline__ void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  const auto half = [](int& x, int& y, uint32_t a, uint32_t b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(x), "+r"(y)
                 : "r"(a), "r"(b));
  };
  half(c[0], c[1], a0, b0);
  half(c[0], c[1], a2, b1);
  half(c[2], c[3], a1, b0);
  half(c[2], c[3], a3, b1);
#endif
}

}  // namespace hlwq::cuda
