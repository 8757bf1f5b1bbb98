// Integer tables of a codebook, and the buffers of the activations they are multiplied with.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "hlwq/error.h"
#include "ops/hlwq_matrix.h"

namespace hlwq {
namespace {

/// The probability that an N(0,1) value is coded as each magnitude, for the nearest-centroid rule; relative
/// weights. Only lag 0 has such a rule; for coupled codebooks every code is equally likely to good
/// approximation.
std::vector<double> magnitude_weights(const Codebook& codebook) {
  const size_t half = size_t{1} << (codebook.bits - 1);
  std::vector<double> weights(half, 1.0);
  if (codebook.lags > 1) return weights;
  const auto tail = [](double x) { return 0.5 * std::erfc(x / std::sqrt(2.0)); };
  for (size_t m = 0; m < half; ++m) {
    const double below =
        m == 0 ? 0 : 0.5 * (static_cast<double>(codebook.values[m - 1]) + codebook.values[m]);
    const double above = m + 1 == half
                             ? std::numeric_limits<double>::infinity()
                             : 0.5 * (static_cast<double>(codebook.values[m]) + codebook.values[m + 1]);
    weights[m] = std::max(0.0, tail(below) - tail(above));
  }
  return weights;
}

/// Odd multiples of half a step stand for the values, so that magnitudes are n + 0.5 with -127 <= n <= 126.
int half_step_index(double value, double step) {
  return std::clamp(static_cast<int>(std::lround(value / step - 0.5)), -127, 126);
}

/// The step with the least weighted squared error. A scan, since the error is a rough function of the step;
/// more than twice the smallest step only ever loses.
double best_int8_step(const Codebook& codebook, double top) {
  constexpr int kSteps = 8000;
  const std::vector<double> weights = magnitude_weights(codebook);
  const double smallest = top / 127;
  double best = smallest, best_error = std::numeric_limits<double>::infinity();
  const auto attempt = [&](double step) {
    double error = 0;
    for (int lag = 0; lag < codebook.lags; ++lag)
      for (size_t m = 0; m < weights.size(); ++m) {
        const double value = codebook.values[(static_cast<size_t>(lag) << codebook.bits) + m];
        const double e = value - step * (half_step_index(value, step) + 0.5);
        error += weights[m] * e * e;
      }
    if (error < best_error) best_error = error, best = step;
  };
  for (int i = 0; i <= kSteps; ++i) attempt(smallest * (1 + static_cast<double>(i) / kSteps));
  // Tables that lie on a grid are met exactly: their largest value is an odd multiple of half a step.
  if (codebook.lags > 1)
    for (int n = 0; n <= 126; ++n) attempt(top / (n + 0.5));
  return best;
}

void check(const Codebook& codebook) {
  const auto bad = [&](const std::string& what) {
    return Error(ErrorCode::kInvalidFile, "codebook " + codebook_name(codebook.bits, codebook.lags) + ": " +
                                              what + "; the checkpoint is damaged");
  };
  if (codebook.bits < 2 || codebook.bits > 8 || codebook.lags < 1 ||
      codebook.lags > (codebook.bits <= 6 ? 3 : 1))
    throw bad("bits must be 2..8 and lags 1..3, 1 above 6 bits");
  const size_t levels = size_t{1} << codebook.bits;
  if (codebook.values.size() != levels * codebook.lags)
    throw bad("it has " + std::to_string(codebook.values.size()) + " values, not " +
              std::to_string(levels * codebook.lags));
  float top = 0;
  for (float v : codebook.values) {
    if (!std::isfinite(v)) throw bad("it holds a value that is not finite");
    top = std::max(top, std::fabs(v));
  }
  if (!(top > 1e-30f && top < 1e30f)) throw bad("its largest magnitude is out of range");
  for (int lag = 0; lag < codebook.lags; ++lag)
    for (size_t m = 0; m < levels / 2; ++m) {
      const float* values = &codebook.values[lag * levels];
      // The published tables come out of an iteration that is odd only up to rounding.
      if (std::fabs(values[m] + values[m + levels / 2]) > 1e-4f * top) throw bad("it is not odd");
      if (lag == 0 && values[m] < 0) throw bad("value " + std::to_string(m) + " has the wrong sign");
    }
}

}  // namespace

LookupTables make_lookup_tables(const Codebook& codebook) {
  check(codebook);
  LookupTables tables;
  tables.bits = codebook.bits;
  tables.lags = codebook.lags;
  tables.has_lo = codebook.bits >= 6 && codebook.lags == 1;
  double top = 0;
  for (float v : codebook.values) top = std::max(top, std::fabs(static_cast<double>(v)));

  const double unit = tables.has_lo ? top / (127 * 128 + 127) : best_int8_step(codebook, top);
  tables.offset = tables.has_lo ? 0.0f : 0.5f;
  tables.step = static_cast<float>(tables.has_lo ? unit * 128 : unit);
  const size_t half = size_t{1} << (codebook.bits - 1);
  for (int lag = 0; lag < codebook.lags; ++lag)
    for (size_t m = 0; m < half; ++m) {
      const float* values = &codebook.values[lag * 2 * half];
      const double value = 0.5 * (static_cast<double>(values[m]) - values[m + half]);
      if (tables.has_lo) {
        const int n = static_cast<int>(std::lround(value / unit));
        tables.hi[lag][m] = static_cast<int8_t>(n / 128);
        tables.lo[lag][m] = static_cast<int8_t>(n % 128);
        tables.hi[lag][m + half] = static_cast<int8_t>(-(n / 128));
        tables.lo[lag][m + half] = static_cast<int8_t>(-(n % 128));
      } else {
        const int n = half_step_index(value, unit);
        tables.hi[lag][m] = static_cast<int8_t>(n);
        tables.hi[lag][m + half] = static_cast<int8_t>(-n - 1);
      }
    }
  for (int lag = 0; lag < codebook.lags; ++lag) {
    int largest = 0;
    for (size_t m = 0; m < half; ++m)
      largest = std::max({largest, 2 * tables.hi[lag][m] + 1, -2 * tables.hi[lag][m] - 1});
    tables.largest_sum += 0.5f * static_cast<float>(largest);
  }
  return tables;
}

void QuantizedActivations::resize(uint64_t new_tokens, uint64_t new_cols, int new_block) {
  tokens = new_tokens;
  cols = new_cols;
  block = new_block;
  blocks = ceil_div(cols, static_cast<uint64_t>(block));
  q.resize(tokens * blocks * block + kQPadding);
  scale.resize(tokens * blocks);
  sum.resize(tokens * blocks);
  for (std::vector<int8_t>& t : turned) t.clear();
}

void QuantizedActivations::add_turns(int lags) {
  for (int lag = 1; lag < lags; ++lag) {
    std::vector<int8_t>& out = turned[lag - 1];
    if (!out.empty()) continue;
    out.resize(q.size());
    for (uint64_t b = 0; b < tokens * blocks; ++b) {
      const int8_t* from = q.data() + b * static_cast<uint64_t>(block);
      std::rotate_copy(from, from + lag, from + block, out.data() + b * static_cast<uint64_t>(block));
    }
  }
}

}  // namespace hlwq
