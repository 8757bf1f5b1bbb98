#include "trainer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace hlwq::training {

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  double x, y, s;
  do {
    x = 2 * uniform() - 1;
    y = 2 * uniform() - 1;
    s = x * x + y * y;
  } while (s >= 1 || s == 0);
  // Rounded, since logarithms may differ in the last bit from machine to machine.
  const double f = static_cast<float>(std::sqrt(-2 * std::log(s) / s));
  spare_ = y * f;
  has_spare_ = true;
  return x * f;
}

Samples::Samples(size_t tiles, uint64_t seed) : values_(tiles * kTile) {
  Random random(seed);
  const size_t pairs = values_.size() / 2;
  double x = 0;
  for (size_t i = 0; i < pairs; ++i) {
    // Newton's method from the last quantile; the upper tail is convex, so it never overshoots.
    const double tail = 0.5 - 0.5 * (static_cast<double>(i) + random.uniform()) / static_cast<double>(pairs);
    for (int step = 0; step < 50; ++step) {
      const double off = 0.5 * std::erfc(x / std::numbers::sqrt2) - tail;
      const double d = off * std::sqrt(2 * std::numbers::pi) * std::exp(0.5 * x * x);
      x += d;
      if (std::abs(d) < 1e-9) break;
    }
    values_[2 * i] = static_cast<float>(x);
    values_[2 * i + 1] = static_cast<float>(-x);
  }
  for (size_t i = values_.size(); i > 1; --i) std::swap(values_[i - 1], values_[random.below(i)]);
}

Stats& Stats::operator+=(const Stats& o) {
  for (size_t i = 0; i < count.size(); ++i) count[i] += o.count[i], sum[i] += o.sum[i];
  squares += o.squares;
  n += o.n;
  return *this;
}

Quadratic::Quadratic(const Stats& stats, int bits, int lags)
    : k(lags << (bits - 1)),
      a(static_cast<size_t>(k) * k),
      b(k),
      squares(stats.squares),
      n(static_cast<double>(stats.n)) {
  const size_t half = size_t{1} << (bits - 1), levels = 2 * half;
  for (size_t key = 0; key < stats.count.size(); ++key) {
    if (stats.count[key] == 0) continue;
    size_t index[3];
    double sign[3];
    for (int l = 0; l < lags; ++l) {
      const size_t code = (key >> (bits * l)) & (levels - 1);
      index[l] = static_cast<size_t>(l) * half + (code & (half - 1));
      sign[l] = code & half ? -1 : 1;
    }
    for (int i = 0; i < lags; ++i) {
      b[index[i]] += sign[i] * stats.sum[key];
      for (int j = 0; j < lags; ++j)
        a[index[i] * k + index[j]] += sign[i] * sign[j] * static_cast<double>(stats.count[key]);
    }
  }
}

double Quadratic::mse(std::span<const double> w) const {
  double s = squares;
  for (int i = 0; i < k; ++i) {
    double row = -2 * b[i];
    for (int j = 0; j < k; ++j) row += a[static_cast<size_t>(i) * k + j] * w[j];
    s += w[i] * row;
  }
  return s / n;
}

std::vector<double> Quadratic::solve(std::span<const double> target, double pull) const {
  // Cholesky's method on A + ridge I.
  std::vector<double> l = a, x = b;
  double trace = 0;
  for (int i = 0; i < k; ++i) trace += a[static_cast<size_t>(i) * k + i];
  const double ridge = pull * trace / k;
  const auto at = [&](int i, int j) -> double& { return l[static_cast<size_t>(i) * k + j]; };
  for (int i = 0; i < k; ++i) at(i, i) += ridge, x[i] += ridge * target[i];
  for (int j = 0; j < k; ++j) {
    for (int m = 0; m < j; ++m) at(j, j) -= at(j, m) * at(j, m);
    at(j, j) = std::sqrt(at(j, j));
    for (int i = j + 1; i < k; ++i) {
      for (int m = 0; m < j; ++m) at(i, j) -= at(i, m) * at(j, m);
      at(i, j) /= at(j, j);
    }
  }
  for (int i = 0; i < k; ++i) {
    for (int m = 0; m < i; ++m) x[i] -= at(i, m) * x[m];
    x[i] /= at(i, i);
  }
  for (int i = k - 1; i >= 0; --i) {
    for (int m = i + 1; m < k; ++m) x[i] -= at(m, i) * x[m];
    x[i] /= at(i, i);
  }
  return x;
}

Trainer::Trainer(int bits, int lags)
    : bits_(bits), lags_(lags), trellis_(bits, lags, Samples::kLength), codes_(Samples::kTile) {}

void Trainer::accumulate(std::span<const double> w, const Samples& samples, size_t begin, size_t tiles,
                         Stats& stats) {
  const Tables tables = Tables::odd(bits_, lags_, w);
  for (size_t i = 0; i < tiles; ++i) {
    const float* u = samples.tile((begin + i) % samples.tiles());
    trellis_.search(tables, u, codes_.data());
    for (int t = Samples::kEdge; t < Samples::kLength - Samples::kEdge; ++t)
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint8_t* q = codes_.data() + static_cast<size_t>(t) * kLanes + lane;
        size_t key = 0;
        for (int l = 0; l < lags_; ++l) key |= static_cast<size_t>(q[-l * kLanes]) << (bits_ * l);
        const double x = u[static_cast<size_t>(t) * kLanes + lane];
        ++stats.count[key];
        stats.sum[key] += x;
        stats.squares += x * x;
      }
    stats.n += size_t{Samples::kLength - 2 * Samples::kEdge} * kLanes;
  }
}

Quadratic Trainer::measure(std::span<const double> w, const Samples& samples, size_t begin, size_t tiles) {
  Stats stats(bits_, lags_);
  accumulate(w, samples, begin, tiles, stats);
  return Quadratic(stats, bits_, lags_);
}

void Trainer::normalise(std::vector<double>& w) const {
  const int h = half();
  std::vector<int> order(h);
  std::iota(order.begin(), order.end(), 0);
  for (int m = 0; m < h; ++m)
    if (w[m] < 0)
      for (int l = 0; l < lags_; ++l) w[l * h + m] = -w[l * h + m];
  std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return w[x] < w[y]; });
  const std::vector<double> old = w;
  for (int l = 0; l < lags_; ++l)
    for (int m = 0; m < h; ++m) w[l * h + m] = old[l * h + order[m]];
}

std::vector<double> Trainer::random_start(Random& random) const {
  const int h = half();
  std::vector<double> w(static_cast<size_t>(lags_) * h);
  double left = 1;  // variance
  for (int l = 0; l < lags_; ++l) {
    const double part = l + 1 < lags_ ? left * (0.5 + 0.4 * random.uniform()) : left;
    left -= part;
    std::vector<double> x(h);
    double squares = 0;
    for (double& v : x) v = random.normal(), squares += v * v;
    for (int m = 0; m < h; ++m) w[l * h + m] = x[m] * std::sqrt(part * h / squares);
  }
  normalise(w);
  return w;
}

std::vector<double> Trainer::opposed_start(Random& random) const {
  const auto h = static_cast<size_t>(half()), lags = static_cast<size_t>(lags_);
  std::vector<double> w(lags * h);
  std::vector<std::pair<double, size_t>> rank(h);
  for (size_t l = 0; l < lags; ++l) {
    std::vector<double> x(h);
    for (double& v : x) v = (l == 0 ? 0.85 : lags == 2 ? 0.65 : 0.5) * std::abs(random.normal());
    std::sort(x.begin(), x.end());
    for (size_t m = 0; m < h; ++m)
      rank[m] = {l == 0 ? static_cast<double>(m)
                        : 0.3 * static_cast<double>(h) * random.normal() - static_cast<double>(m),
                 m};
    std::sort(rank.begin(), rank.end());
    for (size_t m = 0; m < h; ++m) {
      const size_t code = rank[m].second;
      w[l * h + code] = l > 0 && (l == 1 ? code & 1 : random.bits() & 1) ? -x[m] : x[m];
    }
  }
  return w;
}

double Trainer::descend(std::vector<double>& w, const Samples& samples, size_t tiles, double amplitude,
                        int iterations, int settle, Random& random) {
  double mse = 0;
  size_t begin = random.below(samples.tiles());
  for (int i = 0; i < iterations + settle; ++i) {
    const Quadratic quadratic = measure(w, samples, begin, tiles);
    begin = (begin + tiles) % samples.tiles();
    mse = quadratic.mse(w);
    w = quadratic.solve(w);
    if (i < iterations) {
      const double noise = amplitude * std::sqrt(mse) * (1 - static_cast<double>(i) / iterations);
      for (double& v : w) v += noise * random.normal();
    }
    normalise(w);
  }
  return mse;
}

}  // namespace hlwq::training
