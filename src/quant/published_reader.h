// Reading every published layout of codes, told apart by their tensors (docs/formats.md, "Published
// layouts"):
//   X.codes, X.norms, X.ct_scaled or X.ct   bytes; nibbles by half blocks up to 4 bits; 5 bits LSB first
//   X__packed, X__norms, X__meta            2 to 6 bits MSB first, 8 as bytes; no table
//   X__codes, X__norms                      bytes; no table
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/model_source.h"
#include "quant/layout.h"

namespace hlwq {

/// One matrix, its codes repacked to ours.
struct PublishedMatrix {
  std::string name;  ///< the weight's own
  HlwqFormat format;
  uint64_t rows = 0, cols = 0;
  bool cols_known = true;  ///< else `cols` includes what fills the last block
  std::vector<uint8_t> codes;
  std::vector<uint64_t> counts;  ///< how often each natural code occurs
  const Tensor* norms = nullptr;
  std::vector<float> table;        ///< by natural code, in units of N(0,1); empty where none is stored
  std::vector<std::string> parts;  ///< the tensors that it was read from
};

/// Whether a source has tensors of any of these layouts.
bool is_published(const ModelSource& source);

/// hlwq_config.json or polar_config.json beside the weights, an empty object without. Throws
/// Error(kInvalidFile).
OrderedJson published_config(const ModelSource& source);

/// Calls `add` for each matrix, in the order of the files. Throws Error(kInvalidFile) for what contradicts
/// itself, kUnsupported for widths, blocks and relatives of these layouts (EOQ's scales) that are not read.
void read_published(const ModelSource& source, const OrderedJson& config,
                    const std::function<void(PublishedMatrix&&)>& add);

}  // namespace hlwq
