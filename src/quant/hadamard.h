// The fast Walsh-Hadamard transform, orthonormal, Sylvester order: its own inverse.
#pragma once

#include <cstdint>

namespace hlwq {

/// In place on n = 2^k floats (2 <= n <= 512): x <- H x with H orthonormal.
void hadamard(float* x, int n);
void hadamard(double* x, int n);

}  // namespace hlwq
