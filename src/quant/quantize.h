// A whole model into an HLWQ checkpoint directory, streaming.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "io/model_source.h"
#include "quant/codec.h"
#include "quant/policy.h"
#include "quant/tensor_encoder.h"

namespace hlwq {

enum class CheckpointLayout {
  kNative,     ///< quant/layout.h: the kernels compute on the mapped file
  kPublished,  ///< quant/published_layout.h: what the published tools read
};

enum class CodebookKind { kConverged, kPublishedA, kPublishedB };

struct QuantizeOptions {
  QuantPolicy policy = QuantPolicy::named("default");
  CheckpointLayout layout = CheckpointLayout::kNative;
  NormRule norm = NormRule::kCorrected;
  /// The published layout stores no table, so there kConverged stands for the table its decoders compute
  /// first (A).
  CodebookKind codebook = CodebookKind::kConverged;
  bool pad = false;      ///< blocks of 128 everywhere, zero-padded (the published layout always does)
  bool replace = false;  ///< replace an existing output directory
  uint64_t max_shard_bytes = 4ull << 30;
  std::string
      tokenizer_json;  ///< written when the source has none (GGUF): made by the caller from its metadata
  /// Codes and norms that were chosen elsewhere (calibration), under their names in a checkpoint; everything
  /// else is encoded here.
  std::vector<const TensorSource*> rounded;
  TensorEncoder* encoder = nullptr;  ///< encodes instead of the CPU; not owned
  std::string policy_json;           ///< written as hlwq_policy.json when not empty
  OrderedJson calibration;           ///< what to note of it in quantization_config; null: nothing
  std::string base_model;            ///< for the model card; empty: what the source says of itself
};

struct QuantizedTensor {
  std::string name;
  int bits = 0;   ///< 0: kept as it is
  int block = 0;  ///< 0: kept as it is
  int lags = 1;
  double mse = 0;      ///< relative to the source's mean square
  double cosine = 1;   ///< between the source and what is decoded
  uint64_t bytes = 0;  ///< in the checkpoint
  uint64_t elements = 0;
  std::string note;    ///< why it was kept; empty when quantised
  bool unfit = false;  ///< kept although the policy wanted it quantised
};

struct QuantizeResult {
  std::vector<QuantizedTensor> tensors;  ///< in source order
  uint64_t bytes_in = 0, bytes_out = 0;  ///< of tensor data
  uint64_t elements = 0;
  double seconds = 0;
  double bits_per_weight() const {
    return elements > 0 ? 8.0 * static_cast<double>(bytes_out) / static_cast<double>(elements) : 0;
  }
};

/// Bytes of tensor data that quantize_model would write.
uint64_t predict_quantized_bytes(const ModelSource& source, const QuantizeOptions& options);

/// Quantises `source` into the directory `out`, which appears whole or not at all. Works in slabs of rows:
/// memory stays at some tens of MB plus one tensor's norms. Progress counts source bytes. Throws
/// Error(kInvalidArgument) for weights that cannot be quantised (NaN, Inf) or options that contradict each
/// other, kUnsupported for a source that is quantised already, kIo for a disk that is (or gets) full,
/// kCancelled.
QuantizeResult quantize_model(const ModelSource& source, const QuantizeOptions& options,
                              const std::filesystem::path& out, ThreadPool& pool, const Progress& progress);

}  // namespace hlwq
