#include "quant/linear_algebra.h"

#include <cblas.h>

#include <algorithm>
#include <string>

#include "hlwq/error.h"

// Fortran's name of LAPACK's Cholesky factorisation; Debian's OpenBLAS has no C header for it.
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info,
                        size_t uplo_length);

namespace hlwq {
namespace {

int narrow(uint64_t n) {
  if (n > 1u << 24)
    throw Error(ErrorCode::kUnsupported,
                "a matrix of " + std::to_string(n) + " rows is too large to calibrate");
  return static_cast<int>(n);
}

}  // namespace

void add_gram(float* a, uint64_t n, const float* x, uint64_t rows, int threads) {
  if (rows == 0) return;
  openblas_set_num_threads(threads);
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, narrow(n), narrow(rows), 1, x, narrow(n), 1, a,
              narrow(n));
}

bool factor_upper(float* a, uint64_t n, int threads) {
  // Reversing the order of rows and columns, which is reversing the buffer, turns this into the usual
  // factorisation: for B = P A P = L L^T, R = P L P. LAPACK counts by columns: its upper triangle is our
  // lower.
  // In panels of our own, since the library's rounds differently on one thread and on many; its products and
  // solves do not.
  constexpr uint64_t kPanel = 128;
  std::reverse(a, a + n * n);
  const int stride = narrow(n);
  for (uint64_t k = 0; k < n; k += kPanel) {
    const int width = narrow(std::min(kPanel, n - k)), below = stride - narrow(k) - width;
    float* corner = a + k * n + k;
    int info = 0;
    openblas_set_num_threads(1);
    spotrf_("U", &width, corner, &stride, &info, 1);
    if (info != 0) return false;
    if (below == 0) break;
    float* panel = corner + kPanel * n;
    openblas_set_num_threads(threads);
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, below, width, 1, corner,
                stride, panel, stride);
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, below, width, -1, panel, stride, 1, panel + kPanel,
                stride);
  }
  std::reverse(a, a + n * n);
  for (uint64_t i = 1; i < n; ++i) std::fill_n(a + i * n, i, 0.0f);
  return true;
}

void use_one_thread_per_product() { openblas_set_num_threads(1); }

void multiply(const float* e, uint64_t e_stride, const float* b, uint64_t b_stride, uint64_t m, uint64_t k,
              uint64_t n, float* out, uint64_t out_stride) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(m), narrow(n), narrow(k), 1, e,
              narrow(e_stride), b, narrow(b_stride), 0, out, narrow(out_stride));
}

}  // namespace hlwq
