// Calibrated rounding of a whole model: text runs through it layer by layer, and each layer's matrices are
// rounded with the moments of the inputs that they saw.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "model/model.h"
#include "quant/quantize.h"

namespace hlwq {

struct CalibrationOptions {
  uint64_t window = 512;  ///< tokens that see each other
  float damping = 0.05f;  ///< of the moments' diagonal, relative to its mean
  /// An embedding that is also the output head: share of the identity in its moments, since as an input table
  /// any error counts alike.
  float tied_identity = 0.3f;
  bool restart = false;  ///< discard what an earlier run with other settings left
};

/// Windows of token ids.
using CalibrationWindows = std::vector<std::vector<int32_t>>;

/// Cuts `text` into windows, about `tokens` in all, evenly over the text. Documents, separated by form feeds,
/// do not share windows. Where the model has a chat template, half of the tokens are of conversations: a
/// document's paragraphs as turns of user and assistant.
CalibrationWindows plain_windows(const Model& model, const std::string& text, uint64_t window,
                                 uint64_t tokens);
/// The same for JSON (an array, or one object a line): {"messages": [...]}, {"text": ...} or {"ids": [...]}
/// each. Throws Error(kInvalidFile) naming `what`.
CalibrationWindows json_windows(const Model& model, const std::string& text, const std::string& what,
                                uint64_t window, uint64_t tokens);
/// The text that comes with hlwq.
std::string builtin_calibration_text();

/// Codes and norms of calibrated tensors, under their names in a checkpoint, for QuantizeOptions::rounded.
struct CalibratedTensors {
  std::vector<std::unique_ptr<TensorSource>> layers;
  std::vector<const TensorSource*> sources() const;
};

/// Rounds what options' policy quantizes and the text reaches: the linears of every layer, and the output
/// head. The experts of a layer share their moments. Works in `work`, one directory a layer; a run that was
/// interrupted goes on from there and gives the same files. Memory: the states of all tokens, and one layer's
/// moments. Throws Error(kInvalidArgument) when `work` is something else or belongs to other settings,
/// Error(kInvalidFile) when it is damaged, Error(kCancelled).
CalibratedTensors calibrate(const Model& model, const QuantizeOptions& options,
                            const CalibrationWindows& windows, const CalibrationOptions& calibration,
                            Engine& engine, const std::filesystem::path& work, const Progress& progress);

}  // namespace hlwq
