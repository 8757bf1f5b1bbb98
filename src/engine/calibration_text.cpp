// From text to windows of ids.
#include <algorithm>
#include <cstdint>

#include "engine/calibration.h"
#include "engine/chat.h"

namespace hlwq {
namespace {

/// Windows at even distances, about `tokens` in all; all of them when there are not more.
CalibrationWindows spread(CalibrationWindows all, uint64_t tokens) {
  uint64_t total = 0;
  for (const auto& w : all) total += w.size();
  if (total <= tokens) return all;
  const uint64_t count = std::clamp<uint64_t>(all.size() * tokens / total, 1, all.size());
  CalibrationWindows some;
  for (uint64_t i = 0; i < count; ++i) some.push_back(std::move(all[i * all.size() / count]));
  return some;
}

void cut(const std::vector<int32_t>& ids, int32_t first, uint64_t window, CalibrationWindows& out) {
  const uint64_t body = first >= 0 ? window - 1 : window;
  for (uint64_t at = 0; at < ids.size(); at += body) {
    std::vector<int32_t> w;
    if (first >= 0) w.push_back(first);
    const uint64_t n = std::min<uint64_t>(body, ids.size() - at);
    // A short rest says little and would count as much as a whole window.
    if (n * 2 < body && at > 0) break;
    w.insert(w.end(), ids.begin() + static_cast<ptrdiff_t>(at), ids.begin() + static_cast<ptrdiff_t>(at + n));
    out.push_back(std::move(w));
  }
}

std::vector<std::string> split(const std::string& text, const std::string& by) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(by, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + by.size();
  }
  return parts;
}

/// Paragraphs as turns, gathered until a turn has some substance.
OrderedJson as_conversation(const std::string& document) {
  constexpr size_t kTurn = 400;
  OrderedJson messages = OrderedJson::array();
  std::string turn;
  const auto flush = [&] {
    if (turn.empty()) return;
    messages.push_back(chat_message(messages.size() % 2 == 0 ? "user" : "assistant", turn));
    turn.clear();
  };
  for (const std::string& paragraph : split(document, "\n\n")) {
    turn += (turn.empty() ? "" : "\n\n") + paragraph;
    if (turn.size() >= kTurn) flush();
  }
  flush();
  return messages;
}

std::vector<int32_t> conversation_ids(const Model& model, const OrderedJson& messages) {
  ChatOptions options;
  options.add_generation_prompt = false;
  return chat_ids(model, messages, options);
}

std::vector<int32_t> token_ids(const OrderedJson& list, const std::string& what) {
  std::vector<int32_t> ids;
  for (const OrderedJson& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      throw Error(ErrorCode::kInvalidFile, what + ": \"ids\" must hold token ids");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

CalibrationWindows plain_windows(const Model& model, const std::string& text, uint64_t window,
                                 uint64_t tokens) {
  CalibrationWindows plain, chat;
  for (const std::string& document : split(text, "\f")) {
    cut(model.tokenizer().encode(document, false, false), bos_token(model), window, plain);
    if (!model.chat_template()) continue;
    if (const OrderedJson messages = as_conversation(document); !messages.empty())
      cut(conversation_ids(model, messages), -1, window, chat);
  }
  CalibrationWindows both = spread(std::move(plain), chat.empty() ? tokens : tokens - tokens / 2);
  for (auto& w : spread(std::move(chat), tokens / 2)) both.push_back(std::move(w));
  return both;
}

CalibrationWindows json_windows(const Model& model, const std::string& text, const std::string& what,
                                uint64_t window, uint64_t tokens) {
  CalibrationWindows all;
  const auto add = [&](const OrderedJson& entry) {
    if (entry.is_object() && entry.contains("messages") && entry["messages"].is_array())
      cut(conversation_ids(model, entry["messages"]), -1, window, all);
    else if (entry.is_object() && entry.contains("text") && entry["text"].is_string())
      cut(model.tokenizer().encode(entry["text"].get<std::string>(), false, false), bos_token(model), window,
          all);
    else if (entry.is_object() && entry.contains("ids") && entry["ids"].is_array())
      cut(token_ids(entry["ids"], what), -1, window, all);
    else
      throw Error(ErrorCode::kInvalidFile, what + ": each entry must have \"messages\", \"text\" or \"ids\"");
  };
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin != std::string::npos && text[begin] == '[') {
    for (const OrderedJson& entry : parse_ordered_json(text, what, {})) add(entry);
  } else {
    for (const std::string& line : split(text, "\n"))
      if (line.find_first_not_of(" \t\r") != std::string::npos) add(parse_ordered_json(line, what, {}));
  }
  return spread(std::move(all), tokens);
}

}  // namespace hlwq
