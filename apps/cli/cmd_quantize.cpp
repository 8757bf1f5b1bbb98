// hlwq quantize: a model into an HLWQ checkpoint.
#include <algorithm>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "common.h"
#include "engine/calibration.h"
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
  std::vector<std::pair<std::string, int>> order;
  std::map<std::pair<std::string, int>, Group> groups;
  for (const QuantizedTensor& t : result.tensors) {
    const std::pair key(kind_of(t), t.bits);
    if (!groups.contains(key)) order.push_back(key);
    Group& g = groups[key];
    const auto n = static_cast<double>(t.elements);
    ++g.tensors;
    g.elements += t.elements;
    g.bytes += t.bytes;
    g.mse += t.mse * n;
    g.cosine += t.cosine * n;
  }
  std::stable_partition(order.begin(), order.end(), [](const auto& key) { return key.second > 0; });
  Table table({"kind", "tensors", "weights", "format", "size", "bits/weight", "relative MSE", "cosine"});
  for (const auto& key : order) {
    const Group& g = groups[key];
    const double n = static_cast<double>(std::max<uint64_t>(1, g.elements));
    const bool coded = key.second > 0;
    table.add({key.first, format_count(g.tensors), format_params(g.elements),
               coded ? "Q" + std::to_string(key.second) : "as is", format_bytes(g.bytes),
               fixed(8.0 * static_cast<double>(g.bytes) / n, 3), coded ? fixed(g.mse / n, 6) : "",
               coded ? fixed(g.cosine / n, 6) : ""});
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
    entry["bytes"] = t.bytes;
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
           "  hlwq quantize model.gguf -o model-Q4 --bits 4\n"
           "  hlwq quantize gemma-3-270m -o out --policy mixed.json\n"
           "A policy file: {\"default\": {\"bits\": 5}, \"rules\": [{\"match\": \"*.down_proj.weight\", "
           "\"bits\": 4}]}";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Directory with safetensors, or a .gguf file");
    args.option("-o,--output", out_, "DIR", "Where the checkpoint goes; it appears whole or not at all");
    args.option("--policy", policy_, "NAME|FILE",
                "default (5 bits, embedding and lm_head 6), q2..q8, published, or a JSON file");
    args.option("--bits", bits_, "N", "One width for all, 2 to 8: the same as --policy qN");
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
    args.number("-t,--threads", engine_.threads, 0, "N", "Threads; 0 is every processor (HLWQ_THREADS)");
  }

  int run() override {
    if (out_.empty()) throw UsageError("quantize needs -o DIR");
    QuantizeOptions options = parse_options();
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

  QuantizeOptions parse_options() const {
    QuantizeOptions options;
    if (bits_ && !policy_.empty()) throw UsageError("--bits and --policy exclude each other");
    if (bits_ && (*bits_ < 2 || *bits_ > 8)) throw UsageError("--bits goes from 2 to 8");
    const std::string policy = bits_ ? "q" + std::to_string(*bits_) : policy_.empty() ? "default" : policy_;
    options.policy = read_policy(policy);
    if (layout_ == "published") options.layout = CheckpointLayout::kPublished;
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
  std::optional<int64_t> bits_;
  std::string calibrate_;
  int64_t calibration_tokens_ = 32768;
  bool pad_ = false, force_ = false, json_ = false;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_quantize() { return std::make_unique<Quantize>(); }

}  // namespace hlwq::cli
