// Which of the two published tables codes were made with, where the file does not say.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "quant/codebook.h"

namespace hlwq {

/// Evidence from many matrices. The tables differ in where they cut N(0,1), so each leaves other frequencies
/// of codes: what every matrix votes with.
class VariantEvidence {
 public:
  /// How often each natural code of a matrix occurs. Too few codes, and 2 and 3 bits, where the tables
  /// hardly differ, say nothing.
  void add_counts(int bits, std::span<const uint64_t> counts);
  /// A matrix whose exact values are known: its squared errors with either table.
  void add_errors(double with_a, double with_b);

  struct Choice {
    PublishedVariant variant;
    std::string why;  ///< for people
  };
  Choice choose() const;

 private:
  int votes_a_ = 0, votes_b_ = 0;    // by frequencies
  int errors_a_ = 0, errors_b_ = 0;  // by known values
};

}  // namespace hlwq
