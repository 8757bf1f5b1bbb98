#include "ops/kv_codec.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/half.h"
#include "hlwq/error.h"
#include "quant/hadamard.h"

namespace hlwq {
namespace {

constexpr uint64_t kMaxDim = 512;
constexpr float kMaxHalf = 65504;  // the largest finite FP16

/// How many of the first N thresholds each |u| passes. A fixed count lets the compiler use vectors.
template <int N>
void magnitudes(const float* u, uint64_t n, const float* thresholds, uint8_t* out) {
  for (uint64_t i = 0; i < n; ++i) {
    const float a = std::fabs(u[i]);
    int m = 0;
    for (int k = 0; k < N; ++k) m += a > thresholds[k];
    out[i] = static_cast<uint8_t>(m);
  }
}

}  // namespace

bool KvCodec::fits(uint64_t head_dim) {
  return head_dim >= 32 && head_dim <= kMaxDim && (head_dim & (head_dim - 1)) == 0;
}

KvCodec::KvCodec(int bits, uint64_t head_dim) {
  if (bits < 2 || (bits > 4 && bits != 8) || !fits(head_dim))
    throw Error(
        ErrorCode::kInvalidArgument,
        "a key/value cache has codes of 2, 3, 4 or 8 bits for head sizes of 32, 64, 128, 256 or 512; got " +
            std::to_string(bits) + " bits for " + std::to_string(head_dim));
  format_ = {bits, 1, static_cast<int>(head_dim)};
  codebook_ = lloyd_max_codebook(bits);
  tables_ = make_lookup_tables(codebook_);
  for (size_t m = 0; m + 1 < size_t{1} << (bits - 1); ++m)
    thresholds_.push_back(0.5f * (codebook_.values[m] + codebook_.values[m + 1]));
}

void KvCodec::encode(const float* x, float* rotated, uint8_t* codes, uint16_t* norm) const {
  const auto d = static_cast<uint64_t>(format_.block);
  std::copy_n(x, d, rotated);
  hadamard(rotated, format_.block);
  float squares[8] = {};
  for (uint64_t i = 0; i < d; i += 8)
    for (uint64_t j = 0; j < 8; ++j) squares[j] += rotated[i + j] * rotated[i + j];
  float sum = 0;
  for (float s : squares) sum += s;
  const float length = std::sqrt(sum);
  if (!(length > 0) || !std::isfinite(length)) {
    std::fill_n(codes, row_bytes(), uint8_t{0});
    *norm = float_to_fp16(length > 0 || std::isnan(length) ? std::nanf("") : 0.0f);
    return;
  }
  const float scale = std::sqrt(static_cast<float>(d)) / length;
  float u[kMaxDim];
  for (uint64_t i = 0; i < d; ++i) u[i] = rotated[i] * scale;
  uint8_t stored[kMaxDim];
  const float* thresholds = thresholds_.data();
  switch (format_.bits) {
    case 2:
      magnitudes<1>(u, d, thresholds, stored);
      break;
    case 3:
      magnitudes<3>(u, d, thresholds, stored);
      break;
    case 4:
      magnitudes<7>(u, d, thresholds, stored);
      break;
    default:
      for (uint64_t i = 0; i < d; ++i)
        stored[i] = static_cast<uint8_t>(
            std::lower_bound(thresholds_.begin(), thresholds_.end(), std::fabs(u[i])) - thresholds_.begin());
  }
  // The least-squares scale for these codes: |x| <u, c> / <c, c>.
  float uc = 0, cc = 0;
  for (uint64_t i = 0; i < d; ++i) {
    const float c = codebook_.values[stored[i]];
    uc += std::fabs(u[i]) * c;
    cc += c * c;
  }
  const auto sign = static_cast<uint8_t>(1 << (format_.bits - 1));
  for (uint64_t i = 0; i < d; ++i) stored[i] = static_cast<uint8_t>(stored[i] | (u[i] < 0 ? sign : 0));
  pack_block(format_, stored, codes);
  *norm = float_to_fp16(std::min(length * uc / cc, kMaxHalf));
}

HlwqMatrix KvCodec::matrix(const uint8_t* codes, const uint16_t* norms, uint64_t rows) const {
  return {format_, rows, static_cast<uint64_t>(format_.block), codes, norms, &tables_, &codebook_};
}

}  // namespace hlwq
