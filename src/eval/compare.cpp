#include "eval/compare.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "engine/plan.h"
#include "eval/llama_quantize.h"
#include "quant/quantize.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kKeptBaseBytes = 4ull << 30;  // of the base's hidden states: windows beyond run it again

fs::path make_directory(const fs::path& inside) {
  std::string name = (inside / "hlwq-compare-XXXXXX").string();
  if (!::mkdtemp(name.data()))
    throw Error(ErrorCode::kIo,
                "cannot make a directory in " + inside.string() + ": " + std::strerror(errno));
  return name;
}

std::string upper(std::string s) {
  for (char& c : s)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return s;
}

std::string lower(std::string s) {
  for (char& c : s)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return s;
}

bool has_weights(const fs::path& path) {
  std::error_code ec;
  return path.extension() == ".gguf" ? fs::is_regular_file(path, ec) : fs::exists(path / "config.json", ec);
}

bool is_plain_gguf(const fs::path& path) {
  const GgufFile file = open_gguf(path);
  return std::all_of(file.tensors->tensors().begin(), file.tensors->tensors().end(),
                     [](const Tensor& t) { return t.shape.size() < 2 || info(t.dtype).block_elements == 1; });
}

// The GGUF file that llama.cpp can read the model from: the model itself, or an unquantised one in its
// directory or beside it.
std::optional<fs::path> gguf_of(const fs::path& model) {
  if (model.extension() == ".gguf") return model;
  std::vector<fs::path> candidates;
  std::error_code ec;
  for (const fs::directory_entry& entry : fs::directory_iterator(model, ec))
    if (entry.path().extension() == ".gguf") candidates.push_back(entry.path());
  std::sort(candidates.begin(), candidates.end());
  fs::path named = fs::absolute(model).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();
  named += ".gguf";
  if (fs::is_regular_file(named, ec)) candidates.push_back(named);
  for (const fs::path& candidate : candidates)
    if (is_plain_gguf(candidate)) return candidate;
  return std::nullopt;
}

std::string family_of(const ModelSource& source, const Variant& variant) {
  if (!variant.gguf_type.empty() || source.kind == ModelSource::Kind::kGguf) return "GGUF";
  const auto found = source.config.find("quantization_config");
  if (found == source.config.end() || !found->is_object() ||
      found->value("quant_method", OrderedJson()) != "hlwq")
    return "other";
  int64_t lags = 1;
  if (const auto modules = found->find("modules"); modules != found->end() && modules->is_object())
    for (const auto& [name, module] : modules->items())
      if (module.is_object() && module.contains("lags") && module["lags"].is_number_integer())
        lags = std::max(lags, module["lags"].get<int64_t>());
  return "HLWQ" + (lags > 1 ? ", " + std::to_string(lags) + " lags" : "") +
         (found->contains("calibration") ? ", calibrated" : "");
}

}  // namespace

Variant parse_variant(const std::string& text) {
  Variant v;
  v.name = text;
  const std::string name = lower(text);
  if (name == "int4" || name == "nf4") {
    v.baseline = name == "int4" ? Baseline::kInt4 : Baseline::kNf4;
    return v;
  }
  const auto& types = llama_quantize_types();
  if (std::find(types.begin(), types.end(), name) != types.end()) {
    v.gguf_type = upper(name);
    return v;
  }
  if (name.ends_with(".json")) {
    v.policy = QuantPolicy::from_json(read_file(text), text);
    v.name = fs::path(text).stem().string();
    return v;
  }
  if (has_weights(text)) {
    v.given = text;
    fs::path path = fs::path(text).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
    v.name = path.filename().string();
    return v;
  }
  try {
    v.policy = QuantPolicy::named(text);
  } catch (const Error&) {
    std::string list;
    for (const std::string& type : types) list += ", " + type;
    throw Error(ErrorCode::kInvalidArgument,
                "there is no variant \"" + text +
                    "\": use default, published, q2 to q8, one of these with -l2 or -l3, int4, nf4" + list +
                    ", a policy file (.json), a checkpoint's directory or a .gguf file");
  }
  return v;
}

Comparison::Comparison(const Model& base, Engine& engine, std::span<const int32_t> text,
                       const EvalOptions& options, const fs::path& work, std::string llama_quantize)
    : base_(base),
      engine_(engine),
      kv_(options.kv),
      evaluator_(&base, engine, text, options, kKeptBaseBytes),
      directory_(make_directory(work)),
      llama_quantize_(std::move(llama_quantize)) {}

Comparison::~Comparison() {
  std::error_code ec;
  fs::remove_all(directory_, ec);
}

CompareRow Comparison::run(const Variant& variant, const Progress& making, const Progress& evaluating) {
  if (variant.given) return measure(variant, *variant.given, {}, evaluating);
  const ModelSource& source = base_.source();
  const fs::path path = directory_ / (variant.gguf_type.empty() ? "variant" : "variant.gguf");
  std::map<std::string, uint64_t> coded;
  if (variant.policy) {
    QuantizeOptions options;
    options.policy = *variant.policy;
    quantize_model(source, options, path, *engine_.compute().pool, making);
  } else if (variant.baseline) {
    coded = write_baseline(source, *variant.baseline, QuantPolicy::named("q4"), path, *engine_.compute().pool,
                           making);
  } else {
    CompareRow row;
    row.name = variant.name;
    row.family = "GGUF";
    row.missing = why_no_llama_quantize(llama_quantize_);
    if (!row.missing.empty()) return row;
    const auto gguf = gguf_of(source.path);
    if (!gguf) {
      row.missing = "llama.cpp reads GGUF files only, and there is no unquantised one in or beside " +
                    source.path.string();
      return row;
    }
    run_llama_quantize(llama_quantize_, *gguf, path, variant.gguf_type, engine_.threads(),
                       directory_ / "llama-quantize.log", making);
  }
  CompareRow row = measure(variant, path, coded, evaluating);
  fs::remove_all(path);
  return row;
}

CompareRow Comparison::measure(const Variant& variant, const fs::path& path,
                               const std::map<std::string, uint64_t>& coded, const Progress& progress) {
  const auto model = Model::load(path);
  const ModelFacts facts = model_facts(*model);
  CompareRow row;
  row.name = variant.name;
  row.family = family_of(model->source(), variant);
  row.weight_bytes = facts.weight_bytes;
  row.bits_per_weight = facts.bits_per_weight;
  if (!coded.empty()) {  // the file holds rounded numbers; their own format is smaller
    uint64_t weights = 0, bytes = 0;
    for (const WeightStore::Use& use : model->weights().used()) {
      const auto own = coded.find(use.name);
      const uint64_t size = own == coded.end() ? use.bytes : own->second;
      weights += use.rows * use.cols;
      bytes += size;
      row.weight_bytes -= use.bytes - size;
    }
    row.bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
  row.result = evaluator_.run(*model, kv_, progress);
  return row;
}

}  // namespace hlwq
