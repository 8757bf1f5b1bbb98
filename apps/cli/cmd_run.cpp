// hlwq run: one completion, streamed.
#include "answer.h"
#include "common.h"
#include "engine/generate.h"
#include "hub_args.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

OrderedJson logprobs_json(const std::vector<TokenLogprobs>& logprobs) {
  OrderedJson list = OrderedJson::array();
  for (const TokenLogprobs& p : logprobs) {
    OrderedJson top = OrderedJson::array();
    for (const TokenLogprob& t : p.top) top.push_back(OrderedJson::array({t.id, t.logprob}));
    list.push_back({{"id", p.chosen.id}, {"logprob", p.chosen.logprob}, {"top", std::move(top)}});
  }
  return list;
}

class Run : public Command {
 public:
  std::string name() const override { return "run"; }
  std::string summary() const override { return "Answer one prompt, or continue a text (--raw)"; }
  std::string examples() const override {
    return "  hlwq run SmolLM2-Q5 -p 'Why is the sky blue?'\n"
           "  hlwq run SmolLM2-Q5 --raw -p 'Once upon a time' -n 100 --temp 0.8 --seed 1\n"
           "  hlwq run gemma-4-31B-Q5 --image photo.jpg -p 'What is this?'\n"
           "  git diff | hlwq run SmolLM2-Q5 -s 'Summarise this change.' -p -\n"
           "  hlwq run SmolLM2-Q5 --ids 1,4093,198 -n 8 --greedy --logprobs 5 --json\n"
           "  hlwq run SmolLM2-Q5 --messages chat.json --tools tools.json --json";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, HLWQ checkpoint, .gguf file or owner/name");
    args.option("-p,--prompt", prompt_, "TEXT", "The prompt; '-' reads standard input");
    args.option("-f,--file", file_, "FILE", "The prompt from a file");
    args.option("--messages", messages_, "FILE",
                "A whole conversation: JSON list of messages (system, user, assistant, tool); '-': stdin");
    args.option("--ids", ids_, "1,2,3", "The prompt as token ids, fed as they are");
    args.option("--image", images_, "FILE", "Show a JPEG, PNG or WebP image; may be repeated");
    args.option("-s,--system", system_, "TEXT", "System message");
    args.flag("--raw", raw_, "Feed the text as it is, without the chat template");
    args.flag("--special", special_, "With --raw: special tokens spelt out in the text count as such");
    args.option("-n,--max-tokens", max_tokens_, "N",
                "Tokens at most (default: until the end or a full context)");
    args.option("--logprobs", logprobs_, "K", "Report each token's log-probability and the K likeliest");
    args.flag("--stats", stats_, "Print token counts and speeds to stderr");
    args.flag("--json", json_, "Print the result as JSON, without streaming");
    sampling_.declare(args);
    template_.declare(args);
    answer_.declare(args);
    image_args_.declare(args);
    context_.declare(args);
    engine_.declare(args);
  }

  int run() override {
    check_arguments();
    Engine engine = engine_.make();
    const auto model = load_model(model_);
    GenerateOptions options;
    options.sampling = sampling_.params(*model);
    options.stop = sampling_.stop;
    if (!sampling_.ignore_eos) options.stop_ids = stop_tokens(*model);
    options.max_tokens = max_tokens_.value_or(-1);
    options.logprobs = static_cast<int>(logprobs_.value_or(-1));
    options.cancelled = &interrupted();
    const Source source = read_source(*model);
    if (source.templated) answer_.apply(*model, template_.options(), options);
    SessionOptions session_options = context_.options();
    std::optional<ImageEncoder> encoder;
    if (!image_paths(source.messages).empty()) {
      encoder.emplace(model, image_args_.options());
      session_options.image_tokens = encoder->max_tokens();
    }
    Session session(model, engine, session_options);

    ProgressLine line("reading the prompt", ProgressLine::Unit::kCount, 1);
    options.prefill = line.progress();
    AnswerPrinter printer(line, answer_.hide_thinking);
    if (!json_) printer.attach(options);
    ImageEncoder::Chat chat;
    if (encoder)
      chat = encoder->chat(engine, source.messages, template_.options(), session.context(), options.prefill);
    else
      chat.prompt.ids =
          source.templated ? chat_ids(*model, source.messages, template_.options()) : source.ids;
    const Prompt& prompt = chat.prompt;
    const GenerateResult result = generate(session, prompt, options, [&](const std::string& text) {
      if (!json_) printer.text(text);
    });
    line.clear();
    if (json_) {
      OrderedJson json = to_json(result, prompt.ids, options, session, engine);
      if (encoder) json["images"] = images_json(chat.images);
      print_json(json);
    } else {
      if (!model->has_tokenizer()) printer.text(ids_text(result.ids));
      printer.end();
      warn_about(result);
      if (logprobs_) show(logprobs_table(*model, result));
    }
    if (stats_) print_stats(result.timing);
    if (result.finish_reason == "cancelled") throw Error(ErrorCode::kCancelled, "interrupted");
    return kDone;
  }

 private:
  void check_arguments() const {
    const int sources = prompt_.has_value() + file_.has_value() + ids_.has_value() + messages_.has_value();
    if (sources != 1)
      throw UsageError("run needs exactly one of -p TEXT, -f FILE, --messages FILE and --ids IDS");
    const bool chat_only = system_ || messages_ || !template_.thinking.empty() || answer_.thinking_budget;
    if (chat_only && (raw_ || ids_))
      throw UsageError(
          "--system, --messages, --thinking and --thinking-budget need the chat template; they do not "
          "go with --raw or --ids");
    if (system_ && messages_)
      throw UsageError("--system goes with -p and -f; --messages has its own system message");
    if (!images_.empty() && (raw_ || ids_ || messages_))
      throw UsageError(
          "--image goes with -p and -f and the chat template; --messages has image parts of its own");
    if (!image_args_.tokens.empty() && images_.empty() && !messages_)
      throw UsageError("--image-tokens goes with --image or --messages");
    image_args_.options();
    if (special_ && !raw_) throw UsageError("--special goes with --raw");
    if (max_tokens_ && *max_tokens_ < 0) throw UsageError("-n must not be negative");
    if (logprobs_ && (*logprobs_ < 0 || *logprobs_ > 1000))
      throw UsageError("--logprobs goes from 0 to 1000");
  }

  /// What the prompt is made of: messages for the chat template, or ids.
  struct Source {
    bool templated = false;
    OrderedJson messages = OrderedJson::array();
    std::vector<int32_t> ids;
  };

  /// A model without a chat template continues the text, as with --raw, unless something asks for the
  /// template.
  Source read_source(const Model& model) const {
    if (messages_) return {.templated = true, .messages = read_messages(*messages_), .ids = {}};
    if (ids_) return {.templated = false, .messages = {}, .ids = parse_ids(*ids_)};
    const std::string text = file_ ? read_text(*file_) : *prompt_ == "-" ? read_text("-") : *prompt_;
    Source source;
    const bool needs_template =
        system_ || !images_.empty() || !template_.thinking.empty() || answer_.thinking_budget;
    if (raw_ || (!model.chat_template() && !needs_template)) {
      source.ids = model.tokenizer().encode(text, true, special_);
      return source;
    }
    source.templated = true;
    if (system_) source.messages.push_back(chat_message("system", *system_));
    source.messages.push_back(images_.empty() ? chat_message("user", text) : image_message(images_, text));
    return source;
  }

  static OrderedJson images_json(const std::vector<ImageInfo>& images) {
    OrderedJson list = OrderedJson::array();
    for (const ImageInfo& i : images)
      list.push_back({{"path", i.path}, {"width", i.width}, {"height", i.height}, {"tokens", i.tokens}});
    return list;
  }

  static OrderedJson to_json(const GenerateResult& r, const std::vector<int32_t>& prompt,
                             const GenerateOptions& options, const Session& session, const Engine& engine) {
    return {{"prompt_ids", prompt},
            {"ids", r.ids},
            {"text", r.text},
            {"thinking", r.thinking},
            {"tool_calls", tool_calls_json(r.tool_calls)},
            {"message", assistant_message(r)},
            {"finish_reason", r.finish_reason},
            {"thinking_tokens", r.thinking_tokens},
            {"thinking_cut", r.thinking_cut},
            {"cut_call", r.cut_call},
            {"notes", r.notes},
            {"logprobs", logprobs_json(r.logprobs)},
            {"timing",
             {{"prefill_tokens", r.timing.prefill_tokens},
              {"prefill_s", r.timing.prefill_s},
              {"decode_tokens", r.timing.decode_tokens},
              {"decode_s", r.timing.decode_s}}},
            {"seed", options.sampling.seed},
            {"memory",
             {{"ctx", session.context()}, {"kv", session.kv_bytes()}, {"scratch", session.scratch_bytes()}}},
            {"backend", engine.backend()},
            {"threads", engine.threads()}};
  }

  static std::string ids_text(const std::vector<int32_t>& ids) {
    std::string text;
    for (int32_t id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
    return text;
  }

  static std::string logprobs_table(const Model& model, const GenerateResult& r) {
    const auto piece = [&](int32_t id) {
      return model.has_tokenizer() ? json_line(model.tokenizer().id_to_token(id)) : std::to_string(id);
    };
    Table table({"token", "logprob", "likeliest"});
    for (const TokenLogprobs& p : r.logprobs) {
      std::string top;
      for (const TokenLogprob& t : p.top)
        top += (top.empty() ? "" : "  ") + piece(t.id) + " " + fixed(t.logprob, 3);
      table.add({piece(p.chosen.id), fixed(p.chosen.logprob, 4), top});
    }
    return "\n" + table.str();
  }

  static void print_stats(const GenerateTiming& t) {
    const auto rate = [](uint64_t n, double s) {
      return s > 0 ? fixed(static_cast<double>(n) / s, 1) : std::string("-");
    };
    std::fprintf(stderr, "prompt: %s tokens in %s (%s tok/s); answer: %s tokens in %s (%s tok/s)\n",
                 format_count(t.prefill_tokens).c_str(), format_seconds(t.prefill_s).c_str(),
                 rate(t.prefill_tokens, t.prefill_s).c_str(), format_count(t.decode_tokens).c_str(),
                 format_seconds(t.decode_s).c_str(), rate(t.decode_tokens, t.decode_s).c_str());
  }

  std::string model_;
  std::optional<std::string> prompt_, file_, ids_, messages_, system_;
  std::optional<int64_t> max_tokens_, logprobs_;
  std::vector<std::string> images_;
  bool raw_ = false, special_ = false, json_ = false, stats_ = false;
  SamplingArgs sampling_;
  TemplateArgs template_;
  AnswerArgs answer_;
  ImageArgs image_args_;
  ContextArgs context_;
  EngineArgs engine_;
};

}  // namespace

std::unique_ptr<Command> make_run() { return std::make_unique<Run>(); }

}  // namespace hlwq::cli
