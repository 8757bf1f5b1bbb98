// hlwq info: what a model is, how big it is, what memory it needs and where it fits.
#include <algorithm>
#include <utility>

#include "common.h"
#include "hub_args.h"
#include "info_report.h"
#include "model/config_reader.h"
#include "model/vision_tower.h"
#include "quant/published_reader.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

constexpr uint64_t kChunk = kCpuChunk;

class Info : public Command {
 public:
  std::string name() const override { return "info"; }
  std::string summary() const override { return "Facts, sizes, memory needed and the cards it fits on"; }
  std::string examples() const override {
    return "  hlwq info SmolLM2-Q5\n"
           "  hlwq info model.gguf --ctx 2048,16384 --kv f32 --json\n"
           "  hlwq info gemma-4-31B-it --policy q4-l2    # what quantizing would give\n"
           "A directory with only a config.json will do: sizes are then planned from the config.";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_,
                    "Model directory (its config.json is enough), checkpoint, .gguf file or owner/name");
    args.option("--policy", policy_, "NAME|FILE",
                "Plan for weights quantized so: default, q2..q8, published, or a JSON file");
    args.option("--lags", lags_, "N", "The policy with coupled codebooks: 2 is default-l2, q4-l2...");
    args.option("-c,--ctx", contexts_, "N,N...",
                "Contexts to plan for (default: 1K, 4K, 32K, 128K and the model's own)");
    args.flag("--json", json_, "Print the facts as JSON");
    kv_.declare(args);
    engine_.declare(args);
  }

  int run() override {
    const std::optional<QuantPolicy> policy = asked_policy();
    model_ = find_model(model_, FileSet::kNoWeights);
    const ModelSource source = open_model(model_);
    const Engine engine = engine_.make();
    InfoReport r;
    r.path = source.path.string();
    r.backend = engine.backend();
    r.threads = engine.threads();
    for (KvChoice& choice : kv_choices()) r.caches.push_back({std::move(choice), {}, 0, {}});
    r.has_weights = source.tensors != nullptr;
    r.has_template = !source.chat_template.empty();
    if (source.tensors)
      load(r);
    else
      describe_files(r, source);
    plan_weights(r, source, policy);
    plan_contexts(r);
    plan_cards(r);
    if (json_)
      print_json(to_json(r));
    else
      show(to_text(r));
    return kDone;
  }

 private:
  std::optional<QuantPolicy> asked_policy() const {
    if (policy_.empty() && lags_) throw UsageError("--lags goes with --policy");
    if (policy_.empty()) return std::nullopt;
    if (!lags_) return read_policy(policy_);
    if (*lags_ < 1 || *lags_ > 3) throw UsageError("--lags goes from 1 to 3");
    if (policy_.ends_with(".json"))
      throw UsageError("a policy file gives each rule its own \"lags\": leave --lags out");
    return read_policy(*lags_ > 1 ? policy_ + "-l" + std::to_string(*lags_) : policy_);
  }

  /// Checks every weight on the way.
  void load(InfoReport& r) const {
    const auto model = Model::load(model_);
    r.spec = model->spec();
    r.facts = model_facts(*model);
    r.notes = model->weights().notes();
    r.has_tokenizer = model->has_tokenizer();
    r.tokenizer = r.has_tokenizer
                      ? format_count(static_cast<uint64_t>(model->tokenizer().vocab_size())) + " tokens"
                      : "none";
  }

  static void describe_files(InfoReport& r, const ModelSource& source) {
    r.spec = model_spec(source.config);
    r.has_tokenizer = !source.tokenizer_json.empty();
    r.tokenizer = r.has_tokenizer ? "yes" : "none";
  }

  void plan_weights(InfoReport& r, const ModelSource& source,
                    const std::optional<QuantPolicy>& policy) const {
    const WeightPlanner planner(source, r.spec);
    for (const std::string& note : planner.notes()) r.notes.push_back(note);
    if (!source.tensors && !published_config(source).empty())
      r.notes.push_back(
          "its weights are published codes; sizes here are those of BF16 and of other policies");
    r.policy = policy ? policy->name() : "stored";
    if (policy) {
      r.sizes.push_back(planner.quantized(*policy));
      r.facts = model_facts(r.spec, r.sizes.back());
    } else if (!source.config.contains("quantization_config") && !is_published(source)) {
      r.sizes.push_back(planner.stored());
      for (const char* name : {"q8", "q6-l2", "default-l2", "q5-l2", "q4-l2", "q3-l2", "q2-l2"})
        r.sizes.push_back(planner.quantized(QuantPolicy::named(name)));
    }
    if (!policy && !source.tensors) r.facts = model_facts(r.spec, planner.stored());
  }

  /// The cache as asked for; where that is plain BF16, the presets of fewer bits beside it.
  std::vector<KvChoice> kv_choices() const {
    const KvSettings asked = kv_.settings();
    std::string label = describe(asked);
    for (const auto& [bits, name] : {std::pair{32, "F32"}, {16, "BF16"}, {4, "Q4"}, {3, "Q3"}, {2, "Q2"}})
      if (asked.share == KvShare::kAuto && describe(asked) == describe(KvSettings::preset(bits)))
        label = name;
    if (label != "BF16") return {{label, asked}};
    return {{label, asked}, {"Q4", KvSettings::preset(4)}, {"Q3", KvSettings::preset(3)}};
  }

  void plan_contexts(InfoReport& r) const {
    if (r.spec.vision && r.facts.vision_bytes)
      r.image_scratch =
          VisionTower::scratch_bytes(*r.spec.vision, r.spec.hidden, r.spec.vision->default_tokens);
    const std::vector<uint64_t> list = contexts(r.spec);
    const uint64_t longest = *std::max_element(list.begin(), list.end());
    for (InfoReport::Cache& c : r.caches) {
      const KvSettings& kv = c.kv.settings;
      for (uint64_t context : list)
        c.memory.push_back(
            plan_memory(r.spec, r.facts.weight_bytes, r.facts.vision_bytes, context, kChunk, kv));
      c.parts = kv_parts(r.spec, longest, kChunk, kv);
      for (uint64_t i = 0; i < r.spec.layers.size(); ++i) {
        const KvLayerPlan plan = kv_layer_plan(r.spec, i, longest, kv);
        c.values_only += plan.stores && plan.format.k_bits == 0;
      }
    }
  }

  static void plan_cards(InfoReport& r) {
    const auto add = [&](const std::string& policy, uint64_t weights, uint64_t vision) {
      for (const InfoReport::Cache& c : r.caches) {
        InfoReport::Fit fit{policy, weights + vision, c.kv, {}};
        for (const GpuCard& card : gpu_cards())
          fit.contexts.push_back(largest_context(r.spec, weights, vision + r.image_scratch, kChunk,
                                                 c.kv.settings, card.bytes - kGpuReserve));
        r.fits.push_back(std::move(fit));
      }
    };
    if (r.policy == "stored" && !r.sizes.empty()) plan_rates(r, r.sizes.back());
    if (r.sizes.empty()) add(r.policy, r.facts.weight_bytes, r.facts.vision_bytes);
    for (const WeightSizes& s : r.sizes) add(s.policy, s.text, s.vision);
  }

  /// `sizes`: of any policy that quantizes all it can.
  static void plan_rates(InfoReport& r, const WeightSizes& sizes) {
    r.coded_params = sizes.coded_params;
    r.other_bytes = sizes.checkpoint() - sizes.coded;
    constexpr uint64_t kShort = 32768;  // below, the context hardly matters
    const uint64_t longest = r.caches[0].memory.back().context;
    for (size_t i = 0; i < r.caches[0].memory.size(); ++i) {
      const uint64_t context = r.caches[0].memory[i].context;
      if (context < std::min(kShort, longest)) continue;
      for (const InfoReport::Cache& c : r.caches) {
        InfoReport::Rate rate{context, c.kv.label, {}};
        for (const GpuCard& card : gpu_cards())
          rate.cards.push_back(largest_rate(r.spec, sizes, r.image_scratch, context, kChunk, c.kv.settings,
                                            card.bytes - kGpuReserve));
        r.rates.push_back(std::move(rate));
      }
    }
  }

  std::vector<uint64_t> contexts(const ModelSpec& spec) const {
    std::vector<uint64_t> list;
    if (contexts_.empty()) {
      for (uint64_t c : {1024, 4096, 32768, 131072})
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

  std::string model_, policy_, contexts_;
  std::optional<int64_t> lags_;
  KvArgs kv_;
  bool json_ = false;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_info() { return std::make_unique<Info>(); }

}  // namespace hlwq::cli
