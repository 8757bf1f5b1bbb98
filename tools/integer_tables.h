// Rounding of trained tables to the engine's INT8 grid: value = step * (n + 0.5).
#pragma once

#include "trainer.h"

namespace hlwq::training {

struct IntegerTables {
  double step = 0;
  std::vector<int> n;  ///< [lags, half]
  double mse = 0;      ///< on the samples that it was chosen by

  std::vector<double> values() const;
  /// Sum over lags of the largest |n + 0.5|.
  double reach(int half) const;
};

/// What n may be: the reach of all lags together, and of each.
struct Limits {
  double reach, each = 126.5;
};

/// Tables near the trained w: several steps, each refined by alternating searches on `tiles` of the samples
/// with integer least squares; the best by the same samples.
IntegerTables round_tables(Trainer& trainer, const std::vector<double>& w, Limits limits,
                           const Samples& samples, size_t tiles);

bool within(const IntegerTables& t, int half, Limits limits);

/// Every table that differs in one entry by one, or has one step's length changed a little, and keeps the
/// limits.
std::vector<IntegerTables> neighbours(const IntegerTables& t, int half, Limits limits);

/// Codes in the stored order: lag 0 not negative, not descending.
void normalise(IntegerTables& t, int half);

}  // namespace hlwq::training
