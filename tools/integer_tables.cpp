#include "integer_tables.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hlwq::training {
namespace {

double magnitude(int n) { return std::abs(n + 0.5); }

double lag_reach(std::span<const int> n) {
  double r = 0;
  for (const int x : n) r = std::max(r, magnitude(x));
  return r;
}

/// The largest |n + 0.5| that entry i may have, given the others.
double room(const IntegerTables& t, size_t i, size_t half, Limits limits) {
  double others = 0;
  for (size_t l = 0; l * half < t.n.size(); ++l)
    if (l != i / half) others += lag_reach(std::span(t.n).subspan(l * half, half));
  return std::min(limits.each, limits.reach - others);
}

int nearest(double x, double most) {
  // Of the odd halves within the room, the nearest to x.
  const int top = static_cast<int>(std::floor(most - 0.5));
  return std::clamp(static_cast<int>(std::floor(x)), -top - 1, top);
}

/// Rounds w at a step, then moves one entry at a time to its best place while that helps, and refits the
/// step.
void minimise(const Quadratic& q, IntegerTables& t, size_t half, Limits limits) {
  const size_t k = t.n.size();
  for (int sweep = 0; sweep < 50; ++sweep) {
    bool changed = false;
    for (size_t i = 0; i < k; ++i) {
      double residual = q.b[i];
      for (size_t j = 0; j < k; ++j)
        if (j != i) residual -= q.a[i * k + j] * t.step * (t.n[j] + 0.5);
      if (!(q.a[i * k + i] > 0)) continue;
      const int n = nearest(residual / q.a[i * k + i] / t.step, room(t, i, half, limits));
      changed |= n != t.n[i];
      t.n[i] = n;
    }
    double along = 0, square = 0;
    for (size_t i = 0; i < k; ++i) {
      along += q.b[i] * (t.n[i] + 0.5);
      for (size_t j = 0; j < k; ++j) square += q.a[i * k + j] * (t.n[i] + 0.5) * (t.n[j] + 0.5);
    }
    t.step = along / square;
    if (!changed) break;
  }
  t.mse = q.mse(t.values());
}

/// w at a step, lags that reach too far clipped to their part of the limit.
IntegerTables rounded(const std::vector<double>& w, double step, size_t half, Limits limits) {
  IntegerTables t{step, std::vector<int>(w.size()), 0};
  const size_t lags = w.size() / half;
  std::vector<double> top(lags);
  for (size_t i = 0; i < w.size(); ++i) top[i / half] = std::max(top[i / half], std::abs(w[i]));
  const double all = std::accumulate(top.begin(), top.end(), 0.0);
  for (size_t i = 0; i < w.size(); ++i)
    t.n[i] = nearest(w[i] / step, std::min(limits.each, limits.reach * top[i / half] / all));
  return t;
}

}  // namespace

std::vector<double> IntegerTables::values() const {
  std::vector<double> w(n.size());
  // As the engine computes them: in single precision.
  for (size_t i = 0; i < n.size(); ++i) w[i] = static_cast<float>(step) * (static_cast<float>(n[i]) + 0.5f);
  return w;
}

double IntegerTables::reach(int half) const {
  double r = 0;
  for (size_t begin = 0; begin < n.size(); begin += static_cast<size_t>(half))
    r += lag_reach(std::span(n).subspan(begin, static_cast<size_t>(half)));
  return r;
}

IntegerTables round_tables(Trainer& trainer, const std::vector<double>& w, Limits limits,
                           const Samples& samples, size_t tiles) {
  const auto half = static_cast<size_t>(trainer.half());
  std::vector<double> top(w.size() / half);
  for (size_t i = 0; i < w.size(); ++i) top[i / half] = std::max(top[i / half], std::abs(w[i]));
  const double full = std::min(limits.reach / std::accumulate(top.begin(), top.end(), 0.0),
                               limits.each / *std::max_element(top.begin(), top.end()));

  const Quadratic trained = trainer.measure(w, samples, 0, tiles);
  std::vector<IntegerTables> tries;
  for (double f = 0.80; f < 1.16; f += 0.005) {
    IntegerTables t = rounded(w, f / full, half, limits);
    minimise(trained, t, half, limits);
    tries.push_back(std::move(t));
  }
  std::sort(tries.begin(), tries.end(), [](const auto& x, const auto& y) { return x.mse < y.mse; });
  tries.resize(6);

  IntegerTables best;
  best.mse = 1e9;
  for (IntegerTables& t : tries) {
    // The grid's pull grows, so that the entries still free make up for those already caught.
    std::vector<double> soft = w;
    const double step = t.step;
    for (double pull = 0.004; pull < 40; pull *= 2)
      soft = trainer.measure(soft, samples, 0, tiles).solve(rounded(soft, step, half, limits).values(), pull);
    t = rounded(soft, step, half, limits);
    for (int i = 0; i < 6; ++i) {
      const Quadratic q = trainer.measure(t.values(), samples, 0, tiles);
      t.mse = q.mse(t.values());
      if (t.mse < best.mse) best = t;
      const std::vector<int> before = t.n;
      minimise(q, t, half, limits);
      if (t.n == before && i > 0) break;
    }
  }
  return best;
}

bool within(const IntegerTables& t, int half, Limits limits) {
  for (const int n : t.n)
    if (magnitude(n) > limits.each) return false;
  return t.reach(half) <= limits.reach;
}

std::vector<IntegerTables> neighbours(const IntegerTables& t, int half, Limits limits) {
  std::vector<IntegerTables> all;
  for (size_t i = 0; i < t.n.size(); ++i)
    for (const int d : {-1, 1}) {
      IntegerTables o = t;
      o.n[i] += d;
      if (within(o, half, limits)) all.push_back(std::move(o));
    }
  for (const double f : {0.998, 1.002}) {
    all.push_back(t);
    all.back().step *= f;
  }
  return all;
}

void normalise(IntegerTables& t, int half) {
  const auto h = static_cast<size_t>(half);
  std::vector<size_t> order(h);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t m = 0; m < h; ++m)
    if (t.n[m] < 0)
      for (size_t i = m; i < t.n.size(); i += h) t.n[i] = -1 - t.n[i];
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return t.n[x] < t.n[y]; });
  const std::vector<int> old = t.n;
  for (size_t i = 0; i < old.size(); ++i) t.n[i] = old[i / h * h + order[i % h]];
}

}  // namespace hlwq::training
