// What the codec tests share: goldens, seeded Gaussians, and a scalar double-precision encoder.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numbers>
#include <string>
#include <vector>

#include "io/tensor_source.h"
#include "quant/codebook.h"
#include "quant/codec.h"

namespace hlwq {

inline std::filesystem::path quant_golden(const std::string& name) {
  return std::filesystem::path(HLWQ_TEST_DATA) / "golden" / "quant" / name;
}

template <typename T>
std::vector<T> values(const Tensor& t) {
  std::vector<T> v(t.data.size() / sizeof(T));
  std::memcpy(v.data(), t.data.data(), v.size() * sizeof(T));
  return v;
}

/// SplitMix64 and Box-Muller: the same numbers on every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); }

 private:
  uint64_t state_;
};

inline std::vector<float> gaussian(uint64_t n, uint64_t seed, double sigma = 0.02) {
  Random random(seed);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(sigma * random.normal());
  return v;
}

struct Encoded {
  HlwqFormat format;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> norms;
  CodecStats stats;
};

inline Encoded encode(const HlwqFormat& format, const Codebook& codebook, NormRule rule,
                      const std::vector<float>& w, uint64_t rows, uint64_t cols, ThreadPool& pool) {
  Encoded e;
  e.format = format;
  e.codes.resize(rows * format.row_bytes(cols));
  e.norms.resize(rows * format.row_blocks(cols));
  e.stats =
      encode_rows(format, codebook, rule, w.data(), rows, cols, "w", 0, pool, e.codes.data(), e.norms.data());
  return e;
}

inline std::vector<float> decode(const Encoded& e, const Codebook& codebook, uint64_t rows, uint64_t cols) {
  std::vector<float> w(rows * cols);
  for (uint64_t r = 0; r < rows; ++r)
    decode_row(e.format, codebook, e.codes.data() + r * e.format.row_bytes(cols),
               e.norms.data() + r * e.format.row_blocks(cols), cols, w.data() + r * cols);
  return w;
}

}  // namespace hlwq
