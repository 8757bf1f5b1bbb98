#include "quant/model_card.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string_view>

#include "base/file.h"
#include "quant/checkpoint_plan.h"

namespace hlwq {
namespace {

std::string fixed(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string bytes_text(uint64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fixed(b / 1e9, "%.2f GB");
  if (bytes >= 1'000'000) return fixed(b / 1e6, "%.1f MB");
  return fixed(b / 1e3, "%.1f kB");
}

/// A YAML scalar that cannot break out of its line: JSON strings are YAML.
std::string yaml(const std::string& text) {
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string metadata_string(const ModelSource& source, const char* key) {
  if (!source.gguf_metadata.is_object() || !source.gguf_metadata.contains(key)) return {};
  const Json& value = source.gguf_metadata[key];
  return value.is_string() ? value.get<std::string>() : std::string();
}

/// The lines of the source's own card that begin with one of `keys`, as they stand there.
std::string card_lines(const ModelSource& source, std::initializer_list<std::string_view> keys) {
  std::string text;
  if (source.kind == ModelSource::Kind::kGguf) return text;
  std::error_code ec;
  const auto card = source.path / "README.md";
  if (!std::filesystem::is_regular_file(card, ec)) return text;
  std::string all;
  try {
    all = read_file(card, 1u << 20);
  } catch (const Error&) {
    return text;  // a card that cannot be read says nothing about the licence; the model itself is fine
  }
  std::istringstream lines(all);
  std::string line;
  if (!std::getline(lines, line) || line.substr(0, 3) != "---") return text;
  while (std::getline(lines, line) && line.substr(0, 3) != "---")
    if (std::any_of(keys.begin(), keys.end(), [&](std::string_view key) { return line.starts_with(key); }))
      text += line + "\n";
  return text;
}

std::string license_lines(const ModelSource& source) {
  if (source.kind != ModelSource::Kind::kGguf)
    return card_lines(source, {"license:", "license_name:", "license_link:"});
  const std::string license = metadata_string(source, "general.license");
  return license.empty() ? license : "license: " + yaml(license) + "\n";
}

struct Group {
  uint64_t tensors = 0, elements = 0, bytes = 0;
  double error = 0;  // relative mse, weighted by elements
};

std::string group_name(const QuantizedTensor& t) {
  if (t.bits == 0) return "kept as they are";
  return format_label({t.bits, t.lags, t.block}) + ", blocks of " + std::to_string(t.block);
}

/// How the note of quantization_config reads in a sentence.
std::string calibration_text(const OrderedJson& note) {
  if (!note.is_object() || !note.contains("tokens") || !note["tokens"].is_number_unsigned()) return {};
  return "; rounded with regard to the layers' inputs on " + std::to_string(note["tokens"].get<uint64_t>()) +
         " tokens of " + (note.value("text", "") == "builtin" ? "hlwq's built-in text" : "calibration text");
}

}  // namespace

std::string base_model_name(const ModelSource& source, const QuantizeOptions& options) {
  if (!options.base_model.empty()) return options.base_model;
  for (const char* key :
       {"general.source.huggingface.repository", "general.base_model.0.repo_url", "general.name"})
    if (std::string name = metadata_string(source, key); !name.empty()) return name;
  if (source.config.is_object() && source.config.contains("_name_or_path") &&
      source.config["_name_or_path"].is_string())
    if (std::string name = source.config["_name_or_path"].get<std::string>(); !name.empty() && name[0] != '/')
      return name;
  const auto path = std::filesystem::absolute(source.path).lexically_normal();
  return (path.filename().empty() ? path.parent_path() : path).stem().string();
}

std::string model_card(const ModelSource& source, const QuantizeOptions& options,
                       const QuantizeResult& result) {
  const std::string base = base_model_name(source, options);
  const std::string title = base.substr(base.find_last_of('/') + 1) + " HLWQ";
  std::map<std::string, Group> groups;
  for (const QuantizedTensor& t : result.tensors) {
    Group& g = groups[group_name(t)];
    ++g.tensors;
    g.elements += t.elements;
    g.bytes += t.bytes;
    g.error += t.mse * static_cast<double>(t.elements);
  }
  const bool images = source.config.is_object() && source.config.contains("vision_config");

  std::ostringstream out;
  out << "---\nbase_model: " << yaml(base) << "\nbase_model_relation: quantized\nlibrary_name: hlwq\n"
      << license_lines(source) << "pipeline_tag: " << (images ? "image-text-to-text" : "text-generation")
      << "\ntags:\n- hlwq\n- quantized\n- hadamard\n- lloyd-max\n---\n\n# " << title << "\n\n"
      << "Weights quantized with HLWQ (Hadamard rotation and Lloyd-Max codes): "
      << bytes_text(result.bytes_out) << " from " << bytes_text(result.bytes_in) << ", "
      << fixed(result.bits_per_weight(), "%.3f") << " bits per weight over everything.\n\n"
      << "| tensors | how | parameters | size | bits per weight | relative squared error "
         "|\n|--:|---|--:|--:|--:|--:|\n";
  for (const auto& [name, g] : groups) {
    const double n = static_cast<double>(g.elements);
    out << "| " << g.tensors << " | " << name << " | " << g.elements << " | " << bytes_text(g.bytes) << " | "
        << fixed(n > 0 ? 8.0 * static_cast<double>(g.bytes) / n : 0, "%.3f") << " | "
        << (name.starts_with("Q") ? fixed(g.error / n, "%.6f") : "0") << " |\n";
  }
  out << "\nCodebook: " << codebook_id(options)
      << "; block norms: " << (options.norm == NormRule::kCorrected ? "least squares" : "L2") << "; layout: "
      << (options.layout == CheckpointLayout::kNative ? "native (`quantization_config` in `config.json`)"
                                                      : "published (`__packed`, `__norms`, `__meta`)")
      << calibration_text(options.calibration)
      << ".\n\n## Run it\n\n```sh\nhlwq chat .\nhlwq run . -p \"Hello\"\nhlwq info .\n```\n";
  return out.str();
}

std::string export_card(const ModelSource& source, const ExportOptions& options, const ExportResult& result) {
  QuantizeOptions named;
  named.base_model = options.base_model;
  const std::string base = base_model_name(source, named);
  const bool int4 = options.format == ExportFormat::kCompressedTensors;
  // An HLWQ checkpoint's card already names what it was made from.
  std::string base_line = options.base_model.empty() ? card_lines(source, {"base_model:"}) : std::string();
  if (base_line.empty()) base_line = "base_model: " + yaml(base) + "\n";
  const bool images = source.config.is_object() && source.config.contains("vision_config");
  uint64_t rounded = 0, kept = 0;
  double error = 0;
  for (const ExportedWeight& w : result.weights) {
    (w.int4 ? rounded : kept) += w.elements;
    error += w.int4 ? w.mse * static_cast<double>(w.elements) : 0;
  }
  std::ostringstream out;
  out << "---\n"
      << base_line << (int4 ? "base_model_relation: quantized\n" : "") << "library_name: transformers\n"
      << license_lines(source) << "pipeline_tag: " << (images ? "image-text-to-text" : "text-generation")
      << "\ntags:\n"
      << (int4 ? "- compressed-tensors\n- w4a16\n" : "- bfloat16\n") << "---\n\n# "
      << base.substr(base.find_last_of('/') + 1) << (int4 ? " W4A16" : " BF16") << "\n\n"
      << "Written by `hlwq export`: " << bytes_text(result.bytes_out) << ".\n\n";
  if (int4)
    out << "Linear layers of the language model in 4-bit integers, symmetric, groups of " << options.group
        << " with BF16 scales (compressed-tensors, pack-quantized): " << rounded
        << " weights, relative squared error of this rounding "
        << fixed(rounded > 0 ? error / static_cast<double>(rounded) : 0, "%.6f")
        << ". All else in BF16: " << kept << " weights.\n\n```sh\nvllm serve .\n```\n";
  else
    out << "All weights in BF16"
        << (source.config.contains("quantization_config") ? ", decoded from HLWQ codes" : "") << ".\n";
  return out.str();
}

}  // namespace hlwq
