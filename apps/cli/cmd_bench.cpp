// hlwq bench: quality (perplexity, KL divergence) and speed.
#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "bench_charts.h"
#include "common.h"
#include "compare_report.h"
#include "engine/calibration.h"
#include "engine/plan.h"
#include "eval/compare.h"
#include "eval/perplexity.h"
#include "eval/speed.h"
#include "hub_args.h"
#include "task_scores.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

class Bench : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override {
    return "Measure quality (perplexity, KL divergence, tasks) and speed";
  }
  std::string examples() const override {
    return "  hlwq bench SmolLM2-Q5 --speed\n"
           "  hlwq bench SmolLM2-Q5 --ppl --text-file wiki.test.raw --windows 32\n"
           "  hlwq bench SmolLM2-Q5 --kld SmolLM2.gguf --text-file wiki.test.raw --json\n"
           "  hlwq bench SmolLM2.gguf --compare q4,q4-l2,int4,q4_k_m --text-file wiki.test.raw --chart "
           "kl.svg\n"
           "  hlwq bench SmolLM2-Q5 --tasks hellaswag,arc_challenge --limit 200 -o tasks.md\n"
           "  hlwq bench SmolLM2-Q5 --ppl --speed --chart charts -o report.md -o report.json";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, HLWQ checkpoint, .gguf file or owner/name");
    args.flag("--ppl", ppl_, "Perplexity of --text-file");
    args.option("--kld", base_, "BASE",
                "KL divergence and top-1 agreement against this model; gives --ppl too");
    args.flag("--speed", speed_, "Prefill and decode speed (the default)");
    args.flag("--json", json_, "Print the figures as JSON");
    args.option("-o,--output", outputs_, "FILE", "Write the figures as .md or .json; may be repeated");
    args.optional(
        "--chart", chart_, "charts", "DIR",
        "Draw memory by component, context by the cache's bits, with --speed also speed by context, with "
        "--compare size against divergence, as SVG and PNG; FILE.svg or FILE.png: that last one alone");
    args.group("Quality");
    args.option("--text-file", text_file_, "FILE", "Text to measure on (one that comes with hlwq)");
    args.option("--ids-file", ids_file_, "FILE", "Text as token ids instead, for models without a tokenizer");
    args.option("--kld-kv-bits", base_kv_, "N", "Bits of the base's key/value cache (16)");
    args.number("-c,--ctx", window_, 2, "N", "Tokens per window, the BOS included (512)");
    args.number("--stride", stride_, 1, "N", "Tokens from window to window (default: no overlap)");
    args.number("--windows", windows_, 1, "N", "Only the first N windows (default: all)");
    args.group("Comparison");
    args.option(
        "--compare", compare_, "LIST",
        "Quantise MODEL in several ways and measure each against it. Comma-separated: policies (q4, "
        "q4-l2, default...), int4, nf4, GGUF types (q4_k_m), policy files, checkpoints; or usual. fp16 and "
        "bf16 stand for MODEL itself, which is always there");
    args.option("--llama-quantize", llama_quantize_, "CMD",
                "llama.cpp's quantiser, for GGUF types (llama-quantize)");
    args.group("Tasks");
    args.option(
        "--tasks", tasks_, "LIST",
        "Tasks of lm-evaluation-harness, comma-separated: names, or .yaml files of your own (needs Python: "
        "pip install '.[eval]')");
    args.option("--fewshot", fewshot_, "N", "Examples before each question (the task's own number)");
    args.option("--limit", limit_, "N", "Only the first N questions of each task (all)");
    args.group("Speed");
    args.number("--prompt", prompt_, 1, "N", "Tokens of the prefill test (512)");
    args.number("--decode", decode_, 1, "N", "Tokens of the decode test (64)");
    args.number("--depth", depth_, 0, "N", "Tokens in the context before decoding (0)");
    args.option("--depths", depths_, "N,N...",
                "Contexts of the speed chart (0,512,1024,2048,4096, as far as the model goes)");
    args.number("--repeats", repeats_, 1, "N", "Repetitions, of which medians are taken (5)");
    kv_.declare(args);
    engine_.declare(args);
  }

  int run() override {
    check_usage();
    std::optional<ChartFiles> charts;
    if (chart_) charts.emplace(*chart_);
    if (charts && !charts->is_directory() && !compare_)
      throw UsageError("--chart draws one file with --compare only; name a directory");

    // Before the model is loaded here: on a GPU there may not be room for two.
    TaskScores scores;
    if (tasks_) scores = measure_tasks();
    if (scores.exit_code != 0) return scores.exit_code;

    Engine engine = engine_.make();
    const auto model = load_model(model_);
    const ModelFacts facts = model_facts(*model);
    std::optional<CompareReport> comparison;
    if (compare_) comparison = compare(*model, facts, engine);
    const auto base = base_ ? load_model(*base_) : nullptr;
    OrderedJson out = comparison ? comparison->json() : OrderedJson::object();
    if (!comparison) {
      for (const char* key : {"tokens", "nll", "ppl", "kl_mean", "kl_median", "top1"}) out[key] = nullptr;
      if (ppl_ || base_) measure_quality(*model, base.get(), engine, out);
    }
    for (const char* key : {"prefill_tok_s", "decode_tok_s"}) out[key] = nullptr;
    std::vector<DepthSpeed> depths;
    if (speed_) measure(model, engine, out);
    if (speed_ && charts && charts->is_directory()) depths = measure_contexts(model, engine, out);
    out["weight_bytes"] = facts.weight_bytes;
    out["bits_per_weight"] = facts.bits_per_weight;
    out["backend"] = engine.backend();
    out["threads"] = engine.threads();
    if (tasks_) out["tasks"] = scores.list;

    if (charts) draw(*charts, *model, facts, comparison, depths, engine);
    const Table table = figures(out);
    for (const std::string& file : outputs_)
      write(file, file.ends_with(".md") ? markdown(comparison, table, scores.list) : out.dump(1) + "\n");
    if (json_) {
      print_json(out);
      return kDone;
    }
    if (comparison) show(comparison->table());
    if (!comparison || speed_) show((comparison ? "\n" : "") + table.str());
    if (tasks_) show("\n" + task_table(scores.list).str());
    if (charts)
      for (const std::string& file : charts->written())
        std::fprintf(stderr, "hlwq: drawn: %s\n", file.c_str());
    return kDone;
  }

 private:
  void check_usage() {
    const bool quality = ppl_ || base_ || compare_;
    if ((fewshot_ || limit_) && !tasks_) throw UsageError("--fewshot and --limit go with --tasks");
    if (fewshot_ && *fewshot_ < 0) throw UsageError("--fewshot must not be negative");
    if (limit_ && *limit_ < 1) throw UsageError("--limit is at least 1");
    if (llama_quantize_ && !compare_) throw UsageError("--llama-quantize goes with --compare");
    if (compare_ && base_) throw UsageError("--compare measures against MODEL and excludes --kld");
    if (!quality && !tasks_) speed_ = true;
    if (text_file_ && ids_file_) throw UsageError("--text-file and --ids-file exclude each other");
    if (!quality && (text_file_ || ids_file_))
      throw UsageError("--text-file goes with --ppl, --kld or --compare");
    if (depths_ && !(speed_ && chart_)) throw UsageError("--depths goes with --speed and --chart");
    for (const std::string& file : outputs_)
      if (!file.ends_with(".md") && !file.ends_with(".json"))
        throw UsageError("-o writes .md or .json, not " + file);
  }

  TaskScores measure_tasks() const {
    OrderedJson options{{"kv_bits", kv_.preset("--tasks")}};
    if (const int threads = engine_.thread_count()) options["threads"] = threads;
    if (!engine_.isa.empty()) options["isa"] = engine_.isa;
    if (!engine_.device.empty()) options["device"] = engine_.device;
    if (engine_.gpu_layers) options["gpu_layers"] = *engine_.gpu_layers;
    return run_tasks({find_model(model_), *tasks_, fewshot_, limit_, std::move(options)});
  }

  std::string markdown(const std::optional<CompareReport>& comparison, const Table& table,
                       const OrderedJson& scores) const {
    std::string text;
    if (comparison) text = comparison->markdown();
    if (!comparison || speed_) text += (text.empty() ? "" : "\n") + table.markdown();
    if (tasks_) text += "\n" + task_table(scores).markdown();
    return text;
  }

  void draw(ChartFiles& charts, const Model& model, const ModelFacts& facts,
            const std::optional<CompareReport>& comparison, const std::vector<DepthSpeed>& depths,
            const Engine& engine) const {
    if (!charts.is_directory()) {
      charts.write("", [&](SvgScheme scheme) { return chart_svg(comparison->chart(), scheme); });
      return;
    }
    if (comparison)
      charts.write("size-quality",
                   [&](SvgScheme scheme) { return chart_svg(comparison->size_chart(), scheme); });
    charts.write("memory", [&](SvgScheme scheme) {
      return bar_chart_svg(memory_chart(model_, model.spec(), facts), scheme);
    });
    charts.write("context-kv-bits", [&](SvgScheme scheme) {
      return chart_svg(context_chart(model_, model.spec(), facts), scheme);
    });
    if (!depths.empty())
      charts.write("speed-context", [&](SvgScheme scheme) {
        return chart_svg(speed_chart(model_, depths, engine.backend()), scheme);
      });
  }

  std::vector<int32_t> text_ids(const Model& model) const {
    if (ids_file_) return parse_ids(read_text(*ids_file_));
    if (!text_file_) {
      std::fprintf(stderr,
                   "hlwq: note: measured on the text that comes with hlwq, for want of --text-file; it is "
                   "the one of quantize --calibrate builtin\n");
      return model.tokenizer().encode(builtin_calibration_text(), false, false);
    }
    return model.tokenizer().encode(read_text(*text_file_), false, false);
  }

  EvalOptions eval_options(const Model& model) const {
    EvalOptions options;
    options.window = static_cast<uint64_t>(window_);
    options.stride = static_cast<uint64_t>(stride_);
    options.max_windows = static_cast<uint64_t>(windows_);
    options.bos = bos_token(model);
    options.kv = kv_.settings();
    if (base_kv_) options.base_kv = usage([&] { return KvSettings::preset(static_cast<int>(*base_kv_)); });
    return options;
  }

  std::vector<Variant> variants() const {
    std::string usual = "q3,q3-l2,q4,q4-l2,q5,q5-l2,q6,q6-l2,default,int4,nf4";
    if (model_.ends_with(".gguf")) usual += ",q3_k_m,q4_k_m,q5_k_m,q6_k";
    std::string list = "," + *compare_ + ",";
    if (const size_t at = list.find(",usual,"); at != std::string::npos) list.replace(at + 1, 5, usual);
    list = list.substr(1, list.size() - 2);
    std::vector<Variant> all;
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      const std::string name = list.substr(begin, end - begin);
      if (name != "fp16" && name != "bf16") all.push_back(usage([&] { return parse_variant(name); }));
      begin = end + 1;
    }
    if (all.empty()) throw UsageError("--compare needs something besides MODEL itself");
    return all;
  }

  CompareReport compare(const Model& model, const ModelFacts& facts, Engine& engine) const {
    const std::vector<Variant> list = variants();
    const std::vector<int32_t> ids = text_ids(model);
    const EvalOptions options = eval_options(model);
    // Beside the results there is room for results; variants are as large as models.
    std::filesystem::path work = std::filesystem::temp_directory_path();
    if (!outputs_.empty()) work = std::filesystem::absolute(outputs_[0]).parent_path();
    Comparison comparison(model, engine, ids, options, work, llama_quantize_.value_or(""));
    CompareReport report{model_, facts, options.window, engine.backend(), {}};
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string which =
          list[i].name + " (" + std::to_string(i + 1) + " of " + std::to_string(list.size()) + "), ";
      ProgressLine making(which + "quantizing", ProgressLine::Unit::kBytes);
      std::optional<ProgressLine> evaluating;  // starts its clock when making ends
      Progress evaluation;
      evaluation.cancelled = &interrupted();
      evaluation.report = [&](uint64_t done, uint64_t total, const std::string& what) {
        making.clear();
        if (!evaluating) evaluating.emplace(which + "evaluating");
        evaluating->update(done, total, what);
      };
      report.rows.push_back(comparison.run(list[i], making.progress(), evaluation));
    }
    return report;
  }

  static void write(const std::string& path, const std::string& text) {
    AtomicFile file(path);
    file.write(text);
    file.commit();
  }

  void measure_quality(const Model& model, const Model* base, Engine& engine, OrderedJson& out) const {
    const EvalOptions options = eval_options(model);
    ProgressLine line(base ? "KL divergence" : "perplexity");
    const EvalResult r = evaluate(model, base, engine, text_ids(model), options, line.progress());
    out["tokens"] = r.tokens;
    out["nll"] = r.nll;
    out["ppl"] = r.ppl;
    out["windows"] = r.windows;
    out["window"] = options.window;
    out["seconds"] = r.seconds;
    if (!r.has_base) return;
    out["kl_mean"] = r.kl_mean;
    out["kl_median"] = r.kl_median;
    out["kl_p99"] = r.kl_p99;
    out["top1"] = r.top1;
    out["base_nll"] = r.base_nll;
    out["base_ppl"] = r.base_ppl;
  }

  void measure(const std::shared_ptr<const Model>& model, Engine& engine, OrderedJson& out) const {
    SpeedOptions options;
    options.kv = kv_.settings();
    options.prompt = static_cast<uint64_t>(prompt_);
    options.decode = static_cast<uint64_t>(decode_);
    options.depth = static_cast<uint64_t>(depth_);
    options.repeats = static_cast<int>(std::min<int64_t>(repeats_, 10000));
    ProgressLine line("speed");
    const SpeedResult r = measure_speed(model, engine, options, line.progress());
    out["prefill_tok_s"] = r.prefill_tok_s;
    out["decode_tok_s"] = r.decode_tok_s;
    out["decode_gb_s"] = r.decode_gb_s;
    out["read_gb_s"] = r.read_gb_s;
  }

  std::vector<DepthSpeed> measure_contexts(const std::shared_ptr<const Model>& model, Engine& engine,
                                           OrderedJson& out) const {
    const auto decode = static_cast<uint64_t>(std::min<int64_t>(decode_, 32));
    std::vector<uint64_t> depths;
    if (depths_) {
      for (const int32_t d : parse_ids(*depths_)) depths.push_back(static_cast<uint64_t>(std::max(d, 0)));
    } else {
      for (const uint64_t d : {0, 512, 1024, 2048, 4096})
        if (d + 1 + decode <= model->spec().max_context) depths.push_back(d);
    }
    ProgressLine line("speed by context");
    const std::vector<DepthSpeed> speeds =
        usage([&] { return measure_depths(model, engine, depths, decode, kv_.settings(), line.progress()); });
    OrderedJson list = OrderedJson::array();
    for (const DepthSpeed& s : speeds)
      list.push_back(
          {{"depth", s.depth}, {"prefill_tok_s", s.prefill_tok_s}, {"decode_tok_s", s.decode_tok_s}});
    out["speed_by_context"] = std::move(list);
    return speeds;
  }

  static Table figures(const OrderedJson& o) {
    Table table({"measure", "value"});
    const auto row = [&](const char* key, const std::string& label, int digits,
                         const std::string& unit = "") {
      if (!o.contains(key) || o[key].is_null()) return;
      table.add({label, fixed(o[key].get<double>(), digits) + unit});
    };
    table.add({"weights", format_bytes(o["weight_bytes"].get<uint64_t>())});
    row("bits_per_weight", "bits per weight", 3);
    if (o.contains("tokens") && !o["tokens"].is_null())
      table.add({"tokens", format_count(o["tokens"].get<uint64_t>())});
    row("ppl", "perplexity", 4);
    row("nll", "NLL, nats per token", 5);
    row("base_ppl", "perplexity of the base", 4);
    row("kl_mean", "KL from the base, mean", 5);
    row("kl_median", "KL from the base, median", 5);
    row("kl_p99", "KL from the base, 99th percentile", 4);
    if (o.contains("top1") && !o["top1"].is_null())
      table.add({"same likeliest token", fixed(100 * o["top1"].get<double>(), 2) + " %"});
    row("prefill_tok_s", "prefill", 1, " tok/s");
    row("decode_tok_s", "decode", 1, " tok/s");
    row("decode_gb_s", "weights read while decoding", 2, " GB/s");
    row("read_gb_s", "read bandwidth of the machine", 2, " GB/s");
    table.add({"backend", o["backend"].get<std::string>() + ", " + std::to_string(o["threads"].get<int>()) +
                              " threads"});
    return table;
  }

  std::string model_;
  std::optional<std::string> base_, text_file_, ids_file_, compare_, llama_quantize_, chart_, depths_, tasks_;
  std::vector<std::string> outputs_;
  bool ppl_ = false, speed_ = false, json_ = false;
  int64_t window_ = 512, stride_ = 0, windows_ = 0, prompt_ = 512, decode_ = 64, depth_ = 0, repeats_ = 5;
  KvArgs kv_;
  std::optional<int64_t> base_kv_, fewshot_, limit_;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_bench() { return std::make_unique<Bench>(); }

}  // namespace hlwq::cli
