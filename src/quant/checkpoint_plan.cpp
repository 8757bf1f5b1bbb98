#include "quant/checkpoint_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/checked.h"
#include "quant/published_layout.h"

namespace hlwq {
namespace {

CodebookKind effective_codebook(const QuantizeOptions& options) {
  if (options.layout == CheckpointLayout::kPublished && options.codebook == CodebookKind::kConverged)
    return CodebookKind::kPublishedA;
  return options.codebook;
}

Codebook make_codebook(int bits, int lags, CodebookKind kind) {
  if (lags > 1) return coupled_codebook(bits, lags);
  switch (kind) {
    case CodebookKind::kPublishedA:
      return published_codebook(bits, PublishedVariant::kFinite4);
    case CodebookKind::kPublishedB:
      return published_codebook(bits, PublishedVariant::kInfinite);
    default:
      return lloyd_max_codebook(bits);
  }
}

PlannedTensor plan_tensor(const Tensor& tensor, const QuantizeOptions& options) {
  const bool published = options.layout == CheckpointLayout::kPublished;
  PlannedTensor p;
  p.source = &tensor;
  QuantDecision decision = options.policy.decide(tensor, options.pad || published);
  if (decision.format && published) {
    if (!published_bits(decision.format->bits))
      throw Error(ErrorCode::kInvalidArgument, tensor.name + ": the published layout has no " +
                                                   std::to_string(decision.format->bits) +
                                                   "-bit codes; use 2 to 6 or 8, or the native layout");
    decision.format->lags = 1;  // the layout has no place to say otherwise
    if (tensor.shape.size() != 2) {
      decision = {std::nullopt, "the published layout holds matrices only", true};
    } else {
      decision.format->block = kPublishedBlock;
    }
  }
  p.format = decision.format;
  p.note = std::move(decision.reason);
  p.unfit = decision.unfit;
  if (p.format) return p;
  // Values must survive exactly. Plain types are copied, rows in logical order; block formats, permuted
  // vectors and values with something to add need F32.
  const bool plain = info(tensor.dtype).block_elements == 1;
  const bool permuted_vector = tensor.rope_heads > 0 && tensor.shape.size() < 2;
  p.copy_rows = plain && tensor.add == 0 && !permuted_vector;
  p.kept_dtype = p.copy_rows ? tensor.dtype : DType::kF32;
  return p;
}

// Data of a file starts aligned, and every part's size is a multiple of its alignment class, so writing the
// classes in descending order keeps every tensor aligned. Codes come in multiples of 4 bytes; they stay
// beside their norms.
int alignment_class(const PlannedTensor& p) {
  if (p.format) return 2;
  const uint32_t bytes = info(p.kept_dtype).block_bytes;
  return bytes >= 8 ? 0 : bytes >= 4 ? 1 : bytes == 2 ? 2 : 3;
}

// An ordered object looks every new key up among the old ones; tensor names are known to differ.
void append(OrderedJson& object, const std::string& key, OrderedJson value) {
  object.get_ref<OrderedJson::object_t&>().emplace_back(key, std::move(value));
}

void add_specs(const PlannedTensor& p, CheckpointLayout layout, std::vector<TensorSpec>& specs) {
  const Tensor& t = *p.source;
  if (!p.format) {
    specs.push_back({t.name, p.kept_dtype, t.shape});
    return;
  }
  const uint64_t rows = t.rows(), cols = t.cols();
  const uint64_t row_bytes = p.format->row_bytes(cols), row_blocks = p.format->row_blocks(cols);
  if (layout == CheckpointLayout::kNative) {
    specs.push_back({codes_name(t.name), DType::kU8, {rows, row_bytes}});
    specs.push_back({norms_name(t.name), DType::kF16, {rows, row_blocks}});
  } else {
    specs.push_back(
        {t.name + std::string(kPublishedPacked), DType::kU8, {checked_mul(rows, row_bytes, t.name)}});
    specs.push_back({t.name + std::string(kPublishedNorms), DType::kF16, {rows, row_blocks}});
  }
}

}  // namespace

uint64_t PlannedTensor::bytes() const {
  const uint64_t rows = source->rows(), cols = source->cols();
  if (!format) return rows * cols * info(kept_dtype).block_bytes;
  return rows * (format->row_bytes(cols) + 2 * format->row_blocks(cols));
}

const Codebook& CheckpointPlan::codebook(int bits, int lags) const {
  return *std::find_if(codebooks.begin(), codebooks.end(),
                       [=](const Codebook& c) { return c.bits == bits && c.lags == lags; });
}

CheckpointPlan plan_checkpoint(const ModelSource& source, const QuantizeOptions& options) {
  if (!source.tensors)
    throw Error(ErrorCode::kNotFound, source.path.string() + " holds no weights to quantize, only a config");
  if (source.config.is_object() && source.config.contains("quantization_config")) {
    const OrderedJson& q = source.config["quantization_config"];
    const std::string method = q.is_object() ? q.value("quant_method", std::string("unknown")) : "unknown";
    throw Error(ErrorCode::kUnsupported, source.path.string() + " is already quantized (" + method +
                                             "); quantize the original BF16 or F16 weights instead");
  }
  CheckpointPlan plan;
  std::set<std::pair<int, int>> widths;
  for (const Tensor& tensor : source.tensors->tensors()) {
    plan.tensors.push_back(plan_tensor(tensor, options));
    if (plan.tensors.back().format)
      widths.emplace(plan.tensors.back().format->bits, plan.tensors.back().format->lags);
  }
  if (widths.empty())
    throw Error(ErrorCode::kInvalidArgument, "the policy \"" + options.policy.name() +
                                                 "\" quantizes no tensor of " + source.path.string());
  std::stable_sort(
      plan.tensors.begin(), plan.tensors.end(),
      [](const PlannedTensor& a, const PlannedTensor& b) { return alignment_class(a) < alignment_class(b); });
  for (const auto& [bits, lags] : widths)
    plan.codebooks.push_back(make_codebook(bits, lags, effective_codebook(options)));

  if (options.layout == CheckpointLayout::kNative) {
    for (const Codebook& c : plan.codebooks)
      plan.specs.push_back({codebook_name(c.bits, c.lags),
                            DType::kF32,
                            {static_cast<uint64_t>(c.lags), uint64_t{1} << c.bits}});
  } else {
    for (const PlannedTensor& p : plan.tensors)
      if (p.format) plan.specs.push_back({p.source->name + std::string(kPublishedMeta), DType::kI64, {5}});
  }
  for (const PlannedTensor& p : plan.tensors) add_specs(p, options.layout, plan.specs);
  for (const TensorSpec& s : plan.specs) plan.bytes = checked_add(plan.bytes, s.bytes(), "the checkpoint");
  return plan;
}

std::string codebook_id(const QuantizeOptions& options) {
  switch (effective_codebook(options)) {
    case CodebookKind::kPublishedA:
      return "published-a";
    case CodebookKind::kPublishedB:
      return "published-b";
    default:
      return "lloyd-max-converged";
  }
}

OrderedJson quantization_config(const CheckpointPlan& plan, const QuantizeOptions& options) {
  // The format most weights have, for people; a decoder reads "modules".
  std::map<std::tuple<int, int, int>, uint64_t> weights;
  for (const PlannedTensor& p : plan.tensors)
    if (p.format) weights[{p.format->bits, p.format->block, p.format->lags}] += p.source->elements();
  const auto common = std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) {
                        return a.second < b.second;
                      })->first;
  OrderedJson config;
  config["quant_method"] = "hlwq";
  config["version"] = kQuantizationVersion;
  config["layout"] = options.layout == CheckpointLayout::kNative ? "native" : "published";
  config["default"] = {
      {"bits", std::get<0>(common)}, {"block", std::get<1>(common)}, {"lags", std::get<2>(common)}};
  config["codebook"] = codebook_id(options);
  config["norm"] = options.norm == NormRule::kCorrected ? "corrected" : "published";
  config["policy"] = options.policy.name();
  if (!options.calibration.is_null()) config["calibration"] = options.calibration;
  OrderedJson modules = OrderedJson::object();
  for (const PlannedTensor& p : plan.tensors)
    if (p.format)
      append(modules, p.source->name,
             {{"bits", p.format->bits},
              {"block", p.format->block},
              {"lags", p.format->lags},
              {"shape", p.source->shape}});
  config["modules"] = std::move(modules);
  return config;
}

OrderedJson published_config(const CheckpointPlan& plan, const QuantizeOptions& options,
                             const std::string& base_model) {
  OrderedJson config;
  config["format"] = "hlwq-q5";
  config["quantization"] = "HLWQ";
  config["base_model"] = base_model;
  config["block_size"] = kPublishedBlock;
  config["codebook"] = codebook_id(options);
  config["norm"] = options.norm == NormRule::kCorrected ? "corrected" : "published";
  std::map<int, uint64_t> weights;
  OrderedJson layers = OrderedJson::object();
  for (const PlannedTensor& p : plan.tensors) {
    if (!p.format) continue;
    const Tensor& t = *p.source;
    weights[p.format->bits] += t.elements();
    const uint64_t blocks = p.format->row_blocks(t.cols());
    const std::string layer = t.name.ends_with(".weight") ? t.name.substr(0, t.name.size() - 7) : t.name;
    append(layers, layer,
           {{"in_features", t.cols()},
            {"out_features", t.rows()},
            {"in_features_padded", blocks * kPublishedBlock},
            {"n_blocks", blocks},
            {"bits", p.format->bits},
            {"block_size", kPublishedBlock}});
  }
  config["bits"] = std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) {
                     return a.second < b.second;
                   })->first;
  config["layers"] = std::move(layers);
  return config;
}

}  // namespace hlwq
