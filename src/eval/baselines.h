// Quantisers that others use, as yardsticks: absmax INT4 and bitsandbytes' NF4. Weights are rounded and
// written back as numbers, so that any of our code runs them.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "io/model_source.h"
#include "quant/policy.h"

namespace hlwq {

enum class Baseline {
  kInt4,  ///< groups of 128 along a row, FP16 scale = absmax / 7, levels -7..7
  kNf4,   ///< groups of 64 over the flat weight, FP32 absmax, 16 levels at quantiles of a normal distribution
};

/// NF4's levels, ascending from -1 to 1: normal quantiles at evenly spaced probabilities from 1/2 to 0.9677,
/// seven below zero and eight above, divided by the largest.
const std::array<float, 16>& nf4_levels();

/// Rounds a row in place; a last group may be shorter.
void round_int4(std::span<float> row);
/// Rounds a flat weight in place, or a part of it that starts at a multiple of 64.
void round_nf4(std::span<float> flat);

/// Bytes that the codes and scales of a matrix take.
uint64_t baseline_bytes(Baseline kind, uint64_t rows, uint64_t cols);

/// Writes the text model of `source` into the directory `out`, every tensor rounded (and stored as BF16) that
/// `policy` would quantise. No tokenizer, vision or audio parts. Returns the bytes that each rounded tensor
/// would take in its own format. Throws Error(kIo | kCancelled); kUnsupported for a source that is quantised
/// to HLWQ.
std::map<std::string, uint64_t> write_baseline(const ModelSource& source, Baseline kind,
                                               const QuantPolicy& policy, const std::filesystem::path& out,
                                               ThreadPool& pool, const Progress& progress);

}  // namespace hlwq
