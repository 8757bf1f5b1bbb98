#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer_regex.h"

#include <pcre2.h>

#include "hlwq/error.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

// A pattern that needs more backtracking than this on one match is an attack or a mistake. Real
// pre-tokenizers backtrack at most once per character of a run of white space.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKib = 256 << 10;
constexpr size_t kMaxPatternBytes = 64 << 10;

struct MatchState {
  pcre2_match_data* data;
  pcre2_match_context* context;
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    if (!data || !context) throw Error(ErrorCode::kOutOfMemory, "no memory to match a regular expression");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
};

}  // namespace

std::string to_pcre(std::string_view p, const std::string& what) {
  const auto unsupported = [&](const std::string& why) {
    return Error(ErrorCode::kUnsupported, what + ": regular expression \"" + std::string(p) + "\": " + why);
  };
  // In Oniguruma \s is White_Space (PCRE2 adds U+180E), \w has marks and connectors, \h is a hexadecimal
  // digit.
  const auto class_body = [](char c) -> std::string_view {
    switch (c) {
      case 's':
        return "\\p{White_Space}";
      case 'w':
        return "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
      case 'h':
        return "0-9a-fA-F";
      default:
        return {};
    }
  };
  std::string out;
  bool in_class = false;
  size_t class_start = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const char c = p[i];
    if (c == '\\' && i + 1 < p.size()) {
      const char e = p[++i];
      const char lower = static_cast<char>(e | 0x20);
      if (const std::string_view body = class_body(lower);
          !body.empty() && (e | 0x20) == lower && (lower == 's' || lower == 'w' || lower == 'h')) {
        const bool negated = e != lower;
        if (lower == 's')
          out += negated ? "\\P{White_Space}" : body;
        else if (!in_class)
          out.append(negated ? "[^" : "[").append(body).append("]");
        else if (!negated)
          out += body;
        else
          throw unsupported(std::string("\\") + e + " inside a class is not supported");
      } else {
        out += c;
        out += e;
      }
    } else if (in_class) {
      if (c == '[' && i + 1 < p.size() && p[i + 1] == ':') {
        const size_t end = p.find(":]", i + 2);
        if (end == p.npos) throw unsupported("unterminated POSIX class");
        out += p.substr(i, end + 2 - i);
        i = end + 1;
      } else if (c == '[') {
        throw unsupported("nested classes are not supported");
      } else if (c == '&' && i + 1 < p.size() && p[i + 1] == '&') {
        throw unsupported("class intersections (&&) are not supported");
      } else {
        if (c == ']' && i > class_start) in_class = false;
        out += c;
      }
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (i + 1 < p.size() && p[i + 1] == '^') out += p[++i];
      class_start = i + 1;
    } else if (c == '(' && p.substr(i, 2) == "(?") {
      // Inline options: Oniguruma's m lets the dot match newlines (PCRE2's s), and there is no other s.
      size_t j = i + 2;
      while (j < p.size() && (p[j] == '-' || p[j] == 'i' || p[j] == 'm' || p[j] == 'x')) ++j;
      if (j > i + 2 && j < p.size() && (p[j] == ':' || p[j] == ')')) {
        out += "(?";
        for (i += 2; i < j; ++i) out += p[i] == 'm' ? 's' : p[i];
        out += p[j];
      } else {
        out += "(?";
        ++i;
      }
    } else if (c == '(' && p.substr(i, 2) == "(*") {
      throw unsupported("verbs such as (*...) are not supported");
    } else {
      out += c;
    }
  }
  return out;
}

Regex::Regex(std::string_view pattern, const std::string& what) : pattern_(pattern) {
  if (pattern.size() > kMaxPatternBytes)
    throw Error(ErrorCode::kInvalidFile,
                what + ": regular expression of " + std::to_string(pattern.size()) + " bytes is too long");
  const std::string spelled = to_pcre(pattern, what);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) throw Error(ErrorCode::kOutOfMemory, "no memory to compile a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  size_t offset = 0;
  // ^ and $ match at every line in Oniguruma's default syntax.
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                       &code, &offset, context.get());
  if (!compiled) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(code, message, sizeof message);
    throw Error(ErrorCode::kInvalidFile, what + ": regular expression \"" + pattern_ +
                                             "\": " + reinterpret_cast<const char*>(message) + " at byte " +
                                             std::to_string(offset));
  }
  code_ = std::shared_ptr<const void>(
      compiled, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  pcre2_jit_compile(compiled,
                    PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter matches: same result
}

std::vector<Span> Regex::find_all(std::string_view text) const {
  std::vector<Span> spans;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const MatchState state(code);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0, from = 0, last_end = text.size() + 1;
  while (from <= text.size()) {
    int rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its stack on the heap, up to the limit
      rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.data,
                       state.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      PCRE2_UCHAR message[256] = {};
      pcre2_get_error_message(rc, message, sizeof message);
      throw Error(ErrorCode::kInvalidArgument,
                  "the tokenizer's regular expression \"" + pattern_ +
                      "\" gave up on this text: " + reinterpret_cast<const char*>(message));
    }
    const size_t* o = pcre2_get_ovector_pointer(state.data);
    const size_t begin = o[0], end = o[1];
    if (end < begin || begin < done)
      throw Error(ErrorCode::kInvalidArgument,
                  "the tokenizer's regular expression \"" + pattern_ + "\" matched backwards");
    if (begin == end && end == last_end) {  // an empty match right after a match does not count
      if (from >= text.size()) break;
      from += unicode::char_length(static_cast<unsigned char>(text[from]));
      last_end = text.size() + 1;
      continue;
    }
    if (done < begin) spans.push_back({done, begin, false});
    spans.push_back({begin, end, true});
    done = from = last_end = end;
  }
  if (done < text.size() || text.empty()) spans.push_back({done, text.size(), false});
  return spans;
}

std::vector<Span> find_literal(std::string_view text, std::string_view literal) {
  std::vector<Span> spans;
  size_t done = 0;
  for (size_t at; !literal.empty() && (at = text.find(literal, done)) != text.npos;
       done = at + literal.size()) {
    if (done < at) spans.push_back({done, at, false});
    spans.push_back({at, at + literal.size(), true});
  }
  if (done < text.size() || text.empty()) spans.push_back({done, text.size(), false});
  return spans;
}

}  // namespace hlwq::tok
