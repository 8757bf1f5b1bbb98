// hlwq chat: a conversation in the terminal.
#include <filesystem>
#include <iostream>
#include <utility>

#include "answer.h"
#include "base/file.h"
#include "common.h"
#include "engine/generate.h"
#include "hub_args.h"
#include "line_input.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

constexpr const char* kHelp =
    "/help         this list\n"
    "/reset        forget the conversation (the system message stays)\n"
    "/image FILE   show an image with the next message (JPEG, PNG or WebP)\n"
    "/save FILE    write the conversation as JSON messages\n"
    "/load FILE    go on with a saved conversation\n"
    "/tool RESULT  the result of the tool call that the model waits for\n"
    "/stats        tokens, speeds and memory\n"
    "/exit         leave (so does Ctrl-D)\n"
    "Ctrl-C stops an answer; twice at the prompt it leaves.\n"
    "A line that ends in \\ goes on in the next one; pasted lines stay one message.\n"
    "// at the start of a message stands for one /.\n";

class Chat : public Command {
 public:
  std::string name() const override { return "chat"; }
  std::string summary() const override { return "Talk to a model in the terminal"; }
  std::string examples() const override {
    return "  hlwq chat SmolLM2-Q5\n"
           "  hlwq chat SmolLM2-Q5 -s 'Answer in one sentence.' --temp 0.7\n"
           "  hlwq chat gemma-4-31B-Q5 --vision\n"
           "  printf 'Hello\\nAnd again\\n' | hlwq chat SmolLM2-Q5 --greedy\n"
           "Type /help inside.";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, HLWQ checkpoint, .gguf file or owner/name");
    args.option("-s,--system", system_, "TEXT", "System message");
    args.option("--load", load_, "FILE", "Go on with a saved conversation");
    args.option("-n,--max-tokens", max_tokens_, "N", "Tokens per answer at most");
    args.flag("--vision", vision_, "Fail at once if the model takes no images; /image shows one");
    sampling_.declare(args);
    template_.declare(args);
    answer_.declare(args);
    image_args_.declare(args);
    context_.declare(args);
    engine_.declare(args);
  }

  int run() override {
    if (max_tokens_ && *max_tokens_ < 1) throw UsageError("-n must be positive");
    const ImageOptions image_options = image_args_.options();
    Engine engine = engine_.make();
    const auto model = load_model(model_);
    if (vision_) model->require_vision();
    SessionOptions session_options = context_.options();
    if (model->vision()) {
      try {
        images_.emplace(model, image_options);
        session_options.image_tokens = images_->max_tokens();
      } catch (const Error& e) {  // a model whose images cannot be prepared still talks
        if (vision_) throw;
        why_no_images_ = e.what();
      }
    }
    generate_.sampling = sampling_.params(*model);
    generate_.stop = sampling_.stop;
    if (!sampling_.ignore_eos) generate_.stop_ids = stop_tokens(*model);
    generate_.max_tokens = max_tokens_.value_or(-1);
    generate_.cancelled = &interrupted();
    if (!model->chat_template())
      throw Error(ErrorCode::kUnsupported, model_ + " has no chat template; use 'hlwq run --raw'");
    answer_.apply(*model, template_.options(), generate_);
    Session session(model, engine, session_options);
    reset();
    if (!load_.empty()) messages_ = read_messages(load_);
    LineInput input;
    if (input.is_terminal())
      show(model->spec().architecture + " on " + engine.backend() + ", context " +
           format_count(session.context()) + ". /help lists commands.\n");
    return loop(session, engine, input);
  }

 private:
  int loop(Session& session, Engine& engine, LineInput& input) {
    bool warned = false;  // one Ctrl-C at the prompt has been answered with a hint
    std::string text;
    for (;;) {
      interrupted() = false;
      const LineInput::Event event = input.read("> ", text);
      if (event == LineInput::Event::kEnd) {
        if (input.is_terminal()) show("\n");
        return kDone;
      }
      if (event == LineInput::Event::kInterrupted) {
        if (!input.is_terminal()) throw Error(ErrorCode::kCancelled, "interrupted");
        show(warned ? "\n" : "\n(Ctrl-C again leaves)\n");
        if (warned) return kDone;
        warned = true;
        continue;
      }
      warned = false;
      if (text.find_first_not_of(" \t\n") == std::string::npos) continue;
      try {
        if (text.starts_with("//")) {
          answer(session, engine, text.substr(1));
        } else if (text.starts_with("/")) {
          if (!command(session, engine, text)) return kDone;
        } else {
          answer(session, engine, text);
        }
      } catch (const Error& e) {  // a bad file name or a full context must not end the conversation
        std::cerr << "hlwq: " << printable(e.what()) << "\n";
        failed_ = true;
      }
      // A script that pipes messages in wants to know; a person has seen the message.
      if (failed_ && !input.is_terminal()) return kFailed;
    }
  }

  void answer(Session& session, Engine& engine, const std::string& text) {
    if (const auto calls = waiting_calls(messages_); !calls.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  "the model waits for the result of " + calls.front().name + ": /tool RESULT, or /reset");
    const std::vector<std::string> attached = std::exchange(pending_, {});
    const size_t before = messages_.size();
    try {
      respond(session, engine, attached.empty() ? chat_message("user", text) : image_message(attached, text));
    } catch (const Error&) {
      if (messages_.size() == before) pending_ = attached;
      throw;
    }
    if (messages_.size() == before) pending_ = attached;  // stopped without an answer: ask again with them
  }

  /// /tool: answers the first call without a result; after the last one the model goes on.
  void give_result(Session& session, Engine& engine, const std::string& result) {
    const auto calls = waiting_calls(messages_);
    if (calls.empty()) return show("no tool call waits for a result\n");
    const OrderedJson message = tool_message(calls.front().id, calls.front().name, result);
    if (calls.size() == 1) return respond(session, engine, message);
    messages_.push_back(message);
    ask_for_result();
  }

  void ask_for_result() const {
    if (const auto calls = waiting_calls(messages_); !calls.empty())
      show("(/tool RESULT gives the result of " + calls.front().name + ")\n");
  }

  /// Adds `message` and the model's answer. Without any answer the message goes too: templates want turns to
  /// alternate.
  void respond(Session& session, Engine& engine, const OrderedJson& message) {
    const size_t before = messages_.size();
    messages_.push_back(message);
    ProgressLine line("reading the conversation", ProgressLine::Unit::kCount, 1);
    generate_.prefill = line.progress();
    AnswerPrinter printer(line, answer_.hide_thinking);
    printer.attach(generate_);
    std::string partial;
    const auto forget_question = [&] {
      messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(before), messages_.end());
    };
    try {
      const Prompt prompt = make_prompt(session, engine);
      const GenerateResult result = generate(session, prompt, generate_, [&](const std::string& piece) {
        printer.text(piece);
        partial += piece;
      });
      last_ = result.timing;
      ++generate_.sampling.seed;  // the same question twice need not get the same answer
      const bool cancelled = result.finish_reason == "cancelled";
      printer.end(cancelled ? " [stopped]" : result.finish_reason == "length" ? " [cut: length]" : "");
      warn_about(result);
      const bool nothing = result.text.empty() && result.thinking.empty() && result.tool_calls.empty();
      if (cancelled && nothing)
        forget_question();
      else
        messages_.push_back(assistant_message(result));
      ask_for_result();
    } catch (const Error& e) {
      line.clear();
      if (e.code() == ErrorCode::kCancelled)
        printer.end("[stopped]");
      else if (!partial.empty())
        printer.end();
      if (partial.empty())
        forget_question();
      else
        messages_.push_back(chat_message("assistant", partial));
      if (e.code() != ErrorCode::kCancelled) throw;
    }
  }

  Prompt make_prompt(Session& session, Engine& engine) {
    if (image_paths(messages_).empty())
      return {chat_ids(session.model(), messages_, template_.options()), {}};
    return encoder(session)
        .chat(engine, messages_, template_.options(), session.context(), generate_.prefill)
        .prompt;
  }

  ImageEncoder& encoder(const Session& session) {
    session.model().require_vision();
    if (!images_) throw Error(ErrorCode::kUnsupported, why_no_images_);
    return *images_;
  }

  // The image is decoded now, so that a bad file is refused here and not with the message.
  void attach(const Session& session, const std::string& file) {
    const ImageInfo info = encoder(session).inspect(std::filesystem::absolute(file).string());
    pending_.push_back(info.path);
    show("(" + file + ", " + std::to_string(info.width) + " x " + std::to_string(info.height) + ": " +
         std::to_string(info.tokens) + " tokens with the next message)\n");
  }

  /// False: leave.
  bool command(Session& session, Engine& engine, const std::string& text) {
    const size_t space = text.find(' ');
    const std::string name = text.substr(0, space);
    std::string argument = space == std::string::npos ? "" : text.substr(space);
    argument.erase(0, argument.find_first_not_of(' '));
    argument.erase(argument.find_last_not_of(' ') + 1);
    if (name == "/exit" || name == "/quit") return false;
    if (name == "/help") {
      show(kHelp);
    } else if (name == "/reset") {
      reset();
      show("(forgotten)\n");
    } else if (name == "/tool") {
      give_result(session, engine, argument);
    } else if (name == "/stats") {
      stats(session);
    } else if ((name == "/save" || name == "/load" || name == "/image") && argument.empty()) {
      show(name + " wants a file name\n");
    } else if (name == "/image") {
      attach(session, argument);
    } else if (name == "/save") {
      AtomicFile file(argument);
      file.write(messages_.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
      file.commit();
      show("(" + std::to_string(messages_.size()) + " messages written to " + argument + ")\n");
    } else if (name == "/load") {
      messages_ = read_messages(argument);
      show("(" + std::to_string(messages_.size()) + " messages)\n");
      ask_for_result();
    } else {
      show("unknown command " + name + "; /help lists them, // sends a message that starts with /\n");
    }
    return true;
  }

  void reset() {
    messages_ = OrderedJson::array();
    pending_.clear();
    if (system_) messages_.push_back(chat_message("system", *system_));
  }

  void stats(const Session& session) const {
    const auto rate = [](uint64_t n, double s) {
      return s > 0 ? fixed(static_cast<double>(n) / s, 1) + " tok/s" : std::string("-");
    };
    show("messages " + std::to_string(messages_.size()) + ", context " + format_count(session.ids().size()) +
         " of " + format_count(session.context()) + " tokens\nlast answer: read " +
         format_count(last_.prefill_tokens) + " tokens at " + rate(last_.prefill_tokens, last_.prefill_s) +
         ", wrote " + format_count(last_.decode_tokens) + " at " + rate(last_.decode_tokens, last_.decode_s) +
         "\nKV cache " + format_bytes(session.kv_bytes()) + ", scratch " +
         format_bytes(session.scratch_bytes()) + "\n");
  }

  std::string model_, load_;
  std::optional<std::string> system_;
  std::optional<int64_t> max_tokens_;
  SamplingArgs sampling_;
  TemplateArgs template_;
  AnswerArgs answer_;
  ImageArgs image_args_;
  ContextArgs context_;
  EngineArgs engine_;

  GenerateOptions generate_;
  OrderedJson messages_;
  std::optional<ImageEncoder> images_;  // of a model that takes them
  std::string why_no_images_;           // where the model has an image encoder that cannot be used
  std::vector<std::string> pending_;    // images of the next message
  bool vision_ = false;
  GenerateTiming last_;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<Command> make_chat() { return std::make_unique<Chat>(); }

}  // namespace hlwq::cli
