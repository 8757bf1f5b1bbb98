#include "quant/calibrated_rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "base/half.h"
#include "hlwq/error.h"
#include "quant/feedback_search.h"
#include "quant/hadamard.h"
#include "quant/linear_algebra.h"
#include "quant/trellis.h"
#include "quant/trellis_search.h"

namespace hlwq {
namespace {

constexpr int kMaxBlock = 512;
constexpr uint64_t kTileRows = 32;

/// a [n, n] <- H a H, H block-diagonal, in place.
void rotate_both_sides(float* a, uint64_t n, int block, ThreadPool& pool) {
  const auto b = static_cast<uint64_t>(block);
  pool.parallel_for(n, 16, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r)
      for (uint64_t c = 0; c < n; c += b) hadamard(a + r * n + c, block);
  });
  // Columns: a strip of 16 at a time, butterflies over rows.
  const float scale = 1 / std::sqrt(static_cast<float>(block));
  pool.parallel_for(ceil_div(n, uint64_t{16}), 1, [&](size_t begin, size_t end, int) {
    for (size_t strip = begin; strip < end; ++strip) {
      const uint64_t c0 = strip * 16, width = std::min<uint64_t>(16, n - c0);
      for (uint64_t r0 = 0; r0 < n; r0 += b)
        for (uint64_t stride = 1; stride < b; stride *= 2)
          for (uint64_t i = 0; i < b; i += 2 * stride)
            for (uint64_t j = i; j < i + stride; ++j) {
              float* x = a + (r0 + j) * n + c0;
              float* y = x + stride * n;
              for (uint64_t k = 0; k < width; ++k) {
                const float s = x[k] + y[k], d = x[k] - y[k];
                x[k] = s, y[k] = d;
              }
            }
      for (uint64_t r = 0; r < n; ++r)
        for (uint64_t k = 0; k < width; ++k) a[r * n + c0 + k] *= scale;
    }
  });
}

/// Rows of one matrix, a tile at a time.
class TileRounder {
 public:
  TileRounder(const HlwqFormat& format, const Codebook& codebook, const RoundingPlan& plan,
              const std::string& name)
      : format_(format),
        codebook_(codebook),
        plan_(plan),
        name_(name),
        search_(select_feedback_search(detect_cpu())),
        root_(std::sqrt(static_cast<float>(format.block))) {
    if (codebook.lags > 1) trellis_.emplace(codebook, detect_cpu());
    if (codebook.lags == 1)
      for (int m = 0; m + 1 < format.levels() / 2; ++m)
        thresholds_.push_back(
            0.5f * (codebook.values[static_cast<size_t>(m)] + codebook.values[static_cast<size_t>(m) + 1]));
  }

  /// w [n, cols], n <= kTileRows.
  void round(const float* w, uint64_t n, uint64_t cols, uint64_t row, uint8_t* codes, uint16_t* norms,
             CodecStats* stats) {
    const uint64_t padded = plan_.padded(), b = static_cast<uint64_t>(format_.block);
    own_.assign(n * padded, 0.0f);
    error_.resize(n * padded);
    pending_.assign(n * b, 0.0f);
    for (uint64_t r = 0; r < n; ++r) {
      std::copy_n(w + r * cols, cols, own_.data() + r * padded);
      for (uint64_t c = 0; c < padded; c += b) hadamard(own_.data() + r * padded + c, format_.block);
    }
    for (uint64_t c = 0; c < padded; c += b) {
      if (c > 0) multiply(error_.data(), padded, plan_.feedback() + c, padded, n, c, b, pending_.data(), b);
      for (uint64_t r = 0; r < n; ++r) {
        const uint64_t at = r * format_.row_blocks(cols) + c / b;
        norms[at] = round_block(own_.data() + r * padded + c, pending_.data() + r * b, c, row + r,
                                error_.data() + r * padded + c, codes + at * format_.block_bytes(), stats[r]);
      }
    }
  }

 private:
  struct Candidate {
    alignas(64) uint8_t q[kMaxBlock];
    alignas(64) float moved[kMaxBlock];  // what the codes aimed at, errors before them included
    float scale = 0;
    double cost = 0;
  };

  uint16_t round_block(const float* own, const float* pending, uint64_t col, uint64_t row, float* error,
                       uint8_t* codes, CodecStats& stats) {
    const int n = format_.block;
    double source = 0;
    alignas(64) float aim[kMaxBlock];
    for (int i = 0; i < n; ++i) {
      source += static_cast<double>(own[i]) * own[i];
      aim[i] = own[i] + pending[i];
    }
    if (!std::isfinite(source))
      throw Error(ErrorCode::kInvalidArgument, name_ + " holds NaN or infinity in row " +
                                                   std::to_string(row) + ", near column " +
                                                   std::to_string(col));
    stats.source_sq += source;
    const auto zero = [&]() -> uint16_t {
      std::copy_n(own, n, error);
      std::memset(codes, 0, format_.block_bytes());
      stats.error_sq += source;
      return 0;
    };
    // Far below FP16's least positive norm.
    if (std::sqrt(source) < 1e-12) return zero();

    Candidate best;
    best.scale = spread(aim, col, source);
    choose(own, pending, col, -1, best);
    if (codebook_.lags == 2) close_ring(own, pending, col, source, best);
    const float norm = best.scale * root_;
    const uint16_t stored = float_to_fp16(norm);
    if (stored >= 0x7c00)
      throw Error(
          ErrorCode::kInvalidArgument,
          name_ + ", row " + std::to_string(row) + ": a block's norm of " + std::to_string(norm) +
              " is over FP16's 65504: keep this tensor unquantised (a policy file with \"bits\": null)");
    if (stored == 0) return zero();
    pack_block(format_, best.q, codes);
    const float scale = fp16_to_float(stored) / root_;
    alignas(64) float c[kMaxBlock];
    codebook_values(codebook_, best.q, n, c);
    for (int i = 0; i < n; ++i) {
      const float decoded = scale * c[i];
      error[i] = own[i] - decoded;
      stats.error_sq += static_cast<double>(error[i]) * error[i];
      stats.dot += static_cast<double>(own[i]) * decoded;
      stats.decoded_sq += static_cast<double>(decoded) * decoded;
    }
    return stored;
  }

  /// The first search left both ends free. For each of some scales, the ring is closed by a search that
  /// starts and ends with one code: the one that a search around the ring, of the targets as the first one's
  /// errors moved them, ends with.
  void close_ring(const float* own, const float* pending, uint64_t col, double source, Candidate& best) {
    const Candidate open = best;
    const float middle = spread(open.moved, col, source);
    best.cost = std::numeric_limits<double>::infinity();
    for (int k = 0; k < kTrellisTries; ++k) {
      Candidate next;
      next.scale = middle * trellis_factor(k);
      alignas(64) float u[kMaxBlock];
      for (int i = 0; i < format_.block; ++i) u[i] = open.moved[i] / next.scale;
      trellis_->encode(u, format_.block, 1, 1, trellis_scratch_, next.q);
      choose(own, pending, col, next.q[format_.block - 1], next);
      if (next.cost < best.cost) best = next;
    }
  }

  /// Root mean square of a block's targets where misses cost: columns that hardly count (padding's) may be
  /// sent anywhere.
  float spread(const float* targets, uint64_t col, double source) const {
    const float* weight = plan_.weight() + col;
    double sum = 0, weights = 0;
    for (int i = 0; i < format_.block; ++i) {
      sum += static_cast<double>(weight[i]) * targets[i] * targets[i];
      weights += weight[i];
    }
    return static_cast<float>(std::sqrt(std::max(sum / weights, 1e-6 * source / format_.block)));
  }

  /// Codes for the scale that `best` comes with, then the scale that suits these codes.
  void choose(const float* own, const float* pending, uint64_t col, int anchor, Candidate& best) {
    const int n = format_.block;
    const uint64_t stride = plan_.padded();
    const float* feedback = plan_.feedback() + col * stride + col;
    const float* weight = plan_.weight() + col;
    alignas(64) float unit[kMaxBlock], target[kMaxBlock], c[kMaxBlock];
    const float inverse = 1 / best.scale;
    for (int i = 0; i < n; ++i) unit[i] = own[i] * inverse, target[i] = (own[i] + pending[i]) * inverse;
    if (codebook_.lags == 1) {
      in_order(unit, target, feedback, best.q);
    } else if (codebook_.lags == 2) {
      const float* tables = codebook_.values.data();
      search_(
          {n, format_.levels(), unit, target, feedback, stride, weight, tables, tables + format_.levels()},
          anchor, scratch_, best.q);
    } else {
      // No feedback inside the block: what earlier blocks call for is spread over it at once.
      for (int i = 0; i < n; ++i) target[i] -= unit[i];
      for (int i = 0; i < n; ++i) {
        const float* moves = feedback + static_cast<uint64_t>(i) * stride;
        for (int k = i + 1; k < n; ++k) target[k] -= target[i] * moves[k];
      }
      for (int i = 0; i < n; ++i) target[i] += unit[i];
      trellis_->encode(target, n, 1, 1, trellis_scratch_, best.q);
    }
    codebook_values(codebook_, best.q, n, c);
    // The cost of scale s is sum_j weight_j (v_j - s h_j)^2: v and h are what weights and values come to at
    // column j with the feedback of the columns before.
    double vh = 0, hh = 0;
    alignas(64) float v[kMaxBlock], h[kMaxBlock];
    for (int i = 0; i < n; ++i) v[i] = own[i] + pending[i], h[i] = c[i];
    for (int i = 0; i < n; ++i) {
      const float* moves = feedback + static_cast<uint64_t>(i) * stride;
      for (int k = i + 1; k < n; ++k) v[k] += own[i] * moves[k], h[k] += c[i] * moves[k];
    }
    for (int i = 0; i < n; ++i) {
      vh += static_cast<double>(weight[i]) * v[i] * h[i];
      hh += static_cast<double>(weight[i]) * h[i] * h[i];
    }
    // A block whose codes have nothing to do with its weights keeps the scale that it came with.
    if (vh > 0 && hh > 0) best.scale = static_cast<float>(vh / hh);
    // Less sum_j weight_j v_j^2, which is the same for all codes.
    for (int i = 0; i < n; ++i) best.moved[i] = v[i] - best.scale * (h[i] - c[i]);
    best.cost = static_cast<double>(best.scale) * (static_cast<double>(best.scale) * hh - 2 * vh);
  }

  void in_order(const float* unit, const float* target, const float* feedback, uint8_t* q) {
    const int n = format_.block, half = format_.levels() / 2;
    alignas(64) float t[kMaxBlock];
    std::copy_n(target, n, t);
    for (int i = 0; i < n; ++i) {
      const float a = std::fabs(t[i]);
      const auto m = std::upper_bound(thresholds_.begin(), thresholds_.end(), a) - thresholds_.begin();
      q[i] = static_cast<uint8_t>(t[i] < 0 ? half | m : m);
      const float e = unit[i] - codebook_.values[q[i]];
      const float* moves = feedback + static_cast<uint64_t>(i) * plan_.padded();
      for (int k = i + 1; k < n; ++k) t[k] += e * moves[k];
    }
  }

  const HlwqFormat& format_;
  const Codebook& codebook_;
  const RoundingPlan& plan_;
  const std::string& name_;
  FeedbackSearch search_;
  float root_;
  std::optional<TrellisEncoder> trellis_;
  std::vector<float> thresholds_, own_, error_, pending_;
  FeedbackScratch scratch_;
  TrellisScratch trellis_scratch_;
};

}  // namespace

void InputMoments::add(const float* x, uint64_t tokens, int threads) {
  add_gram(sums_.data(), cols_, x, tokens, threads);
  tokens_ += tokens;
}

void InputMoments::blend_identity(float share) {
  double trace = 0;
  for (uint64_t i = 0; i < cols_; ++i) trace += sums_[i * cols_ + i];
  const float mean = static_cast<float>(trace / static_cast<double>(cols_));
  for (uint64_t i = 0; i < cols_; ++i)
    for (uint64_t j = i; j < cols_; ++j) {
      float& v = sums_[i * cols_ + j];
      v *= 1 - share;
      if (i == j) v += share * mean;
    }
}

RoundingPlan::RoundingPlan(const InputMoments& moments, int block, float damping, ThreadPool& pool)
    : block_(block),
      padded_(ceil_div(moments.cols(), static_cast<uint64_t>(block)) * static_cast<uint64_t>(block)) {
  const uint64_t n = padded_, cols = moments.cols();
  std::vector<float> rotated(n * n, 0.0f);
  for (uint64_t i = 0; i < cols; ++i)
    for (uint64_t j = i; j < cols; ++j)
      rotated[i * n + j] = rotated[j * n + i] = moments.upper()[i * cols + j];
  rotate_both_sides(rotated.data(), n, block, pool);
  double trace = 0;
  for (uint64_t i = 0; i < n; ++i) trace += rotated[i * n + i];
  if (!std::isfinite(trace))
    throw Error(ErrorCode::kInvalidArgument,
                "the calibration text drives a layer's inputs to NaN or infinity");
  // Inputs that are all zero say nothing: plain rounding.
  const float mean = trace > 0 ? static_cast<float>(trace / static_cast<double>(n)) : 1;
  for (float extra = damping;; extra = std::max(extra * 10, 1e-4f)) {
    feedback_ = rotated;
    for (uint64_t i = 0; i < n; ++i) feedback_[i * n + i] += mean * extra;
    if (factor_upper(feedback_.data(), n, pool.threads())) break;
    if (extra > 1e3f)
      throw Error(ErrorCode::kInvalidArgument, "the calibration text gives moments that cannot be factored");
  }
  weight_.resize(n);
  double sum = 0;
  for (uint64_t j = 0; j < n; ++j) {
    const float pivot = feedback_[j * n + j];
    weight_[j] = pivot * pivot;
    sum += weight_[j];
  }
  for (float& w : weight_) w = static_cast<float>(w * static_cast<double>(n) / sum);
  std::vector<float> inverse(n);
  for (uint64_t j = 0; j < n; ++j) inverse[j] = 1 / feedback_[j * n + j];
  for (uint64_t i = 0; i < n; ++i)
    for (uint64_t j = i; j < n; ++j) feedback_[i * n + j] *= inverse[j];
}

CodecStats round_rows(const HlwqFormat& format, const Codebook& codebook, const RoundingPlan& plan,
                      const float* weights, uint64_t rows, uint64_t cols, const std::string& name,
                      uint64_t first_row, ThreadPool& pool, uint8_t* codes, uint16_t* norms) {
  if (plan.block() != format.block ||
      plan.padded() != format.row_blocks(cols) * static_cast<uint64_t>(format.block) ||
      codebook.bits != format.bits || codebook.lags != format.lags)
    throw Error(ErrorCode::kInvalidArgument, name + ": the rounding plan belongs to another shape or format");
  std::vector<CodecStats> stats(rows);
  use_one_thread_per_product();
  pool.parallel_for(ceil_div(rows, kTileRows), 1, [&](size_t begin, size_t end, int) {
    TileRounder rounder(format, codebook, plan, name);
    for (size_t tile = begin; tile < end; ++tile) {
      const uint64_t r = tile * kTileRows, n = std::min(kTileRows, rows - r);
      rounder.round(weights + r * cols, n, cols, first_row + r, codes + r * format.row_bytes(cols),
                    norms + r * format.row_blocks(cols), stats.data() + r);
    }
  });
  CodecStats total;
  for (const CodecStats& s : stats) total += s;
  return total;
}

}  // namespace hlwq
