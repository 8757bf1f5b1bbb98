#include "quant/codebook.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>

#include "hlwq/error.h"
#include "quant/coupled_tables.h"

namespace hlwq {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi); }
/// P(X > x), accurate in the upper tail.
double upper_tail(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }
/// P(a < X < b) for 0 <= a < b.
double mass(double a, double b) { return upper_tail(a) - (b == kInfinity ? 0 : upper_tail(b)); }
double density_or_zero(double x) { return x == kInfinity ? 0 : density(x); }

/// Mass of [a, b] and the integral of (x - c) times the density over it.
struct Moments {
  double mass, first;
};

// The closed forms subtract nearly equal numbers on narrow intervals, which the ill-conditioned system of the
// wide codebooks amplifies; 16-point Gauss-Legendre is exact to rounding there and never leaves the
// interval's own scale.
Moments moments(double a, double b, double c) {
  if (b == kInfinity) return {upper_tail(a), density(a) - c * upper_tail(a)};
  static constexpr std::array<double, 8> kNode = {
      0.0950125098376374402, 0.2816035507792589132, 0.4580167776572273863, 0.6178762444026437484,
      0.7554044083550030339, 0.8656312023878317439, 0.9445750230732325761, 0.9894009349916499326};
  static constexpr std::array<double, 8> kWeight = {
      0.1894506104550684963, 0.1826034150449235889, 0.1691565193950025382, 0.1495959888165767321,
      0.1246289712555338720, 0.0951585116824927848, 0.0622535239386478929, 0.0271524594117540949};
  const double mid = 0.5 * (a + b), half = 0.5 * (b - a);
  Moments r{0, 0};
  for (size_t i = 0; i < kNode.size(); ++i)
    for (const double x : {mid - half * kNode[i], mid + half * kNode[i]}) {
      const double w = half * kWeight[i] * density(x);
      r.mass += w;
      r.first += w * (x - c);
    }
  return r;
}

/// Boundaries of positive ascending magnitudes: 0, the midpoints, `outer`.
std::vector<double> boundaries(const std::vector<double>& mag, double outer) {
  std::vector<double> b(mag.size() + 1, 0.0);
  for (size_t i = 1; i < mag.size(); ++i) b[i] = 0.5 * (mag[i - 1] + mag[i]);
  b.back() = outer;
  return b;
}

bool ascending_from_zero(const std::vector<double>& mag) {
  double last = 0;
  for (const double m : mag) {
    if (!(m > last)) return false;
    last = m;
  }
  return true;
}

/// One Newton step on the centroid equations (a tridiagonal system, by the Thomas algorithm); the largest
/// change made. Half the step is taken, and half again, while the full one would disorder the magnitudes.
double newton_step(std::vector<double>& mag) {
  const size_t n = mag.size();
  const std::vector<double> b = boundaries(mag, kInfinity);
  std::vector<double> lower(n), diagonal(n), upper(n), step(n);
  for (size_t i = 0; i < n; ++i) {
    const Moments m = moments(b[i], b[i + 1], mag[i]);
    // Moving a boundary by d changes the residual by (boundary - centroid) * density * d; it moves half a
    // centroid's way.
    lower[i] = i > 0 ? -0.5 * (b[i] - mag[i]) * density(b[i]) : 0;
    upper[i] = i + 1 < n ? 0.5 * (b[i + 1] - mag[i]) * density(b[i + 1]) : 0;
    diagonal[i] = -m.mass + lower[i] + upper[i];
    step[i] = -m.first;
  }
  for (size_t i = 1; i < n; ++i) {
    const double f = lower[i] / diagonal[i - 1];
    diagonal[i] -= f * upper[i - 1];
    step[i] -= f * step[i - 1];
  }
  step[n - 1] /= diagonal[n - 1];
  for (size_t i = n - 1; i-- > 0;) step[i] = (step[i] - upper[i] * step[i + 1]) / diagonal[i];

  for (double size = 1; size > 1e-6; size /= 2) {
    std::vector<double> next = mag;
    for (size_t i = 0; i < n; ++i) next[i] += size * step[i];
    if (!ascending_from_zero(next)) continue;
    double change = 0;
    for (size_t i = 0; i < n; ++i) change = std::max(change, std::abs(next[i] - mag[i]));
    mag = std::move(next);
    return change;
  }
  return kInfinity;
}

void lloyd_step(std::vector<double>& mag) {
  const std::vector<double> b = boundaries(mag, kInfinity);
  for (size_t i = 0; i < mag.size(); ++i) {
    const Moments m = moments(b[i], b[i + 1], mag[i]);
    mag[i] += m.first / m.mass;
  }
}

/// The x >= 0 with P(X > x) = p, by bisection; p in (0, 0.5].
double inverse_upper_tail(double p) {
  double lo = 0, hi = 40;
  for (int i = 0; i < 60; ++i) {
    const double mid = 0.5 * (lo + hi);
    (upper_tail(mid) > p ? lo : hi) = mid;
  }
  return 0.5 * (lo + hi);
}

Codebook odd_codebook(int bits, const std::vector<double>& mag) {
  Codebook codebook;
  codebook.bits = bits;
  codebook.values.resize(2 * mag.size());
  for (size_t m = 0; m < mag.size(); ++m) {
    codebook.values[m] = static_cast<float>(mag[m]);
    codebook.values[mag.size() + m] = -codebook.values[m];
  }
  return codebook;
}

size_t magnitudes(int bits) {
  if (bits < 2 || bits > 8)
    throw Error(ErrorCode::kUnsupported, "no codebook of " + std::to_string(bits) + " bits; use 2 to 8");
  return size_t{1} << (bits - 1);
}

}  // namespace

Codebook lloyd_max_codebook(int bits) {
  const size_t n = magnitudes(bits);
  // The high-rate optimum spreads centroids like N(0, 3); Newton needs only a few steps from there.
  std::vector<double> mag(n);
  for (size_t i = 0; i < n; ++i)
    mag[i] = std::numbers::sqrt3 *
             inverse_upper_tail(0.5 * (1 - (static_cast<double>(i) + 0.5) / static_cast<double>(n)));
  for (int i = 0; i < 8; ++i) lloyd_step(mag);
  for (int i = 0; i < 100; ++i)
    if (newton_step(mag) < 1e-12) return odd_codebook(bits, mag);
  throw Error(ErrorCode::kUnsupported, "the Lloyd-Max codebook of " + std::to_string(bits) +
                                           " bits did not converge: this build's floating point is broken");
}

Codebook coupled_codebook(int bits, int lags) {
  const CoupledTable* table = coupled_table(bits, lags);
  if (!table)
    throw Error(ErrorCode::kUnsupported, "there are no coupled codebooks of " + std::to_string(bits) +
                                             " bits with " + std::to_string(lags) +
                                             " lags; use 2 to 6 bits with 2 lags, or 2 to 4 with 3");
  const size_t half = magnitudes(bits);
  Codebook codebook{bits, lags, {}};
  for (int lag = 0; lag < lags; ++lag)
    for (const int sign : {1, -1})
      for (size_t m = 0; m < half; ++m)
        codebook.values.push_back(
            static_cast<float>(sign) * table->step *
            (static_cast<float>(table->entries[static_cast<size_t>(lag) * half + m]) + 0.5f));
  return codebook;
}

Codebook standard_codebook(int bits, int lags) {
  return lags == 1 ? lloyd_max_codebook(bits) : coupled_codebook(bits, lags);
}

bool has_standard_codebook(int bits, int lags) {
  return lags == 1 ? bits >= 2 && bits <= 8 : coupled_table(bits, lags) != nullptr;
}

void codebook_values(const Codebook& codebook, const uint8_t* q, int block, float* c) {
  for (int t = 0; t < block; ++t) c[t] = codebook.values[q[t]];
  for (int lag = 1; lag < codebook.lags; ++lag) {
    const float* table = codebook.values.data() + (static_cast<size_t>(lag) << codebook.bits);
    for (int t = 0; t < block; ++t) c[t] += table[q[t >= lag ? t - lag : t - lag + block]];
  }
}

double gaussian_mse(const Codebook& codebook) {
  std::vector<double> c(codebook.values.begin(), codebook.values.begin() + (ptrdiff_t{1} << codebook.bits));
  std::sort(c.begin(), c.end());
  double mse = 0;
  for (size_t i = 0; i < c.size(); ++i) {
    double a = i > 0 ? 0.5 * (c[i - 1] + c[i]) : -kInfinity;
    double b = i + 1 < c.size() ? 0.5 * (c[i] + c[i + 1]) : kInfinity;
    double centre = c[i];
    if (a + b < 0 || a == -kInfinity) {  // mirror to the upper side, where the tail is accurate
      std::swap(a, b);
      a = -a, b = -b, centre = -centre;
    }
    const double p = a < 0 ? 1 - upper_tail(-a) - upper_tail(b) : mass(a, b);
    const double fa = density_or_zero(a), fb = density_or_zero(b);
    const double edge = a * fa - (b == kInfinity ? 0 : b * fb);
    mse += p * (1 + centre * centre) + edge - 2 * centre * (fa - fb);
  }
  return mse;
}

Codebook published_codebook(int bits, PublishedVariant variant) {
  // Both run 100 Lloyd iterations from uniform boundaries over [-4, 4] with closed-form centroids. "A" keeps
  // the outer boundary at 4 and its state in single precision; "B" moves it to infinity and works in double
  // precision.
  const size_t n = magnitudes(bits);
  const bool finite = variant == PublishedVariant::kFinite4;
  const double negligible = finite ? 1e-12 : 1e-10;
  const auto store = [finite](double x) { return finite ? static_cast<double>(static_cast<float>(x)) : x; };
  std::vector<double> b(n + 1), mag(n);
  for (size_t i = 0; i <= n; ++i) b[i] = 4.0 * static_cast<double>(i) / static_cast<double>(n);
  if (!finite) b[n] = kInfinity;
  for (int iteration = 0; iteration < 100; ++iteration) {
    for (size_t i = 0; i < n; ++i) {
      const double p = mass(b[i], b[i + 1]);
      mag[i] =
          store(p > negligible ? (density(b[i]) - density_or_zero(b[i + 1])) / p : 0.5 * (b[i] + b[i + 1]));
    }
    for (size_t i = 1; i < n; ++i) b[i] = store(0.5 * (mag[i - 1] + mag[i]));
  }
  return odd_codebook(bits, mag);
}

}  // namespace hlwq
