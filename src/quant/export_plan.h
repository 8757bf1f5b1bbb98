// What an export will hold, decided before anything is written: which weights become INT4, under which names,
// and the config that says so.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/safetensors_writer.h"
#include "quant/export.h"
#include "quant/source_weights.h"

namespace hlwq {

/// A run of a weight's rows that gets a name of its own: all of them, or one expert's.
struct ExportPart {
  std::string module;  ///< the linear's name: "....q_proj", "....experts.3.gate_proj"
  uint64_t first = 0, rows = 0;
};

struct PlannedExport {
  const SourceWeight* weight = nullptr;
  std::vector<ExportPart> int4;  ///< empty: one tensor under the weight's own name
  DType dtype = DType::kBF16;    ///< of that tensor; kBF16 is rounded to, anything else copied
  std::string note;              ///< why an eligible linear is no INT4
};

struct ExportPlan {
  std::vector<PlannedExport> tensors;  ///< in writing order, INT4 first
  std::vector<TensorSpec> specs;       ///< in writing order
  std::vector<std::string> ignore;     ///< of the quantization_config
  uint64_t bytes = 0;                  ///< of all specs
};

/// Throws Error(kInvalidArgument) for a group that there is not, or when no linear has a width that the group
/// divides.
ExportPlan plan_export(const SourceWeights& weights, const ExportOptions& options);

/// The config.json of the export.
OrderedJson export_config(const OrderedJson& source_config, const ExportPlan& plan,
                          const ExportOptions& options);

/// Whether a part's scales end on a multiple of four bytes, so that what follows them may be a 32-bit tensor.
/// Scales that don't are written after all codes.
bool scales_keep_alignment(const ExportPart& part, uint64_t cols, int group);

}  // namespace hlwq
