// Turns the width and granule of a cache's codes into constants, for the kernels that read them. Included
// after
// `#pragma GCC target` by each implementation, so that everything here is compiled for it.
#pragma once

#include "ops/hlwq_matrix.h"

namespace hlwq {
namespace {

/// fn.operator()<BITS, G>() for w's width (2..4) and granule (32, 64, 128).
template <typename Fn>
inline void for_cache_format(const HlwqMatrix& w, Fn&& fn) {
  const auto with_bits = [&]<int BITS>() {
    switch (w.format.granule()) {
      case 32:
        return fn.template operator()<BITS, 32>();
      case 64:
        return fn.template operator()<BITS, 64>();
      default:
        return fn.template operator()<BITS, 128>();
    }
  };
  switch (w.format.bits) {
    case 2:
      return with_bits.template operator()<2>();
    case 3:
      return with_bits.template operator()<3>();
    default:
      return with_bits.template operator()<4>();
  }
}

}  // namespace
}  // namespace hlwq
