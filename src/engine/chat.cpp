#include "engine/chat.h"

namespace hlwq {
namespace {

const ChatTemplate& require_template(const Model& model) {
  if (!model.chat_template())
    throw Error(ErrorCode::kUnsupported,
                model.source().path.string() + " has no chat template; give the text as it is (--raw)");
  return *model.chat_template();
}

}  // namespace

OrderedJson chat_message(const std::string& role, const std::string& content) {
  return OrderedJson{{"role", role}, {"content", content}};
}

OrderedJson chat_variables(const Model& model, const OrderedJson& messages, const ChatOptions& options) {
  OrderedJson v = OrderedJson::object();
  // transformers passes every named special token (bos_token, eos_token...), whether written as text or as an
  // object.
  if (const auto& config = model.source().tokenizer_config; config.is_object())
    for (const auto& [key, value] : config.items())
      if (key.ends_with("_token"))
        if (std::string text = special_token(config, key.c_str()); !text.empty()) v[key] = std::move(text);
  v["messages"] = messages;
  v["tools"] = options.tools;
  v["documents"] = nullptr;
  v["add_generation_prompt"] = options.add_generation_prompt;
  if (options.extra.is_object())
    for (const auto& [key, value] : options.extra.items()) v[key] = value;
  return v;
}

std::string chat_prompt(const Model& model, const OrderedJson& messages, const ChatOptions& options) {
  return require_template(model).render(chat_variables(model, messages, options));
}

std::vector<int32_t> chat_ids(const Model& model, const OrderedJson& messages, const ChatOptions& options) {
  const auto pieces = require_template(model).render_pieces(chat_variables(model, messages, options));
  return model.tokenizer().encode_pieces(pieces);
}

}  // namespace hlwq
