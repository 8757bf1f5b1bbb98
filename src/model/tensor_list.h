// The tensors that a model of a config consists of, without its files: names, shapes, and the part each
// belongs to.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/spec.h"

namespace hlwq {

/// The part of a multimodal model that a tensor belongs to.
enum class TensorRole { kText, kVision, kAudio };

struct ListedTensor {
  std::string name;             ///< as in the checkpoint
  std::vector<uint64_t> shape;  ///< row-major; empty for a scalar
  TensorRole role = TensorRole::kText;
};

struct TensorList {
  std::vector<ListedTensor> tensors;
  /// Parts that the config has and the list leaves out: "audio tower (model_type ...)"; empty for all that
  /// we know.
  std::vector<std::string> not_counted;
};

/// Every tensor of the model, as current tools save it: tied heads once, no keys and values for layers that
/// share another layer's. Throws Error(kInvalidFile) for sizes that no model has.
TensorList list_tensors(const OrderedJson& config, const ModelSpec& spec);

/// The part that a tensor of this name belongs to.
TensorRole tensor_role(std::string_view name);

}  // namespace hlwq
