// hlwq export: a model for other engines.
#include <cstdio>

#include "common.h"
#include "hub_args.h"
#include "quant/export.h"
#include "terminal.h"
#include "text/tokenizer.h"

namespace hlwq::cli {
namespace {

OrderedJson to_json(const ExportResult& result) {
  OrderedJson tensors = OrderedJson::array();
  for (const ExportedWeight& w : result.weights) {
    OrderedJson entry{{"name", w.name}, {"format", w.int4 ? "int4" : "kept"}, {"mse", w.mse}};
    entry["bytes"] = w.bytes;
    entry["elements"] = w.elements;
    if (!w.note.empty()) entry["note"] = w.note;
    tensors.push_back(std::move(entry));
  }
  return {{"tensors", std::move(tensors)},
          {"bytes_in", result.bytes_in},
          {"bytes_out", result.bytes_out},
          {"seconds", result.seconds}};
}

class Export : public Command {
 public:
  std::string name() const override { return "export"; }
  std::string summary() const override { return "Write a model for other engines: vLLM, transformers"; }
  std::string examples() const override {
    return "  hlwq export gemma-4-HLWQ -o gemma-4-W4A16 --to compressed-tensors\n"
           "  hlwq export gemma-4-31B-it -o gemma-4-W4A16 --to compressed-tensors --group-size 32\n"
           "  hlwq export model.gguf -o model-BF16 --to safetensors\n"
           "INT4 errs less when it is made from the original weights than from codes.";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "HLWQ checkpoint, directory with safetensors, .gguf file or owner/name");
    args.option("-o,--output", out_, "DIR", "Where the export goes; it appears whole or not at all");
    args.choice("--to", to_, {"compressed-tensors", "safetensors"},
                "compressed-tensors: INT4 linears (W4A16) for vLLM; safetensors: everything in BF16");
    args.number("--group-size", group_, 1, "N", "INT4 weights that share a scale: 32, 64 or 128 (128)");
    args.option("--shard-size", shard_, "BYTES", "Largest file: 5GB, 800MB, 2GiB (5GB)");
    args.flag("--force", force_, "Replace DIR when it exists");
    args.option("--base-model", base_model_, "NAME", "Name of the source for the model card");
    args.flag("--json", json_, "Print the result as JSON");
    args.group("Machine");
    args.number("-t,--threads", engine_.threads, 0, "N", "Threads; 0 is every processor (HLWQ_THREADS)");
  }

  int run() override {
    if (out_.empty()) throw UsageError("export needs -o DIR");
    if (to_.empty()) throw UsageError("export needs --to compressed-tensors or --to safetensors");
    if (group_ != 32 && group_ != 64 && group_ != 128)
      throw UsageError("--group-size is 32, 64 or 128; got " + std::to_string(group_));
    ExportOptions options;
    options.format = to_ == "safetensors" ? ExportFormat::kSafetensors : ExportFormat::kCompressedTensors;
    options.group = static_cast<int>(group_);
    options.replace = force_;
    options.base_model = base_model_;
    if (!shard_.empty()) options.max_shard_bytes = parse_bytes(shard_, "--shard-size");
    const std::string path = find_model(model_);
    if (path != model_ && base_model_.empty()) options.base_model = parse_repository(model_)->id;
    const ModelSource source = open_model(path);
    if (source.tokenizer_json.empty() && source.gguf_metadata.contains("tokenizer.ggml.model"))
      options.tokenizer_json = tokenizer_json_from_gguf(source.gguf_metadata);
    ThreadPool pool(engine_.thread_count());
    ExportResult result;
    {
      ProgressLine line("exporting", ProgressLine::Unit::kBytes);
      result = export_model(source, options, out_, pool, line.progress());
    }
    report_notes(result);
    if (json_) {
      print_json(to_json(result));
      return kDone;
    }
    show(summary(result));
    return kDone;
  }

 private:
  /// What stayed in BF16 against one's wish, one line a reason.
  static void report_notes(const ExportResult& result) {
    std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
    for (const ExportedWeight& w : result.weights) {
      if (w.note.empty()) continue;
      if (reasons.empty() || reasons.back().first != w.note) reasons.push_back({w.note, {}});
      reasons.back().second.push_back(w.name);
    }
    for (const auto& [why, names] : reasons)
      std::fprintf(stderr, "hlwq: note: %zu tensors stay BF16 (%s%s): %s\n", names.size(),
                   printable(names.front()).c_str(), names.size() > 1 ? ", ..." : "", why.c_str());
  }

  std::string summary(const ExportResult& result) const {
    uint64_t int4 = 0, int4_bytes = 0, kept = 0, kept_bytes = 0;
    double error = 0;
    for (const ExportedWeight& w : result.weights) {
      (w.int4 ? int4 : kept) += w.elements;
      (w.int4 ? int4_bytes : kept_bytes) += w.bytes;
      if (w.int4) error += w.mse * static_cast<double>(w.elements);
    }
    Table table({"format", "weights", "size", "bits/weight", "relative MSE"});
    const auto row = [&](const std::string& name, uint64_t n, uint64_t bytes, const std::string& mse) {
      if (n > 0)
        table.add({name, format_params(n), format_bytes(bytes),
                   fixed(8.0 * static_cast<double>(bytes) / static_cast<double>(n), 3), mse});
    };
    row("INT4, groups of " + std::to_string(group_), int4, int4_bytes,
        int4 > 0 ? fixed(error / static_cast<double>(int4), 6) : "");
    row("BF16", kept, kept_bytes, "");
    row("total", int4 + kept, int4_bytes + kept_bytes, "");
    return table.str() + "\n" + format_bytes(result.bytes_in) + " -> " + format_bytes(result.bytes_out) +
           " in " + format_seconds(result.seconds) + ", written to " + out_ + "\n";
  }

  std::string model_, out_, to_, shard_, base_model_;
  int64_t group_ = 128;
  bool force_ = false, json_ = false;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_export() { return std::make_unique<Export>(); }

}  // namespace hlwq::cli
