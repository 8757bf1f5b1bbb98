// Bytes of a model's weights, as they are stored or as a quantisation policy would make them, with or without
// the weights at hand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/model_source.h"
#include "model/spec.h"
#include "quant/policy.h"

namespace hlwq {

struct WeightSizes {
  std::string policy;   ///< "stored", or the policy's name
  uint64_t text = 0;    ///< bytes of the text model, norms of codes included
  uint64_t vision = 0;  ///< of the image encoder and its projection
  uint64_t audio = 0;   ///< of the audio encoder and its projection
  uint64_t tables = 0;  ///< of codebooks
  uint64_t params = 0;  ///< weights of all parts
  uint64_t text_params = 0;
  uint64_t coded = 0;          ///< bytes of what is in codes, norms included; part of `text`
  uint64_t coded_params = 0;   ///< weights in codes
  double bits_per_weight = 0;  ///< over the matrices of the text model, norms of codes included
  struct Group {               ///< matrices of the text model by storage format
    std::string format;        ///< "Q5", "BF16"...
    uint64_t tensors = 0, params = 0, bytes = 0;
  };
  std::vector<Group> groups;
  /// All tensor data of the checkpoint: what `hlwq quantize` writes.
  uint64_t checkpoint() const { return text + vision + audio + tables; }
};

/// Answers for the tensors of a source; for one without weights, for those that its config describes, in its
/// config's dtype.
class WeightPlanner {
 public:
  /// `source` must outlive this. Throws Error(kInvalidFile | kUnsupported) for configs that no list can be
  /// made of.
  WeightPlanner(const ModelSource& source, const ModelSpec& spec);

  bool from_config() const { return described_ != nullptr; }
  /// What the sizes rest on or leave out, in sentences for people; usually none.
  const std::vector<std::string>& notes() const { return notes_; }

  WeightSizes stored() const;
  /// Exactly what quantising writes. Throws Error(kUnsupported) for a source that is quantised already,
  /// kInvalidArgument for a policy that quantises nothing of it.
  WeightSizes quantized(const QuantPolicy& policy) const;

 private:
  const ModelSource& source() const { return described_ ? *described_ : source_; }

  const ModelSource& source_;
  std::unique_ptr<ModelSource> described_;
  std::vector<std::string> notes_;
};

}  // namespace hlwq
