// The fast Walsh-Hadamard transform, orthonormal, Sylvester order: its own inverse.
#pragma once

#include <cstdint>

namespace hlwq {

/// In place on n = 2^k floats (2 <= n <= 512): x <- H x with H orthonormal.
void hadamard(float* x, int n);
void hadamard(double* x, int n);

/// The same without the factor 1/sqrt(n): x <- sqrt(n) H x, sums and differences only.
void hadamard_sums(float* x, int n);
void hadamard_sums(double* x, int n);

}  // namespace hlwq
