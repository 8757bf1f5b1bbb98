// hlwq quantize: a model into an HLWQ checkpoint.
#include <algorithm>
#include <map>

#include "common.h"
#include "eval/quantize_request.h"
#include "hub_args.h"
#include "terminal.h"

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
    QuantizeRequest request = make_request();
    QuantizeResult result;
    try {
      // Before anything is downloaded: a GPU that is not there is better said at once.
      check(request);
      request.model = find_model(model_);
      if (request.model != model_ && request.base_model.empty())
        request.base_model = parse_repository(model_)->id;
      std::optional<ProgressLine> line;
      QuantizeWatch watch;
      watch.stage = [&](const std::string& stage) {
        line.reset();
        line.emplace(stage, stage == "quantizing" ? ProgressLine::Unit::kBytes : ProgressLine::Unit::kCount);
        return line->progress();
      };
      watch.note = [&](const std::string& text) {
        line.reset();
        std::fprintf(stderr, "hlwq: %s\n", printable(text).c_str());
      };
      result = quantize(request, watch);
    } catch (const RequestError& e) {
      throw UsageError(e.what());
    }
    if (json_) {
      print_json(to_json(result));
      return kDone;
    }
    show(summary_table(result));
    show("\n" + format_bytes(result.bytes_in) + " -> " + format_bytes(result.bytes_out) + " in " +
         format_seconds(result.seconds) + ", written to " + out_ + "\n");
    return kDone;
  }

 private:
  QuantizeRequest make_request() const {
    QuantizeRequest r;
    r.model = model_;
    r.out = out_;
    r.policy = policy_;
    r.bits = bits_;
    r.lags = lags_;
    if (bpw_) r.bpw = *bpw_;
    if (!size_.empty()) r.size = parse_bytes(size_, "--size");
    r.sensitivity = sensitivity_;
    r.write_policy = write_policy_;
    r.layout = layout_;
    r.codebook = codebook_;
    r.norm = norm_;
    r.pad = pad_;
    r.replace = force_;
    r.calibrate = calibrate_;
    r.calibration_tokens = static_cast<uint64_t>(calibration_tokens_);
    r.base_model = base_model_;
    r.device = device_;
    r.threads = engine_.thread_count();
    r.prefix = "--";
    return r;
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
