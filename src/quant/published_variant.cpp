#include "quant/published_variant.h"

#include <cmath>
#include <numeric>

namespace hlwq {
namespace {

constexpr uint64_t kFewCodes = 16384;

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

/// Mean log-likelihood of the counts when N(0,1) is cut half way between the table's levels.
double log_likelihood(int bits, PublishedVariant variant, std::span<const uint64_t> counts, double total) {
  const Codebook table = published_codebook(bits, variant);
  const auto level = [&](size_t natural) {
    return static_cast<double>(table.value(stored_code(static_cast<int>(natural), bits)));
  };
  double sum = 0, below = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double up_to = i + 1 < counts.size() ? normal_cdf(0.5 * (level(i) + level(i + 1))) : 1;
    sum += static_cast<double>(counts[i]) * std::log(std::max(up_to - below, 1e-300));
    below = up_to;
  }
  return sum / total;
}

}  // namespace

void VariantEvidence::add_counts(int bits, std::span<const uint64_t> counts) {
  const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  if (bits < 4 || total < kFewCodes) return;
  const double n = static_cast<double>(total);
  const bool a = log_likelihood(bits, PublishedVariant::kFinite4, counts, n) >
                 log_likelihood(bits, PublishedVariant::kInfinite, counts, n);
  ++(a ? votes_a_ : votes_b_);
}

void VariantEvidence::add_errors(double with_a, double with_b) {
  if (std::fabs(with_a - with_b) < 1e-3 * (with_a + with_b)) return;
  ++(with_a < with_b ? errors_a_ : errors_b_);
}

VariantEvidence::Choice VariantEvidence::choose() const {
  const auto made = [](bool a) { return a ? PublishedVariant::kFinite4 : PublishedVariant::kInfinite; };
  if (errors_a_ != errors_b_)
    return {made(errors_a_ > errors_b_), "recognised by a matrix that is stored unquantised too"};
  const int votes = votes_a_ + votes_b_, more = std::max(votes_a_, votes_b_);
  // Of weights like any, nine of ten matrices vote right; heavy tails mislead some.
  if (votes > 0 && 10 * more >= 7 * votes)
    return {made(votes_a_ > votes_b_), "recognised by the frequencies of the codes, " + std::to_string(more) +
                                           " of " + std::to_string(votes) + " matrices"};
  return {PublishedVariant::kFinite4, "assumed, as the file does not tell"};
}

}  // namespace hlwq
