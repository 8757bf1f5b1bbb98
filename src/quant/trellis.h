// The search for the best codes of a coupled codebook (lags 2 and 3): Viterbi over the last lags - 1 codes.
//
// A block is a ring (quant/layout.h), which Viterbi's algorithm cannot close by itself. So a first, short
// search around the block's middle, free at both ends, decides the codes just before the middle: ends that
// far away hardly matter. The ring is then cut there and searched exactly, with these codes before its first
// value and at its end.
//
// A block's norm leaves room for more: any scale near 1 gives codes of about the same error, but not the same
// codes, and some blocks fit one scale well by luck. Trying a few and keeping each block's best lowers the
// error by several percent, for nothing at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "quant/codebook.h"
#include "quant/trellis_search.h"

namespace hlwq {

/// Codes of unit-variance blocks with a coupled codebook. Constant and shared by threads; each brings its own
/// scratch.
class TrellisEncoder {
 public:
  /// Throws Error(kInvalidArgument) for codebooks that TrellisTables refuses.
  TrellisEncoder(const Codebook& codebook, const CpuFeatures& cpu);

  /// Blocks that are searched side by side: multiples of it waste nothing.
  int width() const { return search_.width; }
  const char* isa() const { return search_.name; }

  /// Codes q [blocks, block] of u [blocks, block]. tries = 1: minimises |u - c|^2, c = codebook_values(q),
  /// given the codes at the middle. More: as many searches, of u at scales around 1, and of their codes those
  /// with the least |u - s c|^2 over all s; never worse than fewer tries.
  void encode(const float* u, int block, size_t blocks, int tries, TrellisScratch& scratch, uint8_t* q) const;

 private:
  void encode_tile(const float* u, int block, int lanes, int tries, TrellisScratch& scratch,
                   uint8_t* q) const;

  TrellisTables tables_;
  const TrellisSearch& search_;
};

/// One block by the scalar search, tries = 1: the reference of every other implementation.
void trellis_reference(const Codebook& codebook, const float* u, int block, uint8_t* q);

}  // namespace hlwq
