#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#include "text/tokenizer_normalizer.h"
#include "text/tokenizer_pattern.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

constexpr size_t kBlockBytes = 64 << 10;

// What becomes of a separator (a match).
enum class Behavior { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

Behavior parse_behavior(const std::string& name, const std::string& what) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Contiguous") return Behavior::kContiguous;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  throw Error(ErrorCode::kUnsupported, what + ": split behavior \"" + name + "\" is not supported");
}

// Only the first of several adjacent separators joins its neighbour; the others stand alone.
void join(std::vector<Span>& spans, Behavior behavior) {
  std::vector<Span> out;
  bool previous = false;
  if (behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
  for (const Span& s : spans) {
    const bool merge = behavior == Behavior::kContiguous ? s.match == previous : s.match && !previous;
    if (merge && !out.empty()) {
      out.back().begin = std::min(out.back().begin, s.begin);
      out.back().end = std::max(out.back().end, s.end);
    } else {
      out.push_back(s);
    }
    previous = s.match;
  }
  if (behavior == Behavior::kMergedWithNext) std::reverse(out.begin(), out.end());
  spans = std::move(out);
}

void emit(const Word& word, std::vector<Span> spans, Behavior behavior, std::vector<Word>& out) {
  if (behavior != Behavior::kRemoved && behavior != Behavior::kIsolated) join(spans, behavior);
  for (const Span& s : spans)
    if (s.begin < s.end && !(s.match && behavior == Behavior::kRemoved))
      out.push_back({word.text.substr(s.begin, s.end - s.begin), word.at_start && s.begin == 0});
}

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  void split(const Word& word, TextArena& arena, std::vector<Word>& out) const override {
    std::vector<Word> words{word}, next;
    for (const auto& p : parts_) {
      next.clear();
      for (const Word& w : words) p->split(w, arena, next);
      words.swap(next);
    }
    out.insert(out.end(), words.begin(), words.end());
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void split(const Word& word, TextArena&, std::vector<Word>& out) const override {
    std::vector<Span> spans = pattern_.find_all(word.text);
    if (invert_)
      for (Span& s : spans) s.match = !s.match;
    emit(word, std::move(spans), behavior_, out);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

// Characters that satisfy a predicate are separators.
class SplitChars final : public PreTokenizer {
 public:
  SplitChars(bool (*is_separator)(uint32_t), Behavior behavior)
      : is_separator_(is_separator), behavior_(behavior) {}
  void split(const Word& word, TextArena&, std::vector<Word>& out) const override {
    std::vector<Span> spans;
    size_t plain = 0, length;
    for (size_t i = 0; i < word.text.size(); i += length) {
      if (!is_separator_(unicode::decode_at(word.text, i, length))) continue;
      if (plain < i) spans.push_back({plain, i, false});
      spans.push_back({i, i + length, true});
      plain = i + length;
    }
    if (plain < word.text.size()) spans.push_back({plain, word.text.size(), false});
    emit(word, std::move(spans), behavior_, out);
  }

 private:
  bool (*is_separator_)(uint32_t);
  Behavior behavior_;
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& what)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex)
      regex_.emplace("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                     what);
    for (unsigned b = 0; b < 256; ++b) {
      std::string s;
      unicode::append(s, byte_level_char(static_cast<unsigned char>(b)));
      spelling_[b] = {s[0], s.size() > 1 ? s[1] : '\0'};
    }
  }
  void split(const Word& word, TextArena& arena, std::vector<Word>& out) const override {
    Word w = word;
    if (add_prefix_space_ && w.text.front() != ' ') w.text = arena.keep(" " + std::string(w.text));
    const size_t first = out.size();
    if (regex_)
      emit(w, regex_->find_all(w.text), Behavior::kIsolated, out);
    else
      out.push_back(w);
    for (size_t i = first; i < out.size(); ++i) out[i].text = spell(out[i].text, arena);
  }

 private:
  std::string_view spell(std::string_view text, TextArena& arena) const {
    size_t size = 0;
    for (const char c : text) size += spelling_[static_cast<unsigned char>(c)][1] ? 2 : 1;
    char* p = arena.allocate(size);
    const std::string_view spelled(p, size);
    for (const char c : text) {
      const auto& s = spelling_[static_cast<unsigned char>(c)];
      *p++ = s[0];
      if (s[1]) *p++ = s[1];
    }
    return spelled;
  }

  bool add_prefix_space_;
  std::optional<Regex> regex_;
  std::array<std::array<char, 2>, 256> spelling_;  // one or two bytes of UTF-8
};

class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}
  void split(const Word& word, TextArena& arena, std::vector<Word>& out) const override {
    std::string text;
    for (const char c : word.text) {
      if (c == ' ')
        text += replacement_;
      else
        text += c;
    }
    if (!text.starts_with(replacement_) &&
        (prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && word.at_start)))
      text.insert(0, replacement_);
    const Word kept{arena.keep(text), word.at_start};
    if (split_)
      emit(kept, find_literal(kept.text, replacement_), Behavior::kMergedWithNext, out);
    else
      out.push_back(kept);
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

std::unique_ptr<PreTokenizer> make_metaspace(const Json& spec, const std::string& what) {
  const std::string replacement = component_string(spec, "replacement", what);
  if (replacement.empty() ||
      unicode::char_length(static_cast<unsigned char>(replacement[0])) != replacement.size())
    throw Error(ErrorCode::kInvalidFile, what + ".replacement is not one character");
  auto prepend = component_bool(spec, "add_prefix_space", true, what) ? Metaspace::Prepend::kAlways
                                                                      : Metaspace::Prepend::kNever;
  if (spec.contains("prepend_scheme")) {
    const std::string scheme = component_string(spec, "prepend_scheme", what);
    if (scheme == "always")
      prepend = Metaspace::Prepend::kAlways;
    else if (scheme == "first")
      prepend = Metaspace::Prepend::kFirst;
    else if (scheme == "never")
      prepend = Metaspace::Prepend::kNever;
    else
      throw Error(ErrorCode::kUnsupported, what + ".prepend_scheme \"" + scheme + "\" is not supported");
  }
  return std::make_unique<Metaspace>(replacement, prepend, component_bool(spec, "split", true, what));
}

Behavior behavior_of(const Json& spec, const std::string& what) {
  return parse_behavior(component_string(spec, "behavior", what), what);
}

}  // namespace

char* TextArena::allocate(size_t bytes) {
  if (bytes > left_) {
    left_ = std::max(bytes, kBlockBytes);
    blocks_.push_back(std::make_unique<char[]>(left_));
    next_ = blocks_.back().get();
  }
  char* p = next_;
  next_ += bytes;
  left_ -= bytes;
  return p;
}

std::string_view TextArena::keep(std::string_view text) {
  char* p = allocate(text.size());
  std::copy(text.begin(), text.end(), p);
  return {p, text.size()};
}

uint32_t byte_level_char(unsigned char byte) {
  const auto visible = [](unsigned b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
  };
  if (visible(byte)) return byte;
  uint32_t rank = 0;  // among the bytes that have no visible character of their own
  for (unsigned b = 0; b < byte; ++b) rank += !visible(b);
  return 256 + rank;
}

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& spec, const std::string& what) {
  if (spec.is_null()) return nullptr;
  const std::string type = component_type(spec, what);
  const std::string here = what + " (" + type + ")";
  if (type == "Sequence") {
    const Json& list = component_field(spec, "pretokenizers", here);
    if (!list.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".pretokenizers is not an array");
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (size_t i = 0; i < list.size(); ++i) {
      auto part = make_pre_tokenizer(list[i], what + ".pretokenizers[" + std::to_string(i) + "]");
      if (!part) throw Error(ErrorCode::kInvalidFile, here + ".pretokenizers has a null entry");
      parts.push_back(std::move(part));
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  if (type == "Split")
    return std::make_unique<Split>(Pattern(component_field(spec, "pattern", here), here + ".pattern"),
                                   behavior_of(spec, here), component_bool(spec, "invert", false, here));
  if (type == "ByteLevel")
    return std::make_unique<ByteLevel>(component_bool(spec, "add_prefix_space", true, here),
                                       component_bool(spec, "use_regex", true, here), here);
  if (type == "Digits")
    return std::make_unique<SplitChars>(
        &unicode::is_numeric,
        component_bool(spec, "individual_digits", false, here) ? Behavior::kIsolated : Behavior::kContiguous);
  if (type == "Punctuation")
    return std::make_unique<SplitChars>(
        &unicode::is_punctuation, spec.contains("behavior") ? behavior_of(spec, here) : Behavior::kIsolated);
  if (type == "WhitespaceSplit")
    return std::make_unique<SplitChars>(&unicode::is_white_space, Behavior::kRemoved);
  if (type == "Whitespace")
    return std::make_unique<Split>(Pattern(Json{{"Regex", "\\w+|[^\\w\\s]+"}}, here), Behavior::kRemoved,
                                   true);
  if (type == "Metaspace") return make_metaspace(spec, here);
  throw Error(ErrorCode::kUnsupported, what + ": pre-tokenizer \"" + type + "\" is not supported");
}

}  // namespace hlwq::tok
