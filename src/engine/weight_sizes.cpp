#include "engine/weight_sizes.h"

#include <map>

#include "base/checked.h"
#include "model/config_reader.h"
#include "model/tensor_list.h"
#include "quant/checkpoint_plan.h"

namespace hlwq {
namespace {

/// Tensors without data: enough for every question about sizes.
class DescribedTensors : public TensorSource {
 public:
  explicit DescribedTensors(std::vector<Tensor> tensors) : tensors_(std::move(tensors)) { build_index(); }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor&) const override {}

 private:
  std::vector<Tensor> tensors_;
};

DType config_dtype(const OrderedJson& config) {
  const auto named = [](const OrderedJson& from) -> std::string {
    for (const char* key : {"dtype", "torch_dtype"})
      if (from.contains(key) && from[key].is_string()) return from[key].get<std::string>();
    return "";
  };
  std::string name = named(config);
  if (name.empty() && config.contains("text_config") && config["text_config"].is_object())
    name = named(config["text_config"]);
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  return DType::kBF16;
}

/// Sums parts of a checkpoint.
class Summer {
 public:
  explicit Summer(std::string policy) { sizes_.policy = std::move(policy); }

  void add(const std::string& name, uint64_t rank, uint64_t elements, uint64_t bytes,
           const std::string& format, bool in_codes) {
    if (in_codes) {
      sizes_.coded = checked_add(sizes_.coded, bytes, name);
      sizes_.coded_params += elements;
    }
    const TensorRole role = tensor_role(name);
    uint64_t& part = role == TensorRole::kVision  ? sizes_.vision
                     : role == TensorRole::kAudio ? sizes_.audio
                                                  : sizes_.text;
    part = checked_add(part, bytes, name);
    sizes_.params = checked_add(sizes_.params, elements, name);
    if (role != TensorRole::kText) return;
    sizes_.text_params += elements;
    if (rank < 2) return;
    WeightSizes::Group& g = groups_[format];
    ++g.tensors;
    g.params += elements;
    g.bytes += bytes;
  }

  WeightSizes take(uint64_t tables) {
    sizes_.tables = tables;
    uint64_t params = 0, bytes = 0;
    for (auto& [format, group] : groups_) {
      group.format = format;
      params += group.params;
      bytes += group.bytes;
      sizes_.groups.push_back(group);
    }
    if (params) sizes_.bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(params);
    return std::move(sizes_);
  }

 private:
  WeightSizes sizes_;
  std::map<std::string, WeightSizes::Group> groups_;
};

uint64_t stored_bytes(const Tensor& t) {
  return t.data.empty() ? checked_mul(t.rows(), t.row_bytes(), t.name) : t.data.size();
}

/// The format that an HLWQ checkpoint's config gives a tensor; none when it was kept.
std::optional<HlwqFormat> module_format(const OrderedJson& modules, const std::string& name) {
  const auto it = modules.find(name);
  if (it == modules.end()) return std::nullopt;
  const ConfigReader c(*it);
  const HlwqFormat f{static_cast<int>(c.integer("bits", -1, 2, 8)),
                     static_cast<int>(c.integer("lags", 1, 1, 3)),
                     static_cast<int>(c.integer("block", 128, 32, 512))};
  if (!valid(f))
    throw Error(ErrorCode::kInvalidFile, "config.json: quantization_config gives " + name + " a block of " +
                                             std::to_string(f.block) +
                                             "; it must be 32, 64, 128, 256 or 512");
  return f;
}

const OrderedJson* hlwq_modules(const OrderedJson& config) {
  if (!config.contains("quantization_config")) return nullptr;
  const OrderedJson& q = config["quantization_config"];
  if (!q.is_object() || q.value("quant_method", OrderedJson()) != "hlwq" || !q.contains("modules") ||
      !q["modules"].is_object())
    return nullptr;
  return &q["modules"];
}

}  // namespace

WeightPlanner::WeightPlanner(const ModelSource& source, const ModelSpec& spec) : source_(source) {
  if (source.tensors) return;
  TensorList list = list_tensors(source.config, spec);
  const DType dtype = config_dtype(source.config);
  std::vector<Tensor> tensors;
  tensors.reserve(list.tensors.size());
  for (ListedTensor& t : list.tensors) {
    Tensor& added = tensors.emplace_back();
    added.name = std::move(t.name);
    added.dtype = dtype;
    added.shape = std::move(t.shape);
  }
  for (const std::string& part : list.not_counted) notes_.push_back("not counted: " + part);
  if (source.config.contains("quantization_config") && !hlwq_modules(source.config))
    notes_.push_back("the config names a quantization that is not planned for: sizes are of " +
                     std::string(info(dtype).name) + " weights");
  described_ = std::make_unique<ModelSource>();
  described_->path = source.path;
  described_->config = source.config;
  described_->config.erase("quantization_config");  // the list is of the model before quantisation
  described_->tensors = std::make_unique<DescribedTensors>(std::move(tensors));
}

WeightSizes WeightPlanner::stored() const {
  Summer sum("stored");
  const OrderedJson* modules = described_ ? hlwq_modules(source_.config) : nullptr;
  for (const Tensor& t : source().tensors->tensors()) {
    if (const auto f = modules ? module_format(*modules, t.name) : std::nullopt)
      sum.add(t.name, t.shape.size(), t.elements(),
              checked_mul(t.rows(), f->row_bytes(t.cols()) + 2 * f->row_blocks(t.cols()), t.name),
              format_label(*f), true);
    else
      sum.add(t.name, t.shape.size(), t.elements(), stored_bytes(t), std::string(info(t.dtype).name), false);
  }
  return sum.take(0);
}

WeightSizes WeightPlanner::quantized(const QuantPolicy& policy) const {
  QuantizeOptions options;
  options.policy = policy;
  const CheckpointPlan plan = plan_checkpoint(source(), options);
  Summer sum(policy.name());
  uint64_t tensors = 0;
  for (const PlannedTensor& p : plan.tensors) {
    tensors += p.bytes();
    sum.add(p.source->name, p.source->shape.size(), p.source->elements(), p.bytes(),
            p.format ? format_label(*p.format) : std::string(info(p.kept_dtype).name), p.format.has_value());
  }
  return sum.take(plan.bytes - tensors);
}

}  // namespace hlwq
