// How much an error in one tensor matters: the KL divergence that it causes at the output.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "model/model.h"
#include "quant/policy.h"

namespace hlwq {

struct SensitivityOptions {
  HlwqFormat probe = {4, 2,
                      128};  ///< the error that is tried: this format's (its block is each tensor's own)
  uint64_t evaluations =
      128;           ///< at most about so many; neighbouring layers share one when there are more tensors
  bool pad = false;  ///< as QuantizeOptions::pad: which blocks, and so which tensors
  uint64_t positions = 128;  ///< of each window, whose distributions are compared
};

/// KL divergence from the unquantised model in nats per token, per relative squared error, of every tensor
/// that `policy` quantizes, on `windows` of ids. Small errors add up, so a mixed format's damage is about the
/// sum of these times its errors. The model must be unquantised. Runs each evaluation from the first layer
/// that changes.
std::map<std::string, double> measure_sensitivity(const Model& model, const QuantPolicy& policy,
                                                  const std::vector<std::vector<int32_t>>& windows,
                                                  const SensitivityOptions& options, Engine& engine,
                                                  const Progress& progress);

}  // namespace hlwq
