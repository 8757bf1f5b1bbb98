// Random quantised matrices and a double-precision reference, built from the documented layout and decode_row
// alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/half.h"
#include "ops/kernels.h"
#include "ops/linear.h"
#include "quant/codebook.h"
#include "quant/codec.h"
#include "quant/layout.h"

namespace hlwq::test {

/// An odd codebook of any (bits, lags). Lag 0 is Lloyd-Max; further lags are smaller and of both signs. Where
/// there is a trained table, that.
inline Codebook make_codebook(int bits, int lags) {
  if (has_standard_codebook(bits, lags)) return standard_codebook(bits, lags);
  Codebook codebook = lloyd_max_codebook(bits);
  codebook.lags = lags;
  const size_t half = size_t{1} << (bits - 1);
  std::mt19937 rng(17);
  std::normal_distribution<float> gauss(0, 0.3f);
  for (int lag = 1; lag < lags; ++lag) {
    std::vector<float> table(2 * half);
    for (size_t m = 0; m < half; ++m) table[m] = gauss(rng), table[m + half] = -table[m];
    codebook.values.insert(codebook.values.end(), table.begin(), table.end());
  }
  return codebook;
}

/// A matrix that owns its codes, norms, codebook and tables.
struct OwnedMatrix {
  Codebook codebook;
  LookupTables tables;
  std::vector<uint8_t> stored;  // [rows, padded cols], one code a byte
  std::vector<uint8_t> codes;
  std::vector<uint16_t> norms;
  HlwqMatrix matrix;

  OwnedMatrix(HlwqFormat format, uint64_t rows, uint64_t cols, uint32_t seed)
      : codebook(make_codebook(format.bits, format.lags)), tables(make_lookup_tables(codebook)) {
    const uint64_t blocks = format.row_blocks(cols), padded = blocks * format.block;
    std::mt19937 rng(seed);
    std::uniform_int_distribution<int> code(0, format.levels() - 1);
    std::uniform_real_distribution<float> norm(0.25f, 2.0f);
    stored.resize(rows * padded);
    norms.resize(rows * blocks);
    for (auto& c : stored) c = static_cast<uint8_t>(code(rng));
    for (auto& n : norms) n = float_to_fp16(norm(rng));
    matrix = {format, rows, cols, nullptr, nullptr, nullptr, nullptr};
    pack();
  }
  OwnedMatrix(const OwnedMatrix&) = delete;

  /// Packs `stored` anew, after a test changed it.
  void pack() {
    const HlwqFormat& format = matrix.format;
    const uint64_t padded = format.row_blocks(matrix.cols) * format.block;
    codes.assign(matrix.rows * format.row_bytes(matrix.cols), 0);
    for (uint64_t b = 0; b < matrix.rows * padded / format.block; ++b)
      pack_block(format, &stored[b * format.block], &codes[b * format.block_bytes()]);
    matrix.codes = codes.data();
    matrix.norms = norms.data();
    matrix.tables = &tables;
    matrix.codebook = &codebook;
  }
};

inline std::vector<float> gaussian(uint64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> gauss;
  std::vector<float> x(n);
  for (auto& v : x) v = gauss(rng);
  return x;
}

inline QuantizedActivations quantize(const Kernels& kernels, const std::vector<float>& x, uint64_t tokens,
                                     uint64_t cols, int block) {
  QuantizedActivations a;
  a.resize(tokens, cols, block);
  for (uint64_t t = 0; t < tokens; ++t)
    kernels.linear.rotate_quantize(&x[t * cols], cols, block, &a.q[t * a.blocks * block],
                                   &a.scale[t * a.blocks], &a.sum[t * a.blocks]);
  a.add_turns(3);
  return a;
}

/// The exact value of one output for the integer tables, and the error that float rounding may add to it.
///
/// The integers of a block are exact. Rounded in float32 (relative 2^-24 each): the conversion of the sums,
/// the product of norm, scale and step (3), and one addition per block and per partial sum (at most blocks +
/// 16), each no larger than the sum of the absolute terms. Kernels that add 128 to hi and lo carry 129 |q|
/// along.
struct Exact {
  double value, tolerance;
  double terms = 0;  ///< sum of the absolute values of all products
};
inline Exact exact_output(const OwnedMatrix& m, const QuantizedActivations& a, uint64_t row, uint64_t token) {
  const HlwqFormat& f = m.matrix.format;
  const LookupTables& tables = m.tables;
  Exact e{0, 0};
  double terms = 0;
  for (uint64_t b = 0; b < a.blocks; ++b) {
    const uint8_t* codes = &m.stored[(row * a.blocks + b) * f.block];
    const int8_t* q = &a.q[(token * a.blocks + b) * f.block];
    const double scale = static_cast<double>(fp16_to_float(m.norms[row * a.blocks + b])) *
                         a.scale[token * a.blocks + b] * tables.step;
    for (int lag = 0; lag < f.lags; ++lag)
      for (int i = 0; i < f.block; ++i) {
        const int8_t x = q[(i + lag) % f.block];
        const double value = tables.hi[lag][codes[i]] + tables.lo[lag][codes[i]] / 128.0 + tables.offset;
        e.value += scale * value * x;
        terms += std::fabs(scale * x) * (std::fabs(value) + 129);
        e.terms += std::fabs(scale * x * value);
      }
  }
  e.tolerance = terms * (static_cast<double>(a.blocks) + 24) * 0x1p-24;
  return e;
}

/// Implementations to test: those this processor runs. Says on stdout, once, which are left out and why.
inline std::vector<const Kernels*> runnable_kernels() {
  static bool said = false;
  std::vector<const Kernels*> list;
  for (const Kernels* kernels : all_kernels()) {
    if (runs_on(*kernels, detect_cpu()))
      list.push_back(kernels);
    else if (!said)
      std::cout << "[ not run  ] " << kernels->name << " kernels: this processor lacks their instructions\n";
  }
  said = true;
  return list;
}

}  // namespace hlwq::test
