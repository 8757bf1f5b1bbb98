// hlwq info: what a model is, how big it is, and what memory it needs.
#include <algorithm>

#include "common.h"
#include "engine/plan.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

class Info : public Command {
 public:
  std::string name() const override { return "info"; }
  std::string summary() const override { return "Facts, sizes and the memory a model needs"; }
  std::string examples() const override {
    return "  hlwq info SmolLM2-Q5\n"
           "  hlwq info model.gguf --ctx 2048,16384 --kv f32 --json";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, HLWQ checkpoint or .gguf file");
    args.option("-c,--ctx", contexts_, "N,N...",
                "Contexts to plan for (default: 1K, 4K, 32K and the model's own)");
    args.choice("--kv", kv_.kv, {"bf16", "f32"}, "Type of the key/value cache (bf16)");
    args.flag("--json", json_, "Print the facts as JSON");
    engine_.declare(args);
  }

  int run() override {
    const auto model = Model::load(model_);
    const Engine engine = engine_.make();
    const ModelFacts facts = model_facts(*model);
    std::vector<MemoryPlan> plans;
    for (uint64_t context : contexts(model->spec()))
      plans.push_back(plan_memory(model->spec(), facts.weight_bytes, facts.vision_bytes, context,
                                  SessionOptions{}.chunk, kv_.kv_settings()));
    if (json_)
      print_json(to_json(*model, facts, plans, engine));
    else
      show(to_text(*model, facts, plans, engine));
    return kDone;
  }

 private:
  std::vector<uint64_t> contexts(const ModelSpec& spec) const {
    std::vector<uint64_t> list;
    if (contexts_.empty()) {
      for (uint64_t c : {1024, 4096, 32768})
        if (c < spec.max_context) list.push_back(c);
      list.push_back(spec.max_context);
      return list;
    }
    for (int32_t c : usage_ids(contexts_)) {
      if (c == 0 || static_cast<uint64_t>(c) > spec.max_context)
        throw UsageError("--ctx " + std::to_string(c) + ": the model's context goes from 1 to " +
                         std::to_string(spec.max_context));
      list.push_back(static_cast<uint64_t>(c));
    }
    return list;
  }

  static std::vector<int32_t> usage_ids(const std::string& text) {
    try {
      return parse_ids(text);
    } catch (const UsageError&) {
      throw UsageError("--ctx wants context lengths like 1024,4096, got '" + text + "'");
    }
  }

  static OrderedJson to_json(const Model& model, const ModelFacts& f, const std::vector<MemoryPlan>& plans,
                             const Engine& engine) {
    OrderedJson memory = OrderedJson::array(), formats = OrderedJson::array();
    for (const MemoryPlan& p : plans)
      memory.push_back({{"ctx", p.context},
                        {"kv_bits", p.kv_bits},
                        {"weights", p.weights},
                        {"kv", p.kv},
                        {"vision", p.vision},
                        {"scratch", p.scratch},
                        {"total", p.total}});
    for (const ModelFacts::Group& g : f.groups)
      formats.push_back(
          {{"format", g.format}, {"tensors", g.tensors}, {"params", g.params}, {"bytes", g.bytes}});
    const ModelSpec& s = model.spec();
    return {{"architecture", f.architecture},
            {"family", f.family},
            {"params", f.params},
            {"text_params", f.text_params},
            {"weight_bytes", f.weight_bytes},
            {"vision_bytes", f.vision_bytes},
            {"bits_per_weight", f.bits_per_weight},
            {"kv_bytes_per_token", f.kv_bytes_per_token},
            {"memory", std::move(memory)},
            {"formats", std::move(formats)},
            {"layers", s.layers.size()},
            {"hidden", s.hidden},
            {"heads", s.heads},
            {"vocab", s.vocab},
            {"max_context", s.max_context},
            {"tokenizer", model.has_tokenizer()},
            {"chat_template", model.chat_template() != nullptr},
            {"backend", engine.backend()},
            {"threads", engine.threads()},
            {"physical_memory", physical_memory()}};
  }

  static std::string to_text(const Model& model, const ModelFacts& f, const std::vector<MemoryPlan>& plans,
                             const Engine& engine) {
    const ModelSpec& s = model.spec();
    const auto sliding =
        std::count_if(s.layers.begin(), s.layers.end(), [](const LayerSpec& l) { return l.window > 0; });
    std::string layers = std::to_string(s.layers.size());
    if (sliding > 0) {
      const auto first =
          std::find_if(s.layers.begin(), s.layers.end(), [](const LayerSpec& l) { return l.window > 0; });
      layers += " (" + std::to_string(sliding) + " with a window of " + std::to_string(first->window) + ")";
    }
    std::string out;
    const auto fact = [&](const std::string& key, const std::string& value) {
      out += key + std::string(key.size() < 16 ? 16 - key.size() : 1, ' ') + value + "\n";
    };
    fact("model", model.source().path.string());
    fact("architecture", f.architecture + " (" + f.family + ")");
    fact("parameters", format_params(f.params) +
                           (f.vision_bytes ? ", " + format_params(f.text_params) + " of them text" : ""));
    fact("layers", layers);
    fact("hidden", std::to_string(s.hidden) + ", " + std::to_string(s.heads) + " heads");
    fact("vocabulary", format_count(s.vocab));
    fact("context", format_count(s.max_context) + " tokens");
    fact("weights", format_bytes(f.weight_bytes) + ", " + fixed(f.bits_per_weight, 3) + " bits per weight");
    if (f.vision_bytes) fact("vision", format_bytes(f.vision_bytes));
    fact("KV per token",
         format_bytes(f.kv_bytes_per_token) + (sliding ? " beyond the window" : "") + " (BF16)");
    fact("tokenizer", model.has_tokenizer()
                          ? format_count(static_cast<uint64_t>(model.tokenizer().vocab_size())) + " tokens"
                          : "none");
    fact("chat template", model.chat_template() ? "yes" : "no");
    fact("backend", engine.backend() + ", " + std::to_string(engine.threads()) + " threads, " +
                        format_bytes(physical_memory()) + " of memory");

    Table formats({"stored as", "matrices", "weights", "size", "bits/weight"});
    for (const ModelFacts::Group& g : f.groups)
      formats.add(
          {g.format, format_count(g.tensors), format_params(g.params), format_bytes(g.bytes),
           fixed(8.0 * static_cast<double>(g.bytes) / static_cast<double>(std::max<uint64_t>(1, g.params)),
                 3)});
    Table memory({"context", "KV bits", "weights", "KV cache", "vision", "scratch", "total"});
    for (const MemoryPlan& p : plans)
      memory.add({format_count(p.context), std::to_string(p.kv_bits), format_bytes(p.weights),
                  format_bytes(p.kv), format_bytes(p.vision), format_bytes(p.scratch),
                  format_bytes(p.total)});
    return out + "\n" + formats.str() + "\n" + memory.str();
  }

  std::string model_, contexts_;
  ContextArgs kv_;
  bool json_ = false;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_info() { return std::make_unique<Info>(); }

}  // namespace hlwq::cli
