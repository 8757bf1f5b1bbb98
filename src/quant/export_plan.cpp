#include "quant/export_plan.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>

#include "base/checked.h"
#include "quant/int4.h"
#include "quant/policy.h"

namespace hlwq {
namespace {

constexpr std::string_view kWeight = ".weight", kGateUp = ".experts.gate_up_proj",
                           kDown = ".experts.down_proj";

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// Parts that are no linear of the decoder, by the regular expression that names them in an ignore list. A
/// pattern of compressed-tensors matches from a name's beginning, and each engine puts its own prefix there.
struct Left {
  std::string_view part, pattern;
};
constexpr std::array<Left, 9> kLeft = {{{"vision_tower", "re:.*vision_tower.*"},
                                        {"embed_vision", "re:.*embed_vision.*"},
                                        {"audio_tower", "re:.*audio_tower.*"},
                                        {"embed_audio", "re:.*embed_audio.*"},
                                        {"vision_model", "re:.*vision_model.*"},
                                        {"audio_model", "re:.*audio_model.*"},
                                        {"visual.", "re:.*visual\\..*"},
                                        {"multi_modal_projector", "re:.*multi_modal_projector.*"},
                                        {"router", "re:.*router.*"}}};
constexpr std::array<std::array<std::string_view, 3>, 2> kFused = {
    {{".q_proj", ".k_proj", ".v_proj"}, {".gate_proj", ".up_proj", ""}}};
constexpr std::string_view kAllExperts = "re:.*\\.experts(\\..*)?$";

bool is_embedding(std::string_view name) {
  return has(name, "embed_tokens") || has(name, "wte.") || has(name, "word_embeddings");
}
bool is_head(std::string_view name) {
  return name.ends_with("lm_head.weight") || name.ends_with("embed_out.weight");
}

std::string module_of(const std::string& name) {
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

/// A tensor as policies see it: they look at name, shape and whether it holds floats.
Tensor as_tensor(const SourceWeight& w) {
  Tensor t;
  t.name = w.name;
  t.shape = w.shape;
  t.dtype = w.tensor ? w.tensor->dtype : DType::kBF16;
  return t;
}

/// A linear of the language model, or its stacked experts: what INT4 is for.
bool is_linear(const SourceWeight& w) {
  return why_not_eligible(as_tensor(w)).empty() && !is_embedding(w.name) && !is_head(w.name) &&
         (w.shape.size() == 2 || w.name.ends_with(kGateUp) || w.name.ends_with(kDown));
}

bool is_stacked(const SourceWeight& w) { return w.shape.size() == 3; }

/// Engines hold experts of a model as one kind of thing, so either all are INT4 or none.
bool experts_fit(const SourceWeights& weights, int group) {
  return std::all_of(weights.weights().begin(), weights.weights().end(), [group](const SourceWeight& w) {
    return !is_stacked(w) || !is_linear(w) ||
           (w.cols() % group == 0 && (!w.name.ends_with(kGateUp) || w.shape[1] % 2 == 0));
  });
}

std::vector<ExportPart> expert_parts(const SourceWeight& w) {
  const bool gate_up = w.name.ends_with(kGateUp);
  const std::string prefix = w.name.substr(0, w.name.size() - (gate_up ? kGateUp : kDown).size());
  std::vector<ExportPart> parts;
  for (uint64_t e = 0; e < w.shape[0]; ++e) {
    const std::string expert = prefix + ".experts." + std::to_string(e) + ".";
    const uint64_t first = e * w.shape[1], half = w.shape[1] / 2;
    if (gate_up) {
      parts.push_back({expert + "gate_proj", first, half});
      parts.push_back({expert + "up_proj", first + half, half});
    } else {
      parts.push_back({expert + "down_proj", first, w.shape[1]});
    }
  }
  return parts;
}

PlannedExport plan_weight(const SourceWeight& w, const ExportOptions& options, bool experts) {
  PlannedExport p;
  p.weight = &w;
  const bool floats = !w.tensor || info(w.tensor->dtype).is_float;
  p.dtype = floats ? DType::kBF16 : w.tensor->dtype;
  if (options.format != ExportFormat::kCompressedTensors || !is_linear(w)) return p;
  if (is_stacked(w)) {
    if (experts) {
      p.int4 = expert_parts(w);
    } else {
      p.note = "not all experts have widths that groups of " + std::to_string(options.group) + " divide";
    }
  } else if (w.cols() % static_cast<uint64_t>(options.group) != 0) {
    p.note = "groups of " + std::to_string(options.group) + " do not divide its " + std::to_string(w.cols()) +
             " columns";
  } else {
    p.int4 = {{module_of(w.name), 0, w.rows()}};
  }
  return p;
}

/// Names, or patterns, of all modules that an engine could take for a quantised linear and that are none.
std::vector<std::string> ignore_list(const std::vector<PlannedExport>& tensors) {
  std::vector<std::string> list = {"lm_head"};
  std::set<std::string> known(list.begin(), list.end());
  const auto add = [&](std::string entry) {
    if (known.insert(entry).second) list.push_back(std::move(entry));
  };
  std::vector<std::string> names;
  for (const PlannedExport& p : tensors) {
    const SourceWeight& w = *p.weight;
    if (!p.int4.empty()) continue;
    if (is_stacked(w) && is_linear(w)) {
      add(std::string(kAllExperts));
      continue;
    }
    if (w.shape.size() < 2) continue;
    if (is_embedding(w.name)) {
      add("re:.*embed_tokens.*");
      continue;
    }
    const auto left =
        std::find_if(kLeft.begin(), kLeft.end(), [&](const Left& l) { return has(w.name, l.part); });
    if (left != kLeft.end())
      add(std::string(left->pattern));
    else if (w.name.ends_with(kWeight))
      names.push_back(module_of(w.name));
  }
  for (std::string& name : names) {
    // Engines fuse these and want all of them alike, those too that a layer does not have: its values may be
    // its keys, or both another layer's.
    for (const auto& fused : kFused) {
      const auto part = std::find_if(fused.begin(), fused.end(), [&](std::string_view end) {
        return !end.empty() && name.ends_with(end);
      });
      if (part == fused.end()) continue;
      const std::string layer = name.substr(0, name.size() - part->size());
      for (const std::string_view end : fused)
        if (!end.empty()) add(layer + std::string(end));
    }
    add(std::move(name));
  }
  return list;
}

/// Data of a file starts aligned, so writing types of descending size keeps every tensor aligned. INT4
/// codes and scales of a part stay together.
int alignment_class(const PlannedExport& p) {
  if (!p.int4.empty()) return 2;
  const uint32_t bytes = info(p.dtype).block_bytes;
  return bytes >= 8 ? 0 : bytes >= 4 ? 1 : bytes == 2 ? 3 : 4;
}

void add_specs(const ExportOptions& options, ExportPlan& plan) {
  const auto group = static_cast<uint64_t>(options.group);
  const auto for_parts = [&](const auto& fn) {
    for (const PlannedExport& p : plan.tensors)
      for (const ExportPart& part : p.int4) fn(part, p.weight->cols());
  };
  for_parts([&](const ExportPart& part, uint64_t) {
    plan.specs.push_back({part.module + ".weight_shape", DType::kI64, {2}});
  });
  for (const PlannedExport& p : plan.tensors)
    if (alignment_class(p) < 2) plan.specs.push_back({p.weight->name, p.dtype, p.weight->shape});
  for_parts([&](const ExportPart& part, uint64_t cols) {
    plan.specs.push_back({part.module + ".weight_packed", DType::kI32, {part.rows, cols / 8}});
    if (scales_keep_alignment(part, cols, options.group))
      plan.specs.push_back({part.module + ".weight_scale", DType::kBF16, {part.rows, cols / group}});
  });
  for_parts([&](const ExportPart& part, uint64_t cols) {
    if (!scales_keep_alignment(part, cols, options.group))
      plan.specs.push_back({part.module + ".weight_scale", DType::kBF16, {part.rows, cols / group}});
  });
  for (const PlannedExport& p : plan.tensors)
    if (alignment_class(p) > 2) plan.specs.push_back({p.weight->name, p.dtype, p.weight->shape});
}

/// "dtype" is the newer name of "torch_dtype"; parts of a model have their own.
void set_dtype(OrderedJson& config) {
  for (auto& [key, value] : config.items()) {
    if (key == "dtype" || key == "torch_dtype") value = "bfloat16";
    if (value.is_object()) set_dtype(value);
  }
}

}  // namespace

bool scales_keep_alignment(const ExportPart& part, uint64_t cols, int group) {
  return part.rows * (cols / static_cast<uint64_t>(group)) % 2 == 0;
}

ExportPlan plan_export(const SourceWeights& weights, const ExportOptions& options) {
  const bool int4 = options.format == ExportFormat::kCompressedTensors;
  if (int4 && !valid_int4_group(options.group))
    throw Error(ErrorCode::kInvalidArgument,
                "groups of " + std::to_string(options.group) + ": use 32, 64 or 128");
  ExportPlan plan;
  const bool experts = int4 && experts_fit(weights, options.group);
  for (const SourceWeight& w : weights.weights()) plan.tensors.push_back(plan_weight(w, options, experts));
  if (int4 && std::all_of(plan.tensors.begin(), plan.tensors.end(),
                          [](const PlannedExport& p) { return p.int4.empty(); }))
    throw Error(ErrorCode::kInvalidArgument, "groups of " + std::to_string(options.group) +
                                                 " divide the width of no linear of this model" +
                                                 (options.group > 32 ? ": try groups of 32" : ""));
  plan.ignore = ignore_list(plan.tensors);
  std::stable_sort(
      plan.tensors.begin(), plan.tensors.end(),
      [](const PlannedExport& a, const PlannedExport& b) { return alignment_class(a) < alignment_class(b); });
  add_specs(options, plan);
  for (const TensorSpec& s : plan.specs) plan.bytes = checked_add(plan.bytes, s.bytes(), "the export");
  return plan;
}

OrderedJson export_config(const OrderedJson& source_config, const ExportPlan& plan,
                          const ExportOptions& options) {
  OrderedJson config = source_config.is_object() ? source_config : OrderedJson::object();
  config.erase("quantization_config");
  if (!config.contains("dtype") && !config.contains("torch_dtype")) config["dtype"] = "bfloat16";
  set_dtype(config);
  if (options.format != ExportFormat::kCompressedTensors) return config;
  const OrderedJson group = {{"targets", {"Linear"}},
                             {"weights",
                              {{"num_bits", 4},
                               {"type", "int"},
                               {"symmetric", true},
                               {"strategy", "group"},
                               {"group_size", options.group},
                               {"dynamic", false}}},
                             {"input_activations", nullptr},
                             {"output_activations", nullptr},
                             {"format", "pack-quantized"}};
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "pack-quantized"},
                                   {"quantization_status", "compressed"},
                                   {"config_groups", {{"group_0", group}}},
                                   {"ignore", plan.ignore},
                                   {"kv_cache_scheme", nullptr},
                                   {"global_compression_ratio", nullptr}};
  return config;
}

}  // namespace hlwq
