#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer_regex.h"

#include <pcre2.h>

#include "hlwq/error.h"
#include "text/unicode.h"
#include "text/unicode_tables.h"

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

namespace {

std::shared_ptr<const void> compile(const std::string& spelled, const std::string& original,
                                    const std::string& what) {
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
    throw Error(ErrorCode::kInvalidFile, what + ": regular expression \"" + original +
                                             "\": " + reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(compiled,
                    PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter matches: same result
  return {compiled, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); }};
}

bool has_newer_characters(std::string_view text) {
  size_t length;
  for (size_t i = 0; i < text.size(); i += length) {
    length = unicode::char_length(static_cast<unsigned char>(text[i]));
    if (length >= 3 && unicode::contains(unicode::newer_characters(), unicode::decode_at(text, i, length)))
      return true;
  }
  return false;
}

}  // namespace

Regex::Regex(std::string_view pattern, const std::string& what) : pattern_(pattern) {
  if (pattern.size() > kMaxPatternBytes)
    throw Error(ErrorCode::kInvalidFile,
                what + ": regular expression of " + std::to_string(pattern.size()) + " bytes is too long");
  const std::string plain = to_pcre(pattern, what, false), newer = to_pcre(pattern, what, true);
  code_ = compile(plain, pattern_, what);
  if (newer != plain) newer_code_ = compile(newer, pattern_, what);
}

std::vector<Span> Regex::find_all(std::string_view text) const {
  std::vector<Span> spans;
  const auto* code = static_cast<const pcre2_code*>(
      newer_code_ && has_newer_characters(text) ? newer_code_.get() : code_.get());
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
