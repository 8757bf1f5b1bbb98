// Tensor core products and asynchronous copies of the attention kernels, and HLWQ codes as their FP16
// operands.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace hlwq::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

/// c += a b, [16, 16] x [16, 8].
__device__ inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 bytes to shared memory; zeros unless `valid`.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif

/// Bytes picked from x (0 to 3) and y (4 to 7) by the nibbles of `select`; its top bits repeat a byte's sign
/// bit, which __byte_perm does not promise.
__device__ inline uint32_t permute(uint32_t x, uint32_t y, uint32_t select) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(select));
  return r;
}

__device__ inline uint32_t pack_f16(float lo, float hi) {
  const __half2 h = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&h);
}
__device__ inline uint32_t pack_bf16(float lo, float hi) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&h);
}

/// Magnitudes (4 bits: 8 of them; 3: 4) or levels (2 bits: 4) of a codebook as FP16, high and low bytes
/// apart, so that one byte permutation looks up four of them.
struct CodeTable {
  uint32_t high[2], low[2];
};

/// Eight stored codes of 4 bits: h[i] = the levels of codes 2i and 2i + 1.
__device__ inline void decode4(uint32_t w, const CodeTable& t, uint32_t (&h)[4]) {
  const uint32_t m = w & 0x77777777u;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t select = i ? m >> 16 : m, signs = i ? w >> 16 : w;
    uint32_t high = permute(t.high[0], t.high[1], select);
    const uint32_t low = permute(t.low[0], t.low[1], select);
    // The top bit of a selector repeats the byte's sign bit: 0xff for negative codes, else 0x80.
    const uint32_t negative = permute(0x80808080u, 0x80808080u, signs);
    high |= (negative << 1) & 0x80808080u;
    h[2 * i] = permute(low, high, 0x5140);
    h[2 * i + 1] = permute(low, high, 0x7362);
  }
}

/// Four codes of 2 bits, one in each byte from bit `shift` on, without signs.
__device__ inline void decode2(uint32_t w, int shift, const CodeTable& t, uint32_t& h01, uint32_t& h23) {
  const uint32_t select = ((w >> shift) & 0x03030303u) * 17 + 0x04040404u;
  h01 = permute(t.high[0], t.low[0], select);
  h23 = permute(t.high[0], t.low[0], select >> 16);
}

}  // namespace hlwq::cuda
