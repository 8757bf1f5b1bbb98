// From what somebody wants ("4 bits", "19.9 GB", "rounded on this text") to a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "quant/quantize.h"

namespace hlwq {

/// What was asked for contradicts itself or cannot be met, which whoever asked can mend.
class RequestError : public Error {
 public:
  explicit RequestError(const std::string& message) : Error(ErrorCode::kInvalidArgument, message) {}
};

/// The options of `hlwq quantize`; docs/cli.md says what they mean.
struct QuantizeRequest {
  std::string model;
  std::filesystem::path out;
  std::string policy;  ///< a name, or a file that ends in .json; empty: default
  std::optional<int64_t> bits, lags;
  std::optional<double> bpw;     ///< bits per weight, or
  std::optional<uint64_t> size;  ///< bytes of all tensor data: widths are chosen
  std::string sensitivity, write_policy;
  std::string layout = "native", codebook = "converged", norm = "corrected";
  bool pad = false, replace = false;
  std::string calibrate;  ///< a text, JSON or JSON lines file, or "builtin"; empty: plain rounding
  uint64_t calibration_tokens = 32768;
  std::string base_model, device = "cpu";
  int threads = 0;
  std::string prefix;  ///< of option names in messages: "--" on a command line
};

/// How the work tells what it does.
struct QuantizeWatch {
  /// Called at the beginning of "sensitivity", "calibrating" and "quantizing" (which counts bytes): who is
  /// told of that stage.
  std::function<Progress(const std::string& stage)> stage;
  std::function<void(const std::string& text)> note;
};

/// Everything that can be said without the model. Throws RequestError, what a policy file throws, and
/// Error(kDevice) for a GPU that is not there.
void check(const QuantizeRequest& request);

/// Throws as check(), and as quantize_model, calibrate and measure_sensitivity.
QuantizeResult quantize(const QuantizeRequest& request, const QuantizeWatch& watch);

}  // namespace hlwq
