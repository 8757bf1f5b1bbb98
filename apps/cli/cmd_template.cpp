// hlwq template: the prompt that a chat template makes of a conversation.
#include <filesystem>

#include "base/file.h"
#include "common.h"
#include "hub_args.h"
#include "terminal.h"
#include "text/chat_template.h"

namespace hlwq::cli {
namespace {

class Template : public Command {
 public:
  std::string name() const override { return "template"; }
  std::string summary() const override { return "Show the prompt that the chat template makes"; }
  std::string examples() const override {
    return "  hlwq template SmolLM2-Q5 -p 'Hello'\n"
           "  hlwq template SmolLM2-Q5 --messages chat.json --tools tools.json --json\n"
           "  hlwq template chat_template.jinja -p 'Hello' --var bos_token='<s>'";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, .gguf file, owner/name or .jinja template");
    args.option("-p,--prompt", prompt_, "TEXT", "One user message; '-' reads standard input");
    args.option("-s,--system", system_, "TEXT", "System message before it");
    args.option("--messages", messages_file_, "FILE", "JSON list of {role, content} messages");
    args.flag("--no-generation-prompt", closed_, "Do not open the assistant's turn");
    args.flag("--json", json_, "Print {text, ids, pieces} as JSON; ids needs a model");
    template_.declare(args);
  }

  int run() override {
    if (prompt_.has_value() + messages_file_.has_value() != 1)
      throw UsageError("template needs one of -p TEXT and --messages FILE");
    if (messages_file_ && system_) throw UsageError("--system goes with -p");
    const OrderedJson list = messages();
    ChatOptions options = template_.options();
    options.add_generation_prompt = !closed_;
    if (std::filesystem::path(model_).extension() == ".jinja") {
      OrderedJson variables{
          {"messages", list}, {"tools", options.tools}, {"add_generation_prompt", !closed_}};
      if (options.extra.is_object()) variables.update(options.extra);
      const std::string text = ChatTemplate(read_file(model_)).render(variables);
      if (json_)
        print_json({{"text", text}});
      else
        show(text);
      return kDone;
    }
    const auto model = load_model(model_);
    const std::string text = chat_prompt(*model, list, options);
    if (!json_) {
      show(text);
      return kDone;
    }
    const std::vector<int32_t> ids = chat_ids(*model, list, options);
    OrderedJson pieces = OrderedJson::array();
    for (int32_t id : ids) pieces.push_back(model->tokenizer().id_to_token(id));
    print_json({{"text", text}, {"ids", ids}, {"pieces", std::move(pieces)}});
    return kDone;
  }

 private:
  OrderedJson messages() const {
    if (messages_file_) return read_messages(*messages_file_);
    OrderedJson list = OrderedJson::array();
    if (system_) list.push_back(chat_message("system", *system_));
    list.push_back(chat_message("user", *prompt_ == "-" ? read_text("-") : *prompt_));
    return list;
  }

  std::string model_;
  std::optional<std::string> prompt_, system_, messages_file_;
  bool closed_ = false, json_ = false;
  TemplateArgs template_;
};

}  // namespace

std::unique_ptr<Command> make_template() { return std::make_unique<Template>(); }

}  // namespace hlwq::cli
