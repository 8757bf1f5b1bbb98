// hlwq quantize: a model into an HLWQ checkpoint.
#include <algorithm>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "common.h"
#include "engine/calibration.h"
#include "engine/device.h"
#include "eval/sensitivity.h"
#include "hub_args.h"
#include "quant/allocation.h"
#include "quant/quantize.h"
#include "terminal.h"
#include "text/tokenizer.h"

namespace hlwq::cli {
namespace {

/// What a weight does in the model, from its name.
std::string kind_of(const QuantizedTensor& t) {
  if (t.bits == 0) return "kept: " + (t.note.empty() ? "other" : t.note);
  const auto has = [&](const char* part) { return t.name.find(part) != std::string::npos; };
  if (has("embed")) return "embedding";
  if (has("lm_head")) return "lm_head";
  if (has("q_proj") || has("k_proj") || has("v_proj") || has("qkv")) return "attention q, k, v";
  if (has("o_proj")) return "attention o";
  if (has("gate") || has("up_proj")) return "mlp gate, up";
  if (has("down_proj")) return "mlp down";
  return "other";
}

struct Group {
  uint64_t tensors = 0, elements = 0, bytes = 0;
  double mse = 0, cosine = 0;  // weighted by elements
};

std::string summary_table(const QuantizeResult& result) {
  // Quantised kinds first, in the order in which the model has them.
  std::vector<std::pair<std::string, std::pair<int, int>>> order;  // kind, (bits, lags)
  std::map<std::pair<std::string, std::pair<int, int>>, Group> groups;
  for (const QuantizedTensor& t : result.tensors) {
    const std::pair key(kind_of(t), std::pair(t.bits, t.lags));
    if (!groups.contains(key)) order.push_back(key);
    Group& g = groups[key];
    const auto n = static_cast<double>(t.elements);
    ++g.tensors;
    g.elements += t.elements;
    g.bytes += t.bytes;
    g.mse += t.mse * n;
    g.cosine += t.cosine * n;
  }
  std::stable_partition(order.begin(), order.end(), [](const auto& key) { return key.second.first > 0; });
  Table table({"kind", "tensors", "weights", "format", "size", "bits/weight", "relative MSE", "cosine"});
  for (const auto& key : order) {
    const Group& g = groups[key];
    const double n = static_cast<double>(std::max<uint64_t>(1, g.elements));
    const bool coded = key.second.first > 0;
    table.add({key.first, format_count(g.tensors), format_params(g.elements),
               coded ? format_label({key.second.first, key.second.second, 128}) : "as is",
               format_bytes(g.bytes), fixed(8.0 * static_cast<double>(g.bytes) / n, 3),
               coded ? fixed(g.mse / n, 6) : "", coded ? fixed(g.cosine / n, 6) : ""});
  }
  table.add({"total", format_count(result.tensors.size()), format_params(result.elements), "",
             format_bytes(result.bytes_out), fixed(result.bits_per_weight(), 3), "", ""});
  return table.str();
}

OrderedJson to_json(const QuantizeResult& result) {
  OrderedJson tensors = OrderedJson::array();
  for (const QuantizedTensor& t : result.tensors) {
    OrderedJson entry{{"name", t.name}, {"bits", t.bits}, {"mse", t.mse}, {"cosine", t.cosine}};
    entry["block"] = t.block;
    entry["lags"] = t.lags;
    entry["bytes"] = t.bytes;
    entry["elements"] = t.elements;
    if (!t.note.empty()) entry["note"] = t.note;
    tensors.push_back(std::move(entry));
  }
  return {{"tensors", std::move(tensors)},
          {"bytes_in", result.bytes_in},
          {"bytes_out", result.bytes_out},
          {"seconds", result.seconds},
          {"bits_per_weight", result.bits_per_weight()}};
}

class Quantize : public Command {
 public:
  std::string name() const override { return "quantize"; }
  std::string summary() const override { return "Turn a model into an HLWQ checkpoint"; }
  std::string examples() const override {
    return "  hlwq quantize SmolLM2-135M-Instruct -o SmolLM2-Q5\n"
           "  hlwq quantize model.gguf -o model-Q4 --bits 4 --calibrate builtin\n"
           "  hlwq quantize gemma-4-31B-it -o gemma-4-HLWQ --size 19.9GB\n"
           "  hlwq quantize gemma-3-270m -o out --policy mixed.json\n"
           "A policy file: {\"default\": {\"bits\": 5}, \"rules\": [{\"match\": \"*.down_proj.weight\", "
           "\"bits\": 4}]}";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Directory with safetensors, a .gguf file or owner/name");
    args.option("-o,--output", out_, "DIR", "Where the checkpoint goes; it appears whole or not at all");
    args.option("--policy", policy_, "NAME|FILE",
                "default (5 bits, embedding and lm_head 6), q2..q8, published, or a JSON file");
    args.option("--bits", bits_, "N", "One width for all, 2 to 8: the same as --policy qN");
    args.option("--lags", lags_, "N",
                "Coupled codebooks: 2 (or 3) lags where the width has them, 1 for plain HLWQ (2)");
    args.option("--bpw", bpw_, "N",
                "Bits per weight on average, norms included: widths are chosen tensor by tensor, by measured "
                "sensitivity");
    args.option("--size", size_, "BYTES", "The same for the size of all tensor data: 19.9GB, 800MB, 15GiB");
    args.option("--sensitivity", sensitivity_, "FILE",
                "Reads the measured sensitivities from here; measures and writes them when it is missing");
    args.option("--write-policy", write_policy_, "FILE", "Saves the chosen widths as a policy file");
    args.choice("--layout", layout_, {"native", "published"},
                "native runs from the mapped file; published is what the published tools read");
    args.choice("--codebook", codebook_, {"converged", "published-a", "published-b"},
                "Lloyd-Max table (converged)");
    args.choice("--norm", norm_, {"corrected", "published"},
                "Block norms: least squares, or plain (corrected)");
    args.flag("--pad", pad_, "Blocks of 128 everywhere, zero-padded");
    args.option("--calibrate", calibrate_, "FILE|builtin",
                "Round with regard to what a text does in the model: a text file, JSON (lines) of messages, "
                "text or ids, "
                "or the text that comes with hlwq");
    args.number("--calibration-tokens", calibration_tokens_, 512, "N",
                "How much of the text is used (32768)");
    args.flag("--force", force_, "Replace DIR when it exists");
    args.option("--base-model", base_model_, "NAME", "Name of the source for the model card");
    args.flag("--json", json_, "Print the result as JSON");
    args.group("Machine");
    args.option("--device", device_, "cpu|cuda[:N]",
                "Where codes are found: a GPU writes the same bytes, much sooner with two lags (cpu)");
    args.number("-t,--threads", engine_.threads, 0, "N", "Threads; 0 is every processor (HLWQ_THREADS)");
  }

  int run() override {
    if (out_.empty()) throw UsageError("quantize needs -o DIR");
    QuantizeOptions options = parse_options();
    // Before anything is measured: a GPU that is not there is better said at once.
    const std::unique_ptr<TensorEncoder> encoder = make_tensor_encoder(device());
    if (encoder && !calibrate_.empty())
      throw UsageError("--calibrate rounds on the CPU only: leave --device out");
    options.encoder = encoder.get();
    const std::string asked = model_;
    model_ = find_model(model_);
    if (model_ != asked && options.base_model.empty()) options.base_model = parse_repository(asked)->id;
    if (bpw_ || !size_.empty()) allocate_bits(options);
    if (calibrate_.empty()) {
      const ModelSource source = open_model(model_);
      ThreadPool pool(engine_.thread_count());
      return write(source, options, pool);
    }
    return calibrate_and_write(options);
  }

 private:
  int calibrate_and_write(QuantizeOptions& options) const {
    if (layout_ != "native" || norm_ != "corrected")
      throw UsageError("--calibrate goes with the native layout and corrected norms only");
    // Calibrating takes long: what is in the way of the output is better said before.
    { AtomicDirectory output(out_, force_); }
    Engine engine({engine_.thread_count(), {}});
    const auto model = Model::load(model_);
    CalibrationOptions calibration;
    calibration.restart = force_;
    const CalibrationWindows windows = calibration_windows(*model, calibration);
    uint64_t tokens = 0;
    for (const auto& w : windows) tokens += w.size();
    options.calibration = {{"text", calibrate_ == "builtin" ? "builtin" : "file"}, {"tokens", tokens}};
    const std::filesystem::path work = work_directory();
    CalibratedTensors tensors;
    {
      ProgressLine line("calibrating");
      tensors = calibrate(*model, options, windows, calibration, engine, work, line.progress());
    }
    options.rounded = tensors.sources();
    const int code = write(model->source(), options, *engine.compute().pool);
    tensors.layers.clear();
    std::error_code ec;
    std::filesystem::remove_all(work, ec);
    return code;
  }

  /// Beside the output, whatever form its path has.
  std::filesystem::path work_directory() const {
    std::filesystem::path path = std::filesystem::absolute(out_).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    return path += ".calibration";
  }

  /// Makes options.policy from --bpw or --size.
  void allocate_bits(QuantizeOptions& options) const {
    const auto model = Model::load(model_);
    const TensorSource& source = *model->source().tensors;
    std::vector<AllocationItem> items;
    uint64_t weights = 0;
    for (const Tensor& t : source.tensors())
      if (const QuantDecision d = options.policy.decide(t, options.pad); d.format) {
        items.push_back({t.name, t.rows(), t.cols(), d.format->block, 0});
        weights += t.elements();
      }
    // Measuring takes long: a budget that cannot be met is better said before.
    const int lags = static_cast<int>(lags_.value_or(2));
    const uint64_t budget = byte_budget(model->source(), options, items, weights, lags);
    const std::map<std::string, double> sensitivity = sensitivities(*model, options.policy);
    for (AllocationItem& item : items) {
      const auto it = sensitivity.find(item.name);
      if (it == sensitivity.end())
        throw Error(ErrorCode::kInvalidFile,
                    sensitivity_ + " says nothing of " + item.name +
                        ": it was measured on another model; remove it to measure anew");
      item.sensitivity = it->second;
    }
    const Allocation allocation = allocate(items, lags, budget);
    const double rate = 8 * static_cast<double>(allocation.bytes) / static_cast<double>(weights);
    const OrderedJson about{{"made by", "hlwq quantize"},
                            {"target", bpw_ ? fixed(*bpw_, 3) + " bits per weight" : size_},
                            {"bits per weight", fixed(rate, 4)},
                            {"predicted KL", fixed(allocation.predicted_kl, 5)}};
    options.policy_json = policy_json(items, allocation, about);
    options.policy = QuantPolicy::from_json(options.policy_json, "the chosen policy");
    if (!write_policy_.empty()) {
      AtomicFile file(write_policy_);
      file.write(options.policy_json);
      file.commit();
    }
    std::fprintf(stderr, "hlwq: %s bits per weight over %zu tensors, predicted KL %s nats per token\n",
                 fixed(rate, 3).c_str(), items.size(), fixed(allocation.predicted_kl, 4).c_str());
  }

  /// What --bpw or --size leave for the items' codes and norms.
  uint64_t byte_budget(const ModelSource& source, const QuantizeOptions& options,
                       const std::vector<AllocationItem>& items, uint64_t weights, int lags) const {
    const auto [least, most] = allocation_range(items, lags);
    const uint64_t other = fixed_bytes(source, options, items, lags);
    const double given = bpw_
                             ? *bpw_ / 8 * static_cast<double>(weights)
                             : static_cast<double>(parse_bytes(size_, "--size")) - static_cast<double>(other);
    // More bytes than 8 bits everywhere take are left over; a rate that high must be a slip.
    if (given < static_cast<double>(least) || (bpw_ && *bpw_ > 9)) {
      const auto rate = [&](uint64_t bytes) {
        return fixed(8 * static_cast<double>(bytes) / static_cast<double>(weights), 3);
      };
      throw UsageError((bpw_ ? "--bpw " + fixed(*bpw_, 3) : "--size " + size_) +
                       ": this model goes from --bpw " + rate(least) + " to " + rate(most) +
                       ", which is --size " + std::to_string(least + other) + " to " +
                       std::to_string(most + other));
    }
    return static_cast<uint64_t>(given);
  }

  /// Bytes of everything that is not one of `items`, with every table that a choice may need.
  static uint64_t fixed_bytes(const ModelSource& source, const QuantizeOptions& options,
                              const std::vector<AllocationItem>& items, int lags) {
    uint64_t coded = 0, tables = 0;
    for (const AllocationItem& item : items) {
      HlwqFormat f{8, 1, item.block};
      coded += item_bytes(item, f);
    }
    for (const HlwqFormat& f : allocation_formats(lags))
      tables += static_cast<uint64_t>(f.lags) * static_cast<uint64_t>(f.levels()) * sizeof(float);
    QuantizeOptions eight = options;
    eight.policy = QuantPolicy::named("q8");
    return predict_quantized_bytes(source, eight) - coded + tables;
  }

  std::map<std::string, double> sensitivities(const Model& model, const QuantPolicy& policy) const {
    std::map<std::string, double> result;
    if (!sensitivity_.empty() && std::filesystem::exists(sensitivity_)) {
      const Json json = parse_json(read_text(sensitivity_), sensitivity_);
      if (!json.is_object())
        throw Error(ErrorCode::kInvalidFile, sensitivity_ + ": not an object of numbers");
      for (const auto& [name, value] : json.items()) {
        if (!value.is_number() || !(value.get<double>() >= 0))
          throw Error(ErrorCode::kInvalidFile, sensitivity_ + ": \"" + name + "\" is no sensitivity");
        result[name] = value.get<double>();
      }
      return result;
    }
    Engine engine({engine_.thread_count(), {}});
    SensitivityOptions options;
    options.pad = pad_;
    const CalibrationWindows windows = plain_windows(model, builtin_calibration_text(), 256, 512);
    ProgressLine line("sensitivity");
    result = measure_sensitivity(model, policy, windows, options, engine, line.progress());
    if (!sensitivity_.empty()) {
      AtomicFile file(sensitivity_);
      file.write(OrderedJson(result).dump(1) + "\n");
      file.commit();
    }
    return result;
  }

  CalibrationWindows calibration_windows(const Model& model, const CalibrationOptions& options) const {
    const auto tokens = static_cast<uint64_t>(calibration_tokens_);
    if (calibrate_ == "builtin")
      return plain_windows(model, builtin_calibration_text(), options.window, tokens);
    const std::string text = read_file(calibrate_, 1u << 30);
    if (calibrate_.ends_with(".json") || calibrate_.ends_with(".jsonl"))
      return json_windows(model, text, calibrate_, options.window, tokens);
    return plain_windows(model, text, options.window, tokens);
  }

  int write(const ModelSource& source, QuantizeOptions& options, ThreadPool& pool) const {
    if (!source.tensors) throw Error(ErrorCode::kNotFound, model_ + " has a config but no weights");
    if (source.tokenizer_json.empty() && source.gguf_metadata.contains("tokenizer.ggml.model"))
      options.tokenizer_json = tokenizer_json_from_gguf(source.gguf_metadata);

    QuantizeResult result;
    {
      ProgressLine line("quantizing", ProgressLine::Unit::kBytes);
      result = quantize_model(source, options, out_, pool, line.progress());
    }
    for (const QuantizedTensor& t : result.tensors)
      if (t.unfit)
        std::fprintf(stderr, "hlwq: note: %s stays as it is: %s\n", printable(t.name).c_str(),
                     t.note.c_str());
    if (json_) {
      print_json(to_json(result));
      return kDone;
    }
    show(summary_table(result));
    show("\n" + format_bytes(result.bytes_in) + " -> " + format_bytes(result.bytes_out) + " in " +
         format_seconds(result.seconds) + ", written to " + out_ + "\n");
    return kDone;
  }

  Device device() const {
    try {
      return parse_device(device_);
    } catch (const Error& e) {
      throw UsageError(e.what());
    }
  }

  QuantizeOptions parse_options() const {
    QuantizeOptions options;
    if (bits_ && !policy_.empty()) throw UsageError("--bits and --policy exclude each other");
    if (bits_ && (*bits_ < 2 || *bits_ > 8)) throw UsageError("--bits goes from 2 to 8");
    if (bpw_ && !size_.empty()) throw UsageError("--bpw and --size exclude each other");
    if ((bpw_ || !size_.empty()) && (bits_ || !policy_.empty()))
      throw UsageError("--bpw and --size choose the widths themselves: leave --bits and --policy out");
    if (lags_ && (*lags_ < 1 || *lags_ > 3)) throw UsageError("--lags goes from 1 to 3");
    if (layout_ == "published") options.layout = CheckpointLayout::kPublished;
    const bool plain_tables = layout_ == "published" || codebook_ != "converged" || norm_ == "published";
    if (plain_tables && lags_.value_or(1) > 1)
      throw UsageError("coupled codebooks go with the native layout, and with our own tables and norms");
    std::string policy = bits_ ? "q" + std::to_string(*bits_) : policy_.empty() ? "default" : policy_;
    // A policy that was named in full, or a file, says itself how many lags it wants.
    const bool ours = bits_ || policy_.empty();
    const int64_t lags = lags_.value_or(ours && !plain_tables ? 2 : 1);
    if (lags_ && policy.ends_with(".json"))
      throw UsageError("a policy file gives each rule its own \"lags\": leave --lags out");
    if (lags > 1) policy += "-l" + std::to_string(lags);
    options.policy = read_policy(policy);
    // Beside the checkpoint, so that a choice can be found and repeated.
    if (policy.ends_with(".json")) options.policy_json = read_text(policy);
    if (norm_ == "published") options.norm = NormRule::kPublished;
    if (codebook_ == "published-a") options.codebook = CodebookKind::kPublishedA;
    if (codebook_ == "published-b") options.codebook = CodebookKind::kPublishedB;
    options.pad = pad_;
    options.replace = force_;
    options.base_model = base_model_;
    return options;
  }

  std::string model_, out_, policy_, layout_ = "native", codebook_ = "converged", norm_ = "corrected",
                                     base_model_;
  std::optional<int64_t> bits_, lags_;
  std::optional<float> bpw_;
  std::string size_, sensitivity_, write_policy_;
  std::string calibrate_, device_ = "cpu";
  int64_t calibration_tokens_ = 32768;
  bool pad_ = false, force_ = false, json_ = false;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_quantize() { return std::make_unique<Quantize>(); }

}  // namespace hlwq::cli
