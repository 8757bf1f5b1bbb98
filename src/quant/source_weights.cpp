#include "quant/source_weights.h"

#include <map>

#include "base/checked.h"
#include "quant/codec.h"

namespace hlwq {
namespace {

bool is_codebook(const std::string& name) { return name.starts_with("hlwq.codebook."); }

void refuse_other_methods(const ModelSource& source) {
  if (!source.config.is_object() || !source.config.contains("quantization_config")) return;
  const OrderedJson& q = source.config["quantization_config"];
  const OrderedJson method = q.is_object() ? q.value("quant_method", OrderedJson()) : OrderedJson();
  const std::string name = method.is_string() ? method.get<std::string>() : "unknown";
  if (name != "hlwq" && !is_published(source))
    throw Error(ErrorCode::kUnsupported, source.path.string() + " is already quantized (" + name +
                                             "); start from its HLWQ checkpoint or original weights");
}

}  // namespace

uint64_t SourceWeight::rows() const {
  uint64_t n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

uint64_t SourceWeight::stored_bytes() const {
  uint64_t bytes = 0;
  for (const Tensor* t : parts) bytes += t->data.size();
  return bytes;
}

void SourceWeight::decode(uint64_t first, uint64_t n, float* out) const {
  if (!stored) return decode_rows(*tensor, first, n, out);
  const HlwqFormat& f = stored->format;
  for (uint64_t r = first; r < first + n; ++r)
    decode_row(f, *codebook, stored->codes + r * f.row_bytes(cols()),
               stored->norms + r * f.row_blocks(cols()), cols(), out + (r - first) * cols());
}

SourceWeights::SourceWeights(const ModelSource& source) {
  if (!source.tensors)
    throw Error(ErrorCode::kNotFound, source.path.string() + " holds no weights, only a config");
  refuse_other_methods(source);
  if (HlwqCheckpoint::is_hlwq(source)) checkpoint_ = std::make_unique<HlwqCheckpoint>(source);
  std::map<std::string, size_t> coded;
  for (const Tensor& t : source.tensors->tensors()) {
    const std::string name = checkpoint_ ? checkpoint_->weight_of(t.name) : std::string();
    if (name.empty()) {
      if (checkpoint_ && is_codebook(t.name)) continue;
      weights_.push_back({t.name, t.shape, &t, nullptr, nullptr, {&t}});
      continue;
    }
    const auto [it, is_new] = coded.try_emplace(name, weights_.size());
    if (is_new) {
      const StoredMatrix& m = checkpoint_->matrices().at(name);
      weights_.push_back(
          {name, m.shape, nullptr, &m, &checkpoint_->codebook(m.format.bits, m.format.lags), {}});
    }
    weights_[it->second].parts.push_back(&t);
  }
}

}  // namespace hlwq
