// Training of coupled codebooks: alternating Viterbi searches and least squares.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "batch_trellis.h"

namespace hlwq::training {

/// SplitMix64 and normals from it by the polar method: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) { state_ = bits(); }
  uint64_t bits();
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  size_t below(size_t n) { return static_cast<size_t>(uniform() * static_cast<double>(n)); }
  double normal();

 private:
  uint64_t state_;
  double spare_ = 0;
  bool has_spare_ = false;
};

/// Gaussian samples in tiles of [kLength, kLanes]. The values of all tiles together are quantiles, one from
/// each of as many equally likely intervals, in random order: the rare large ones, which decide between
/// tables of five and six bits, come as often as they should.
class Samples {
 public:
  /// Codes near a sequence's ends are chosen with half a neighbourhood; kEdge values there are searched but
  /// not counted.
  static constexpr int kEdge = 16, kLength = 256 + 2 * kEdge;
  static constexpr size_t kTile = size_t{kLength} * kLanes;

  Samples(size_t tiles, uint64_t seed);
  size_t tiles() const { return values_.size() / kTile; }
  const float* tile(size_t i) const { return values_.data() + i * kTile; }

 private:
  std::vector<float> values_;
};

/// What a search's codes say about the samples: for each tuple of codes (newest lowest), how often and the
/// sum of u.
struct Stats {
  std::vector<uint64_t> count;
  std::vector<double> sum;
  double squares = 0;
  uint64_t n = 0;

  Stats(int bits, int lags) : count(size_t{1} << (bits * lags)), sum(count.size()) {}
  Stats& operator+=(const Stats& o);
};

/// The mean squared error at fixed codes as a quadratic in the tables' positive entries w [lags, half]:
/// (squares - 2 b.w + w.A w) / n.
struct Quadratic {
  int k;
  std::vector<double> a, b;
  double squares, n;

  Quadratic(const Stats& stats, int bits, int lags);
  double mse(std::span<const double> w) const;
  /// The minimiser of this plus `pull`, in units of an average code's own weight, times |w - target|^2. A
  /// little of it keeps entries whose codes were not used where they are.
  std::vector<double> solve(std::span<const double> target, double pull = 1e-6) const;
};

class Trainer {
 public:
  Trainer(int bits, int lags);

  void accumulate(std::span<const double> w, const Samples& samples, size_t begin, size_t tiles,
                  Stats& stats);
  Quadratic measure(std::span<const double> w, const Samples& samples, size_t begin, size_t tiles);

  /// Signs and order of codes: lag 0 positive, ascending. What the tables mean does not change.
  void normalise(std::vector<double>& w) const;
  std::vector<double> random_start(Random& random) const;
  /// A random start in which codes far from zero in lag 0 are near it in the others, as good tables have it.
  std::vector<double> opposed_start(Random& random) const;
  /// Alternates on `tiles` samples a time; noise of `amplitude` times the quantiser's RMS error, falling to
  /// none over `iterations`, then `settle` iterations without.
  double descend(std::vector<double>& w, const Samples& samples, size_t tiles, double amplitude,
                 int iterations, int settle, Random& random);

  int bits() const { return bits_; }
  int lags() const { return lags_; }
  int half() const { return 1 << (bits_ - 1); }

 private:
  int bits_, lags_;
  BatchTrellis trellis_;
  std::vector<uint8_t> codes_;
};

}  // namespace hlwq::training
