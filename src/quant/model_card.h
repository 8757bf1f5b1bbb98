// README.md of a checkpoint: what it is, how big, how to run it.
#pragma once

#include <string>

#include "io/model_source.h"
#include "quant/quantize.h"

namespace hlwq {

/// What the source is called: options.base_model, else what its metadata or config says, else its directory
/// or file name.
std::string base_model_name(const ModelSource& source, const QuantizeOptions& options);

/// YAML front matter and a table of bits and sizes. The licence is taken over from the source's own card or
/// metadata.
std::string model_card(const ModelSource& source, const QuantizeOptions& options,
                       const QuantizeResult& result);

}  // namespace hlwq
