#include "quant/hadamard.h"

#include <cmath>

namespace hlwq {
namespace {

// Strides 1 and 2 together, on four neighbours in registers; the wider strides are plain vector loops.
template <typename T>
void narrow_strides(T* x, int n) {
  for (int i = 0; i < n; i += 4) {
    const T a = x[i] + x[i + 1], b = x[i] - x[i + 1];
    const T c = x[i + 2] + x[i + 3], d = x[i + 2] - x[i + 3];
    x[i] = a + c;
    x[i + 1] = b + d;
    x[i + 2] = a - c;
    x[i + 3] = b - d;
  }
}

// A constant stride lets the compiler unroll the inner loop into vectors.
template <int stride, typename T>
void wide_stride(T* x, int n) {
  for (int i = 0; i < n; i += 2 * stride)
    for (int j = i; j < i + stride; ++j) {
      const T a = x[j], b = x[j + stride];
      x[j] = a + b;
      x[j + stride] = a - b;
    }
}

template <typename T>
void sums(T* x, int n) {
  if (n == 2) {
    const T a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
    return;
  }
  narrow_strides(x, n);
  if (n >= 8) wide_stride<4>(x, n);
  if (n >= 16) wide_stride<8>(x, n);
  if (n >= 32) wide_stride<16>(x, n);
  if (n >= 64) wide_stride<32>(x, n);
  if (n >= 128) wide_stride<64>(x, n);
  if (n >= 256) wide_stride<128>(x, n);
  if (n >= 512) wide_stride<256>(x, n);
}

template <typename T>
void orthonormal(T* x, int n) {
  sums(x, n);
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(n)));
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

void hadamard_sums(float* x, int n) { sums(x, n); }
void hadamard_sums(double* x, int n) { sums(x, n); }
void hadamard(float* x, int n) { orthonormal(x, n); }
void hadamard(double* x, int n) { orthonormal(x, n); }

}  // namespace hlwq
