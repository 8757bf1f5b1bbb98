// README.md of a checkpoint: what it is, how big, how to run it.
#pragma once

#include <string>

#include "io/model_source.h"
#include "quant/export.h"
#include "quant/quantize.h"

namespace hlwq {

/// What the source is called: options.base_model, else what its metadata or config says, else its directory
/// or file name.
std::string base_model_name(const ModelSource& source, const QuantizeOptions& options);

/// YAML front matter and a table of bits and sizes. The licence is taken over from the source's own card or
/// metadata.
std::string model_card(const ModelSource& source, const QuantizeOptions& options,
                       const QuantizeResult& result);

/// The same for an export: what its tensors are and how to serve it.
std::string export_card(const ModelSource& source, const ExportOptions& options, const ExportResult& result);

}  // namespace hlwq
