#include "engine/chat.h"

namespace hlwq {
namespace {

const ChatTemplate& require_template(const Model& model) {
  if (!model.chat_template())
    throw Error(ErrorCode::kUnsupported,
                model.source().path.string() + " has no chat template; give the text as it is (--raw)");
  return *model.chat_template();
}

/// Calls whose arguments are JSON text (OpenAI's interface) get them as objects; text that is no JSON object
/// stays: the template then says what it thinks of it.
void parse_arguments(OrderedJson& messages) {
  if (!messages.is_array()) return;
  for (OrderedJson& message : messages) {
    if (!message.is_object() || !message.contains("tool_calls") || !message["tool_calls"].is_array())
      continue;
    for (OrderedJson& call : message["tool_calls"]) {
      if (!call.is_object()) continue;
      OrderedJson& function = call.contains("function") ? call["function"] : call;
      if (!function.is_object() || !function.contains("arguments") || !function["arguments"].is_string())
        continue;
      try {
        OrderedJson parsed =
            parse_ordered_json(function["arguments"].get_ref<const std::string&>(), "arguments");
        if (parsed.is_object()) function["arguments"] = std::move(parsed);
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace

OutputFormat chat_format(const Model& model) {
  return model.has_tokenizer() ? output_format(model.source().chat_template, model.tokenizer())
                               : OutputFormat{};
}

OrderedJson tool_calls_json(const std::vector<ToolCall>& calls) {
  OrderedJson list = OrderedJson::array();
  for (const ToolCall& call : calls)
    list.push_back({{"id", call.id},
                    {"type", "function"},
                    {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  return list;
}

OrderedJson assistant_message(const GenerateResult& answer) {
  OrderedJson message = chat_message("assistant", answer.text + answer.cut_call);
  if (!answer.thinking.empty()) message["reasoning_content"] = answer.thinking;
  if (!answer.tool_calls.empty()) message["tool_calls"] = tool_calls_json(answer.tool_calls);
  return message;
}

OrderedJson tool_message(const std::string& call_id, const std::string& name, const std::string& content) {
  return {{"role", "tool"}, {"tool_call_id", call_id}, {"name", name}, {"content", content}};
}

std::vector<ToolCall> waiting_calls(const OrderedJson& messages) {
  const auto text = [](const OrderedJson& object, const char* key) {
    return object.is_object() && object.contains(key) && object[key].is_string()
               ? object[key].get<std::string>()
               : std::string();
  };
  size_t last = messages.size();
  std::set<std::string> answered;
  size_t results = 0;  // ones without an id answer in order
  while (last > 0 && text(messages[last - 1], "role") == "tool") {
    const std::string id = text(messages[--last], "tool_call_id");
    if (id.empty())
      ++results;
    else
      answered.insert(id);
  }
  std::vector<ToolCall> waiting;
  if (last == 0 || text(messages[last - 1], "role") != "assistant") return waiting;
  const OrderedJson& message = messages[last - 1];
  if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) return waiting;
  for (const OrderedJson& call : message["tool_calls"]) {
    if (!call.is_object()) continue;
    const OrderedJson& function = call.contains("function") ? call["function"] : call;
    ToolCall c{text(call, "id"), text(function, "name"), OrderedJson::object()};
    if (function.is_object() && function.contains("arguments")) c.arguments = function["arguments"];
    if (answered.contains(c.id)) continue;
    if (results > 0)
      --results;
    else
      waiting.push_back(std::move(c));
  }
  return waiting;
}

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
  parse_arguments(v["messages"]);
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
