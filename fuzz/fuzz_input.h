// What the targets share: typed errors are the right answer to bad input, anything else is a finding.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hlwq/error.h"
#include "io/tensor.h"

namespace hlwq::fuzz {

/// Runs `work`; an Error is swallowed, any other exception ends the run.
template <class Work>
void allow_errors(Work&& work) {
  try {
    work();
  } catch (const Error&) {
  }
}

/// Decodes the first and the last rows of every tensor, so that views outside the input are caught.
inline void touch(std::span<const Tensor> tensors) {
  std::vector<float> row;
  for (const Tensor& t : tensors) {
    if (t.rows() == 0 || t.cols() == 0) continue;
    if (!info(t.dtype).is_float) {
      volatile std::byte last = t.data.back();
      (void)last;
      continue;
    }
    row.resize(t.cols());
    for (uint64_t r : {uint64_t{0}, t.rows() / 2, t.rows() - 1}) decode_rows(t, r, 1, row.data());
  }
}

}  // namespace hlwq::fuzz
