#include "text/tokenizer_normalizer.h"

#include <algorithm>

#include "text/tokenizer_pattern.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

using Marks = std::vector<uint8_t>;

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  void apply(std::string& text, Marks* marks) const override {
    for (const auto& p : parts_) p->apply(text, marks);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(unicode::Form form) : form_(form) {}
  void apply(std::string& text, Marks* marks) const override { unicode::normalize(text, form_, marks); }

 private:
  unicode::Form form_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(std::string& text, Marks* marks) const override { unicode::lowercase(text, marks); }
};

class Replace final : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, Marks* marks) const override {
    const std::vector<Span> spans = pattern_.find_all(text);
    if (std::none_of(spans.begin(), spans.end(), [](const Span& s) { return s.match; })) return;
    std::string out;
    Marks out_marks;
    out.reserve(text.size() + text.size() / 4);
    for (const Span& s : spans) {
      if (s.match)
        out += content_;
      else
        out.append(text, s.begin, s.end - s.begin);
      if (!marks) continue;
      const auto b = marks->begin() + static_cast<std::ptrdiff_t>(s.begin),
                 e = marks->begin() + static_cast<std::ptrdiff_t>(s.end);
      if (s.match)
        out_marks.insert(out_marks.end(), content_.size(), std::find(b, e, 1) != e ? 1 : 0);
      else
        out_marks.insert(out_marks.end(), b, e);
    }
    text = std::move(out);
    if (marks) *marks = std::move(out_marks);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  void apply(std::string& text, Marks* marks) const override {
    if (text.empty()) return;
    text.insert(0, content_);
    if (marks) marks->insert(marks->begin(), content_.size(), marks->front());
  }

 private:
  std::string content_;
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, Marks* marks) const override {
    size_t begin = 0, end = text.size(), length;
    while (left_ && begin < end && unicode::is_white_space(unicode::decode_at(text, begin, length)))
      begin += length;
    while (right_ && end > begin) {
      size_t start = end - 1;
      while ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
      if (!unicode::is_white_space(unicode::decode_at(text, start, length))) break;
      end = start;
    }
    text = text.substr(begin, end - begin);
    if (marks)
      *marks = Marks(marks->begin() + static_cast<std::ptrdiff_t>(begin),
                     marks->begin() + static_cast<std::ptrdiff_t>(end));
  }

 private:
  bool left_, right_;
};

}  // namespace

const Json& component_field(const Json& spec, const char* name, const std::string& what) {
  if (!spec.is_object()) throw Error(ErrorCode::kInvalidFile, what + " is not an object");
  const auto it = spec.find(name);
  if (it == spec.end()) throw Error(ErrorCode::kInvalidFile, what + "." + name + " is missing");
  return *it;
}

std::string component_string(const Json& spec, const char* name, const std::string& what) {
  const Json& v = component_field(spec, name, what);
  if (!v.is_string()) throw Error(ErrorCode::kInvalidFile, what + "." + name + " is not a string");
  return v.get<std::string>();
}

bool component_bool(const Json& spec, const char* name, bool fallback, const std::string& what) {
  const auto it = spec.find(name);
  if (it == spec.end() || it->is_null()) return fallback;
  if (!it->is_boolean()) throw Error(ErrorCode::kInvalidFile, what + "." + name + " is not true or false");
  return it->get<bool>();
}

std::string component_type(const Json& spec, const std::string& what) {
  return component_string(spec, "type", what);
}

Pattern::Pattern(const Json& spec, const std::string& what) {
  if (spec.is_object() && spec.size() == 1 && spec.begin()->is_string()) {
    if (spec.contains("String")) {
      literal_ = spec.begin()->get<std::string>();
      return;
    }
    if (spec.contains("Regex")) {
      regex_.emplace(spec.begin()->get_ref<const std::string&>(), what);
      return;
    }
  }
  throw Error(ErrorCode::kInvalidFile, what + " is neither {\"String\": ...} nor {\"Regex\": ...}");
}

std::unique_ptr<Normalizer> make_normalizer(const Json& spec, const std::string& what) {
  if (spec.is_null()) return nullptr;
  const std::string type = component_type(spec, what);
  const std::string here = what + " (" + type + ")";
  if (type == "Sequence") {
    const Json& list = component_field(spec, "normalizers", here);
    if (!list.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".normalizers is not an array");
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (size_t i = 0; i < list.size(); ++i) {
      auto part = make_normalizer(list[i], what + ".normalizers[" + std::to_string(i) + "]");
      if (!part) throw Error(ErrorCode::kInvalidFile, here + ".normalizers has a null entry");
      parts.push_back(std::move(part));
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  if (type == "NFC") return std::make_unique<UnicodeForm>(unicode::Form::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(unicode::Form::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(unicode::Form::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(unicode::Form::kNfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Replace")
    return std::make_unique<Replace>(Pattern(component_field(spec, "pattern", here), here + ".pattern"),
                                     component_string(spec, "content", here));
  if (type == "Prepend") return std::make_unique<Prepend>(component_string(spec, "prepend", here));
  if (type == "Strip")
    return std::make_unique<Strip>(component_bool(spec, "strip_left", true, here),
                                   component_bool(spec, "strip_right", true, here));
  throw Error(ErrorCode::kUnsupported, what + ": normalizer \"" + type + "\" is not supported");
}

}  // namespace hlwq::tok
