// Oniguruma's regular expression syntax, spelled for PCRE2.
#include <array>
#include <cstdio>

#include "hlwq/error.h"
#include "text/tokenizer_regex.h"
#include "text/unicode_tables.h"

namespace hlwq::tok {
namespace {

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& what, bool newer)
      : p_(pattern), what_(what), newer_(newer) {}

  std::string run() {
    for (i_ = 0; i_ < p_.size(); ++i_) {
      const char c = p_[i_];
      if (c == '\\' && i_ + 1 < p_.size())
        escape();
      else if (in_class_)
        class_character();
      else if (c == '[')
        open_class();
      else if (c == '(')
        group();
      else
        out_ += c;
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void unsupported(const std::string& why) const {
    throw Error(ErrorCode::kUnsupported, what_ + ": regular expression \"" + std::string(p_) + "\": " + why);
  }

  // Characters of a category that PCRE2's tables lack, as class ranges.
  std::string newer(std::string_view category) const {
    std::string out;
    if (!newer_) return out;
    if (category == "L") return newer("Lu") + newer("Ll") + newer("Lt") + newer("Lm") + newer("Lo");
    for (const unicode::Range& r : unicode::newer_characters(category)) {
      char range[40];
      std::snprintf(range, sizeof range, "\\x{%X}-\\x{%X}", static_cast<unsigned>(r.first),
                    static_cast<unsigned>(r.last));
      out += range;
    }
    return out;
  }

  // A set that an escape stands for: inside a class as it is, outside in brackets.
  void emit_set(const std::string& body, bool single, bool negated) {
    if (in_class_) {
      // The complement of several things cannot be written inside a class; that of one property can.
      if (!negated)
        out_ += body;
      else if (single)
        out_ += std::string("\\P") + body.substr(2);
      else
        unsupported("a negated set such as \\W inside a class is not supported");
    } else if (single) {
      out_ += negated ? "\\P" + body.substr(2) : body;
    } else {
      out_ += (negated ? "[^" : "[") + body + "]";
    }
  }

  void property(bool negated) {
    const size_t close = p_.find('}', i_);
    if (i_ + 1 >= p_.size() || p_[i_ + 1] != '{' || close == p_.npos)
      unsupported("\\p needs a name in braces");
    std::string_view name = p_.substr(i_ + 2, close - i_ - 2);
    i_ = close;
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const std::string extra = newer(name);
    // PCRE2 takes a bare script name for its script extensions.
    const bool category = name.size() <= 2 || name == "Any" || name == "Alphabetic" || name == "White_Space";
    const std::string own = std::string("\\p{") + (category ? "" : "sc:") + std::string(name) + "}";
    // Inside a class the newer characters stay in the complement: rare, and harmless as both sides are
    // letters of nobody.
    if (extra.empty() || (in_class_ && negated))
      emit_set(own, true, negated);
    else
      emit_set(own + extra, false, negated);
  }

  void escape() {
    const char e = p_[++i_];
    switch (e) {
      case 's':  // PCRE2's own has U+180E in addition
      case 'S':
        emit_set("\\p{White_Space}", true, e == 'S');
        break;
      case 'w':
      case 'W':
        emit_set(
            "\\p{L}\\p{M}\\p{N}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}"
            "-\\x{1F189}" +
                newer("L") + newer("M") + newer("N"),
            false, e == 'W');
        break;
      case 'd':
      case 'D':
        if (newer_ && !(in_class_ && e == 'D'))
          emit_set("\\p{Nd}" + newer("Nd"), false, e == 'D');
        else
          emit_set("\\p{Nd}", true, e == 'D');
        break;
      case 'h':  // a hexadecimal digit
      case 'H':
        emit_set("0-9a-fA-F", false, e == 'H');
        break;
      case 'p':
      case 'P':
        property(e == 'P');
        break;
      default:
        out_ += '\\';
        out_ += e;
    }
  }

  void open_class() {
    in_class_ = true;
    out_ += '[';
    if (i_ + 1 < p_.size() && p_[i_ + 1] == '^') out_ += p_[++i_];
    class_start_ = i_ + 1;
  }

  void class_character() {
    const std::string_view rest = p_.substr(i_);
    if (rest.starts_with("[:punct:]")) {  // Unicode's P and S there
      out_ += "\\p{P}\\p{S}" + newer("P") + newer("S");
      i_ += 8;
      return;
    }
    if (rest.starts_with("[:")) unsupported("POSIX classes other than [:punct:] are not supported");
    if (rest[0] == '[') unsupported("nested classes are not supported");
    if (rest.starts_with("&&")) unsupported("class intersections (&&) are not supported");
    if (rest[0] == ']' && i_ > class_start_) in_class_ = false;
    out_ += rest[0];
  }

  void group() {
    if (p_.substr(i_, 2) == "(*") unsupported("verbs such as (*...) are not supported");
    out_ += '(';
    if (p_.substr(i_, 2) != "(?") return;
    out_ += '?';
    ++i_;
    // Inline options: m lets the dot match newlines, which PCRE2 calls s; Oniguruma has no other s.
    size_t j = i_ + 1;
    while (j < p_.size() && (p_[j] == '-' || p_[j] == 'i' || p_[j] == 'm' || p_[j] == 'x')) ++j;
    if (j == p_.size() || (p_[j] != ':' && p_[j] != ')')) return;
    for (; i_ + 1 < j; ++i_) out_ += p_[i_ + 1] == 'm' ? 's' : p_[i_ + 1];
  }

  std::string_view p_;
  const std::string& what_;
  bool newer_;
  std::string out_;
  size_t i_ = 0;
  bool in_class_ = false;
  size_t class_start_ = 0;
};

}  // namespace

std::string to_pcre(std::string_view pattern, const std::string& what, bool newer) {
  return Translator(pattern, what, newer).run();
}

}  // namespace hlwq::tok
