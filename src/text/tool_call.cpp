#include "text/tool_call.h"

#include "text/unicode.h"

namespace hlwq {
namespace {

constexpr size_t kMaxBytes = 1u << 20, kMaxMembers = 4096;
constexpr int kMaxDepth = 32;
constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kCall = "call:";

std::string_view trim(std::string_view s) {
  const size_t begin = s.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return s.substr(begin, s.find_last_not_of(kSpace) - begin + 1);
}

struct Malformed {
  std::string why;
};

/// Gemma 4's arguments. A quote marker is known by its place, not by its spelling, so a string may hold
/// anything. Models also write JSON's own strings and leave quotes away: both are understood.
class GemmaReader {
 public:
  GemmaReader(const CallBody& body, std::string_view quote)
      : text_(body.text), quotes_(body.quotes), quote_(quote) {}

  ParsedCall call() {
    ParsedCall result;
    space();
    if (!text_.substr(pos_).starts_with(kCall)) throw Malformed{"it does not begin with 'call:'"};
    pos_ += kCall.size();
    const size_t brace = text_.find('{', pos_);
    if (brace == std::string_view::npos) throw Malformed{"there is no '{' after the name"};
    if (next_quote_ < quotes_.size() && quotes_[next_quote_] < brace)
      throw Malformed{"there is a quote in the name"};
    result.name = unicode::lossy(trim(text_.substr(pos_, brace - pos_)));
    if (result.name.empty()) throw Malformed{"it has no name"};
    pos_ = brace;
    result.arguments = object(1);
    space();
    if (pos_ != text_.size()) throw Malformed{"there is text after the arguments"};
    return result;
  }

 private:
  bool at_quote() const { return next_quote_ < quotes_.size() && quotes_[next_quote_] == pos_; }
  bool at(char c) const { return pos_ < text_.size() && text_[pos_] == c && !at_quote(); }
  void space() {
    while (pos_ < text_.size() && !at_quote() && kSpace.find(text_[pos_]) != std::string_view::npos) ++pos_;
  }
  void expect(char c) {
    if (!at(c)) throw Malformed{std::string("a '") + c + "' is missing at byte " + std::to_string(pos_)};
    ++pos_;
  }

  /// Between two quote markers.
  std::string quoted() {
    const size_t begin = pos_ + quote_.size();
    if (++next_quote_ >= quotes_.size()) throw Malformed{"a string does not end"};
    const size_t end = quotes_[next_quote_++];
    pos_ = end + quote_.size();
    return unicode::lossy(text_.substr(begin, end - begin));
  }

  /// Bare text up to one of `ends`.
  std::string_view bare(std::string_view ends) {
    const size_t begin = pos_;
    while (pos_ < text_.size() && !at_quote() && ends.find(text_[pos_]) == std::string_view::npos) ++pos_;
    return trim(text_.substr(begin, pos_ - begin));
  }

  /// A JSON string in double quotes, when that is what stands here and what must follow it does.
  bool json_string(std::string_view follow, std::string& out) {
    if (!at('"')) return false;
    size_t end = pos_ + 1;
    const size_t limit = next_quote_ < quotes_.size() ? quotes_[next_quote_] : text_.size();
    while (end < limit && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
    if (end >= limit) return false;
    const size_t after = text_.find_first_not_of(kSpace, end + 1);
    if (after == std::string_view::npos || follow.find(text_[after]) == std::string_view::npos) return false;
    const OrderedJson json =
        OrderedJson::parse(unicode::lossy(text_.substr(pos_, end + 1 - pos_)), nullptr, false);
    if (!json.is_string()) return false;
    out = json.get<std::string>();
    pos_ = end + 1;
    return true;
  }

  std::string key() {
    std::string text;
    if (at_quote()) return quoted();
    if (json_string(":", text)) return text;
    text = unicode::lossy(bare(":{}[],"));
    if (text.empty()) throw Malformed{"a key is missing at byte " + std::to_string(pos_)};
    return text;
  }

  OrderedJson object(int depth) {
    if (depth > kMaxDepth) throw Malformed{"it is nested too deeply"};
    OrderedJson result = OrderedJson::object();
    expect('{');
    space();
    while (!at('}')) {
      if (result.size() >= kMaxMembers) throw Malformed{"it has too many members"};
      const std::string name = key();
      space();
      expect(':');
      result[name] = value(depth);
      space();
      if (at('}')) break;
      expect(',');
      space();
    }
    ++pos_;
    return result;
  }

  OrderedJson list(int depth) {
    if (depth > kMaxDepth) throw Malformed{"it is nested too deeply"};
    OrderedJson result = OrderedJson::array();
    expect('[');
    space();
    while (!at(']')) {
      result.push_back(value(depth));
      space();
      if (at(']')) break;
      expect(',');
      space();
    }
    ++pos_;
    return result;
  }

  OrderedJson value(int depth) {
    space();
    std::string text;
    if (at_quote()) return quoted();
    if (at('{')) return object(depth + 1);
    if (at('[')) return list(depth + 1);
    if (json_string(",}]", text)) return text;
    const std::string_view word = bare(",}]");
    if (pos_ >= text_.size()) throw Malformed{"a value does not end"};
    if (at_quote()) throw Malformed{"there is a quote inside a value"};
    if (word.empty()) throw Malformed{"a value is missing at byte " + std::to_string(pos_)};
    const std::string spelt = unicode::lossy(word);
    OrderedJson json = OrderedJson::parse(spelt, nullptr, false);
    return json.is_number() || json.is_boolean() || json.is_null() ? json : OrderedJson(spelt);
  }

  std::string_view text_;
  const std::vector<size_t>& quotes_;
  std::string_view quote_;
  size_t pos_ = 0, next_quote_ = 0;
};

ParsedCall json_call(std::string_view body) {
  OrderedJson json;
  try {
    json = parse_ordered_json(trim(body), "the call", {.max_bytes = kMaxBytes, .max_depth = kMaxDepth});
  } catch (const Error& e) {
    throw Malformed{e.what()};
  }
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string())
    throw Malformed{"it is no JSON object with a name"};
  ParsedCall result;
  result.name = json["name"].get<std::string>();
  if (result.name.empty()) throw Malformed{"it has no name"};
  for (const char* key : {"arguments", "parameters"}) {
    if (!json.contains(key)) continue;
    result.arguments = json[key];
    if (result.arguments.is_string())  // JSON written as a string, as OpenAI's interface does
      result.arguments = OrderedJson::parse(json[key].get_ref<const std::string&>(), nullptr, false);
    if (result.arguments.is_null()) result.arguments = OrderedJson::object();
    if (!result.arguments.is_object()) throw Malformed{std::string("its ") + key + " are no object"};
    break;
  }
  return result;
}

}  // namespace

ParsedCall parse_call(CallSyntax syntax, const CallBody& body, std::string_view quote) {
  try {
    if (body.text.size() > kMaxBytes) throw Malformed{"it is longer than 1 MiB"};
    return syntax == CallSyntax::kGemma4 ? GemmaReader(body, quote).call() : json_call(body.text);
  } catch (const Malformed& e) {
    ParsedCall result;
    result.error = e.why;
    return result;
  }
}

std::string call_name(CallSyntax syntax, const CallBody& body) {
  std::string_view text = trim(body.text);
  if (syntax == CallSyntax::kGemma4) {
    const size_t brace = text.find('{');
    if (!text.starts_with(kCall) || brace == std::string_view::npos) return {};
    return unicode::lossy(trim(text.substr(kCall.size(), brace - kCall.size())));
  }
  // {"name": "NAME", ...: the usual order; any other is not worth a second parser.
  const auto take = [&](std::string_view what) {
    text = trim(text);
    const bool there = text.starts_with(what);
    if (there) text.remove_prefix(what.size());
    return there;
  };
  if (!take("{") || !take("\"name\"") || !take(":") || !take("\"")) return {};
  const size_t end = text.find_first_of("\"\\");
  if (end == std::string_view::npos || text[end] != '"') return {};
  return unicode::lossy(text.substr(0, end));
}

}  // namespace hlwq
