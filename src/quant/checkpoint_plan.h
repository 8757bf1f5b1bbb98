// What a checkpoint will hold, decided before anything is written: the tensors, their order and their
// description.
#pragma once

#include <optional>
#include <vector>

#include "base/json.h"
#include "io/safetensors_writer.h"
#include "quant/quantize.h"

namespace hlwq {

/// Version of quantization_config that this build writes and reads.
constexpr int kQuantizationVersion = 1;

/// How a source tensor reaches the checkpoint.
struct PlannedTensor {
  const Tensor* source = nullptr;
  std::optional<HlwqFormat> format;  ///< none: kept
  DType kept_dtype = DType::kF32;    ///< of a kept tensor in the checkpoint
  bool copy_rows = false;  ///< kept rows are copied as they are; otherwise decoded to kept_dtype = F32
  std::string note;
  bool unfit = false;
  uint64_t bytes() const;  ///< in the checkpoint, all parts
};

struct CheckpointPlan {
  std::vector<PlannedTensor> tensors;  ///< in writing order; codebooks come before them all
  std::vector<Codebook> codebooks;     ///< one a (bits, lags) in use, ascending
  std::vector<TensorSpec> specs;       ///< in writing order: codebooks, then each tensor's parts
  uint64_t bytes = 0;                  ///< of all specs

  const Codebook& codebook(int bits, int lags) const;
};

CheckpointPlan plan_checkpoint(const ModelSource& source, const QuantizeOptions& options);

/// "lloyd-max-converged", "published-a", "published-b": the codebook's id in the config.
std::string codebook_id(const QuantizeOptions& options);

/// The quantization_config of the plan, with every quantised tensor's bits, block, lags and shape.
OrderedJson quantization_config(const CheckpointPlan& plan, const QuantizeOptions& options);

/// The published tools' own config file (hlwq_config.json, polar_config.json), plus the codebook's id.
OrderedJson published_config(const CheckpointPlan& plan, const QuantizeOptions& options,
                             const std::string& base_model);

}  // namespace hlwq
