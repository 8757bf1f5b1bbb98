// A model out of HLWQ, for other engines: a plain BF16 checkpoint, or 4-bit weights that vLLM serves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "io/model_source.h"

namespace hlwq {

enum class ExportFormat {
  kSafetensors,        ///< every float tensor in BF16, as Hugging Face's own checkpoints
  kCompressedTensors,  ///< W4A16 symmetric, "pack-quantized": linears in INT4, the rest in BF16
};

struct ExportOptions {
  ExportFormat format = ExportFormat::kSafetensors;
  int group = 128;  ///< weights that share a scale: 32, 64 or 128
  bool replace = false;
  uint64_t max_shard_bytes = 5'000'000'000;
  std::string tokenizer_json;  ///< stands in where the source has none (GGUF): made by the caller
  std::string base_model;      ///< for the model card; empty: what the source says of itself
};

struct ExportedWeight {
  std::string name;  ///< of the source's weight
  bool int4 = false;
  double mse = 0;  ///< of rounding to INT4, relative to the decoded weight's mean square
  uint64_t bytes = 0, elements = 0;
  std::string note;  ///< why a linear of the language model was left in BF16; else empty
};

struct ExportResult {
  std::vector<ExportedWeight> weights;
  uint64_t bytes_in = 0, bytes_out = 0, elements = 0;  ///< of tensor data
  double seconds = 0;
};

/// Writes `source` (an HLWQ checkpoint from its codes, or plain weights) into the directory `out`, which
/// appears whole or not at all. Works in slabs of rows: some tens of MB of memory beside the mapped source.
/// Progress counts source bytes. Throws Error(kUnsupported) for a source that another tool quantised,
/// kInvalidArgument for weights that are not finite, kIo for a disk that is too small, kCancelled.
ExportResult export_model(const ModelSource& source, const ExportOptions& options,
                          const std::filesystem::path& out, ThreadPool& pool, const Progress& progress);

}  // namespace hlwq
