// The few dense products and factorisations that calibration needs, by OpenBLAS. Row-major floats.
#pragma once

#include <cstdint>

namespace hlwq {

/// Upper triangle of a [n, n] += X^T X for x [rows, n].
void add_gram(float* a, uint64_t n, const float* x, uint64_t rows, int threads);

/// The upper triangular R with A = R R^T, in place of a [n, n], whose upper triangle is read; below the
/// diagonal zeros. False, and a is lost, when A is not positive definite.
bool factor_upper(float* a, uint64_t n, int threads);

/// Products below run on the thread that calls them: once before a parallel loop of them.
void use_one_thread_per_product();

/// out [m, n] = e [m, k] b [k, n], on the calling thread; strides in floats.
void multiply(const float* e, uint64_t e_stride, const float* b, uint64_t b_stride, uint64_t m, uint64_t k,
              uint64_t n, float* out, uint64_t out_stride);

}  // namespace hlwq
