#include "quant/trellis.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace hlwq {
namespace {

/// One Viterbi search over u[0..n). A state holds the last lags - 1 codes, the newest in its low bits.
/// `anchor` < 0: free at both ends; else the state before the first value and after the last.
void search(const Codebook& codebook, const float* u, int n, int anchor, uint8_t* q) {
  const int bits = codebook.bits, levels = 1 << bits, older = codebook.lags - 1;
  const int states = 1 << (bits * older), mask = states - 1;
  const float* t0 = codebook.values.data();
  std::vector<float> cost(states, anchor < 0 ? 0 : std::numeric_limits<float>::infinity()), next(states);
  if (anchor >= 0) cost[anchor] = 0;
  std::vector<uint8_t> from(static_cast<size_t>(n) * states);  // the oldest code of the best predecessor
  for (int t = 0; t < n; ++t) {
    std::fill(next.begin(), next.end(), std::numeric_limits<float>::infinity());
    uint8_t* best = from.data() + static_cast<size_t>(t) * states;
    for (int s = 0; s < states; ++s) {
      float v = u[t];
      for (int lag = 1; lag <= older; ++lag)
        v -= codebook.values[(lag << bits) + ((s >> (bits * (lag - 1))) & (levels - 1))];
      for (int code = 0; code < levels; ++code) {
        const float d = v - t0[code], c = cost[s] + d * d;
        const int to = (s << bits | code) & mask;
        if (c < next[to]) next[to] = c, best[to] = static_cast<uint8_t>(s >> (bits * (older - 1)));
      }
    }
    cost.swap(next);
  }
  int s = anchor >= 0 ? anchor : static_cast<int>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  for (int t = n - 1; t >= 0; --t) {
    q[t] = static_cast<uint8_t>(s & (levels - 1));
    s = s >> bits | from[static_cast<size_t>(t) * states + s] << (bits * (older - 1));
  }
}

}  // namespace

void trellis_reference(const Codebook& codebook, const float* u, int block, uint8_t* q) {
  search(codebook, u, block, -1, q);
  const int middle = block / 2;
  int anchor = 0;
  for (int lag = codebook.lags - 1; lag >= 1; --lag) anchor = anchor << codebook.bits | q[middle - lag];
  std::vector<float> turned(u + middle, u + block);
  turned.insert(turned.end(), u, u + middle);
  std::vector<uint8_t> codes(block);
  search(codebook, turned.data(), block, anchor, codes.data());
  std::copy_n(codes.begin(), block - middle, q + middle);
  std::copy_n(codes.begin() + (block - middle), middle, q);
}

}  // namespace hlwq
