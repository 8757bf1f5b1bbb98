#include "quant/codec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "base/half.h"
#include "hlwq/error.h"
#include "quant/hadamard.h"
#include "quant/trellis.h"

namespace hlwq {
namespace {

constexpr int kMaxBlock = 512;
constexpr size_t kMaxCells = 8192;

/// Nearest magnitude without a search: |u| falls in a cell that holds at most one threshold.
class MagnitudeTable {
 public:
  explicit MagnitudeTable(const Codebook& codebook) : half_(1 << (codebook.bits - 1)) {
    const std::vector<double> threshold = magnitude_thresholds(codebook);
    for (size_t cells = 256; cells <= kMaxCells; cells *= 2)
      if (build(threshold, cells)) return;
    throw Error(ErrorCode::kInvalidArgument,
                "the codebook's magnitudes lie too close together to encode with");
  }

  /// The stored code of u.
  uint8_t code(float u) const {
    const float a = std::fabs(u);
    const Cell& cell = cells_[static_cast<size_t>(std::min(a * per_unit_, last_))];
    const int magnitude = cell.below + (a > cell.threshold);
    return static_cast<uint8_t>(u < 0 ? half_ | magnitude : magnitude);
  }

 private:
  struct Cell {
    float threshold;
    int below;  // magnitude under the threshold
  };

  // A float product may land one cell beside the exact one when a lies on a cell's edge, hence the margin:
  // thresholds of a cell count from a little before it to a little after it, and beyond the margin the cell's
  // answer is constant.
  bool build(const std::vector<double>& threshold, size_t cells) {
    const double span = threshold.back() * 1.01, width = span / static_cast<double>(cells - 1);
    constexpr double kMargin =
        1e-3;  // of a cell: 2^16 cells * 2^-23 is under 1e-2 only at the far end; 4096 suffice
    cells_.assign(cells, {});
    size_t next = 0;
    for (size_t i = 0; i < cells; ++i) {
      const double begin = (static_cast<double>(i) - kMargin) * width;
      const double end = (static_cast<double>(i + 1) + kMargin) * width;
      while (next < threshold.size() && threshold[next] < begin) ++next;
      if (next + 1 < threshold.size() && threshold[next + 1] < end) return false;
      const bool holds = next < threshold.size() && threshold[next] < end;
      cells_[i] = {holds ? static_cast<float>(threshold[next]) : INFINITY, static_cast<int>(next)};
    }
    per_unit_ = static_cast<float>(1 / width);
    last_ = static_cast<float>(cells - 1);
    return true;
  }

  int half_;
  float per_unit_ = 0, last_ = 0;
  std::vector<Cell> cells_;
};

/// Sums over a block in eight lanes each, which the compiler keeps in vectors.
struct BlockSums {
  double uc = 0, cc = 0;
};
BlockSums block_sums(const float* u, const float* c, int n) {
  float uc[8] = {}, cc[8] = {};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; ++j) {
      uc[j] += u[i + j] * c[i + j];
      cc[j] += c[i + j] * c[i + j];
    }
  BlockSums s;
  for (int j = 0; j < 8; ++j) s.uc += uc[j], s.cc += cc[j];
  return s;
}

double sum_squares(const float* x, uint64_t n) {
  double lanes[4] = {};
  uint64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; ++j) {
      const double v = x[i + j];
      lanes[j] += v * v;
    }
  for (; i < n; ++i) lanes[0] += static_cast<double>(x[i]) * x[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

/// Sum of (u - ratio * c)^2.
double residual(const float* u, const float* c, float ratio, int n) {
  float lanes[8] = {};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; ++j) {
      const float d = u[i + j] - ratio * c[i + j];
      lanes[j] += d * d;
    }
  double s = 0;
  for (const float l : lanes) s += l;
  return s;
}

/// One block of a matrix on its way to codes.
struct Source {
  const float* w;
  uint64_t count, row, col;  ///< values of the matrix, and where they begin in it
  double square, norm;       ///< norm 0 where nothing is left to code
};

class RowEncoder {
 public:
  RowEncoder(const HlwqFormat& format, const Codebook& codebook, NormRule rule, const std::string& name)
      : format_(format), codebook_(codebook), rule_(rule), name_(name) {
    if (codebook.lags == 1)
      nearest_.emplace(codebook);
    else
      trellis_.emplace(codebook, detect_cpu());
  }

  /// Rows that are worth a thread's while; with a trellis, whose blocks fill its vectors as well.
  uint64_t grain(uint64_t cols) const {
    const uint64_t plain = std::clamp<uint64_t>(16384 / std::max<uint64_t>(cols, 1), 1, 64);
    if (!trellis_ || cols == 0) return plain;
    const auto width = static_cast<uint64_t>(trellis_->width());
    const uint64_t full = width / std::gcd(width, format_.row_blocks(cols));
    return ceil_div(plain, full) * full;
  }

  /// Rows [begin, end) of w; stats [rows of w], codes and norms of all rows.
  void encode(const float* w, uint64_t cols, uint64_t begin, uint64_t end, uint64_t first_row,
              TrellisScratch& scratch, CodecStats* stats, uint8_t* codes, uint16_t* norms) const {
    const uint64_t row_blocks = format_.row_blocks(cols), tile = trellis_ ? trellis_->width() : 1;
    const auto block = static_cast<uint64_t>(format_.block);
    std::vector<float> u(tile * block);
    std::vector<uint8_t> q(tile * block);
    std::vector<Source> sources(tile);
    for (uint64_t b0 = begin * row_blocks; b0 < end * row_blocks; b0 += tile) {
      const uint64_t count = std::min(tile, end * row_blocks - b0);
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t row = (b0 + i) / row_blocks, col = (b0 + i) % row_blocks * block;
        sources[i] =
            rotate(w + row * cols + col, std::min(block, cols - col), first_row + row, col, &u[i * block]);
      }
      if (nearest_)
        for (uint64_t i = 0; i < block; ++i) q[i] = nearest_->code(u[i]);
      else
        trellis_->encode(u.data(), format_.block, count, kTrellisTries, scratch, q.data());
      for (uint64_t i = 0; i < count; ++i)
        norms[b0 + i] = finish(sources[i], &u[i * block], &q[i * block],
                               codes + (b0 + i) * format_.block_bytes(), stats[(b0 + i) / row_blocks]);
    }
  }

 private:
  /// u [block]: the block rotated, of unit variance.
  Source rotate(const float* w, uint64_t count, uint64_t row, uint64_t col, float* u) const {
    const int block = format_.block;
    const double square = sum_squares(w, count);
    if (!std::isfinite(square)) fail_not_finite(w, count, row, col);
    const double norm = std::sqrt(square);
    // Far below FP16's least positive value, where 1 / norm may not be a float any more.
    if (norm < 1e-12) {
      std::fill_n(u, block, 0.0f);
      return {w, count, row, col, square, 0};
    }
    std::memcpy(u, w, count * sizeof(float));
    std::fill(u + count, u + block, 0.0f);
    hadamard_sums(u, block);
    const float inverse = static_cast<float>(1 / norm);
    for (int i = 0; i < block; ++i) u[i] *= inverse;
    return {w, count, row, col, square, norm};
  }

  /// Packs the codes q of u; the stored norm.
  uint16_t finish(const Source& s, const float* u, const uint8_t* q, uint8_t* codes,
                  CodecStats& stats) const {
    alignas(64) float c[kMaxBlock];
    const int block = format_.block;
    stats.source_sq += s.square;
    if (s.norm == 0) return zero_block(s.square, codes, stats);
    codebook_values(codebook_, q, block, c);
    const BlockSums sums = block_sums(u, c, block);
    const double scale = rule_ == NormRule::kCorrected ? s.norm * sums.uc / sums.cc : s.norm;
    const uint16_t stored = float_to_fp16(static_cast<float>(scale));
    if (stored >= 0x7c00) fail_too_large(scale, s.row, s.col);
    if (stored == 0) return zero_block(s.square, codes, stats);
    pack_block(format_, q, codes);

    if (s.count < static_cast<uint64_t>(block)) {
      padded_stats(s.w, s.count, stored, c, stats);
      return stored;
    }
    // H keeps lengths, so the error is measured where u and c are: w = norm/sqrt(B) H u, w' = decoded/sqrt(B)
    // H c.
    const double decoded = fp16_to_float(stored);
    stats.error_sq += s.square / block * residual(u, c, static_cast<float>(decoded / s.norm), block);
    stats.dot += s.norm * decoded / block * sums.uc;
    stats.decoded_sq += decoded * decoded / block * sums.cc;
    return stored;
  }

  uint16_t zero_block(double source, uint8_t* codes, CodecStats& stats) const {
    std::memset(codes, 0, format_.block_bytes());
    stats.error_sq += source;
    return 0;
  }

  // What a partly padded block decodes to beyond the matrix is dropped, so only its real columns count.
  void padded_stats(const float* w, uint64_t count, uint16_t stored, float* c, CodecStats& stats) const {
    hadamard_sums(c, format_.block);
    const double scale = static_cast<double>(fp16_to_float(stored)) / format_.block;
    CodecStats s;
    for (uint64_t i = 0; i < count; ++i) {
      const double v = scale * c[i], d = w[i] - v;
      s.error_sq += d * d;
      s.dot += w[i] * v;
      s.decoded_sq += v * v;
    }
    stats += s;
  }

  std::string place(uint64_t row, uint64_t col) const {
    return name_ + " [" + std::to_string(row) + ", " + std::to_string(col) + "]";
  }
  // Squares are summed in double, where no finite float overflows: an infinite or NaN sum has a culprit.
  [[noreturn]] void fail_not_finite(const float* w, uint64_t count, uint64_t row, uint64_t col) const {
    uint64_t i = 0;
    while (i + 1 < count && std::isfinite(w[i])) ++i;
    throw Error(ErrorCode::kInvalidArgument,
                place(row, col + i) + " is " + (std::isnan(w[i]) ? "NaN" : "infinite") +
                    ": the source weights are damaged, or not float weights at all");
  }
  [[noreturn]] void fail_too_large(double scale, uint64_t row, uint64_t col) const {
    throw Error(ErrorCode::kInvalidArgument,
                "the block of " + place(row, col) + " has norm " + std::to_string(scale) +
                    ", over FP16's 65504: keep this tensor unquantised (a policy file with \"bits\": null)");
  }

  const HlwqFormat& format_;
  const Codebook& codebook_;
  NormRule rule_;
  const std::string& name_;
  std::optional<MagnitudeTable> nearest_;  // lags 1
  std::optional<TrellisEncoder> trellis_;  // more
};

}  // namespace

void check_codec(const HlwqFormat& format, const Codebook& codebook) {
  if (!valid(format))
    throw Error(ErrorCode::kInvalidArgument,
                "HLWQ needs 2 to 8 bits and a block of 32, 64, 128, 256 or 512; got " +
                    std::to_string(format.bits) + " bits, block " + std::to_string(format.block));
  if (codebook.bits != format.bits || codebook.lags != format.lags ||
      codebook.values.size() != static_cast<size_t>(format.levels()) * static_cast<size_t>(format.lags))
    throw Error(ErrorCode::kInvalidArgument, "the codebook does not belong to " +
                                                 std::to_string(format.bits) + " bits and " +
                                                 std::to_string(format.lags) + " lags");
}

std::vector<double> magnitude_thresholds(const Codebook& codebook) {
  const int half = 1 << (codebook.bits - 1);
  std::vector<double> thresholds;
  for (int m = 0; m < half; ++m) {
    const double low = m > 0 ? codebook.values[m - 1] : 0, high = codebook.values[m];
    if (!(high > low) || !std::isfinite(high) || codebook.values[half + m] != -codebook.values[m])
      throw Error(ErrorCode::kInvalidArgument, "a codebook must be finite, odd and ascending in magnitude");
    if (m > 0) thresholds.push_back(0.5 * (low + high));
  }
  return thresholds;
}

CodecStats& CodecStats::operator+=(const CodecStats& o) {
  source_sq += o.source_sq;
  error_sq += o.error_sq;
  dot += o.dot;
  decoded_sq += o.decoded_sq;
  return *this;
}

double CodecStats::cosine() const {
  const double lengths = std::sqrt(source_sq) * std::sqrt(decoded_sq);
  if (lengths > 0) return dot / lengths;
  return source_sq == 0 && decoded_sq == 0 ? 1 : 0;
}

CodecStats encode_rows(const HlwqFormat& format, const Codebook& codebook, NormRule rule,
                       const float* weights, uint64_t rows, uint64_t cols, const std::string& name,
                       uint64_t first_row, ThreadPool& pool, uint8_t* codes, uint16_t* norms) {
  check_codec(format, codebook);
  const RowEncoder encoder(format, codebook, rule, name);
  // Summed in row order afterwards, so that figures do not depend on which thread took which row.
  std::vector<CodecStats> stats(rows);
  std::vector<TrellisScratch> scratch(static_cast<size_t>(pool.threads()));
  pool.parallel_for(rows, encoder.grain(cols), [&](size_t begin, size_t end, int thread) {
    encoder.encode(weights, cols, begin, end, first_row, scratch[static_cast<size_t>(thread)], stats.data(),
                   codes, norms);
  });
  CodecStats total;
  for (const CodecStats& s : stats) total += s;
  return total;
}

void decode_row(const HlwqFormat& format, const Codebook& codebook, const uint8_t* codes,
                const uint16_t* norms, uint64_t cols, float* out) {
  check_codec(format, codebook);
  alignas(64) float x[kMaxBlock];
  alignas(64) uint8_t q[kMaxBlock];
  const int block = format.block;
  for (uint64_t b = 0; b < format.row_blocks(cols); ++b) {
    unpack_block(format, codes + b * format.block_bytes(), q);
    codebook_values(codebook, q, block, x);
    hadamard_sums(x, block);
    // n / sqrt(B) times H is n / B times the bare sums: exact apart from the sums and one product.
    const float scale = fp16_to_float(norms[b]) / static_cast<float>(block);
    const uint64_t begin = b * static_cast<uint64_t>(block), count = std::min<uint64_t>(block, cols - begin);
    for (uint64_t i = 0; i < count; ++i) out[begin + i] = scale * x[i];
  }
}

int natural_block(uint64_t cols) {
  if (cols == 0) return 0;
  for (int block = 128; block >= 32; block /= 2)
    if (cols % static_cast<uint64_t>(block) == 0) return block;
  return 0;
}

}  // namespace hlwq
