#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "hlwq/error.h"
#include "text/unicode_tables.h"

namespace hlwq::unicode {
namespace {

// Length of the longest prefix of `s` that can begin a character, and whether it is a whole one.
struct Scan {
  size_t length;
  bool complete;
  bool truncated;  // ran out of input while still valid
};

Scan scan(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  size_t need;
  unsigned char low = 0x80, high = 0xBF;  // allowed range of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    need = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    need = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    need = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (size_t i = 1; i < need; ++i) {
    if (i == s.size()) return {i, false, true};
    const unsigned char c = byte(i);
    if (c < (i == 1 ? low : 0x80) || c > (i == 1 ? high : 0xBF)) return {i, false, false};
  }
  return {need, true, false};
}

bool all_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
}

using Utf8procText = std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)>;

void append_mapped(std::string_view in, utf8proc_option_t options, std::string& out) {
  utf8proc_uint8_t* raw = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(in.data()),
                              static_cast<utf8proc_ssize_t>(in.size()), &raw, options);
  const Utf8procText result(raw, &std::free);
  if (n < 0)
    throw Error(n == UTF8PROC_ERROR_NOMEM ? ErrorCode::kOutOfMemory : ErrorCode::kInvalidArgument,
                std::string("normalising text: ") + utf8proc_errmsg(n));
  out.append(reinterpret_cast<const char*>(result.get()), static_cast<size_t>(n));
}

// The reference's normalizers leave these as they are, and nothing moves across them.
bool is_left_alone(uint32_t c) { return c > 0x500 && contains(unnormalized_characters(), c); }

void append_marked(std::vector<uint8_t>& out, const std::vector<uint8_t>& marks, size_t begin, size_t end,
                   size_t n) {
  const bool any =
      std::any_of(marks.begin() + static_cast<std::ptrdiff_t>(begin),
                  marks.begin() + static_cast<std::ptrdiff_t>(end), [](uint8_t m) { return m != 0; });
  out.insert(out.end(), n, any ? 1 : 0);
}

}  // namespace

uint32_t decode_at(std::string_view text, size_t pos, size_t& length) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[pos + i]); };
  const unsigned char lead = byte(0);
  length = char_length(lead);
  switch (length) {
    case 1:
      return lead;
    case 2:
      return (lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
    case 3:
      return (lead & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    default:
      return (lead & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
  }
}

void append(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_valid(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Scan s = scan(text.substr(i));
    if (!s.complete) return false;
    i += s.length;
  }
  return true;
}

size_t incomplete_tail(std::string_view text) {
  const size_t from = text.size() > 3 ? text.size() - 3 : 0;
  for (size_t i = from; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0xC0) continue;
    const Scan s = scan(text.substr(i));
    if (s.truncated && i + s.length == text.size()) return i;
  }
  return text.size();
}

std::string lossy(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  size_t good = 0;
  for (size_t i = 0; i < bytes.size();) {
    const Scan s = scan(bytes.substr(i));
    if (!s.complete) {
      out.append(bytes, good, i - good);
      out += "\xEF\xBF\xBD";
      good = i + s.length;
    }
    i += s.length;
  }
  out.append(bytes, good, bytes.size() - good);
  return out;
}

bool is_white_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(uint32_t c) {
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO ||
         contains(newer_numeric(), c);
}

bool is_punctuation(uint32_t c) {
  if (c < 0x80)
    return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
           (c >= 0x7B && c <= 0x7E);
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool is_word(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // join controls, and the alphabetic symbols: circled and squared letters
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) ||
             contains(newer_characters("Lo"), c) || contains(newer_characters("Lu"), c) ||
             contains(newer_characters("Ll"), c) || contains(newer_characters("Lm"), c) ||
             contains(newer_characters("M"), c) || contains(newer_numeric(), c);
  }
}

void normalize(std::string& text, Form form, std::vector<uint8_t>* marks) {
  if (all_ascii(text)) return;
  int options = UTF8PROC_STABLE;
  options |= form == Form::kNfc || form == Form::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == Form::kNfkc || form == Form::kNfkd) options |= UTF8PROC_COMPAT;
  std::string out;
  std::vector<uint8_t> out_marks;
  out.reserve(text.size());
  // ASCII never changes and never moves, but may be the base of what follows; so text is cut before it, and
  // what lies between cuts normalises on its own: memory and marks stay local.
  const auto flush = [&](size_t begin, size_t end, bool plain) {
    if (begin == end) return;
    const std::string_view part(text.data() + begin, end - begin);
    const size_t before = out.size();
    if (plain)
      out += part;
    else
      append_mapped(part, static_cast<utf8proc_option_t>(options), out);
    if (!marks) return;
    const auto b = marks->begin() + static_cast<std::ptrdiff_t>(begin);
    if (plain)
      out_marks.insert(out_marks.end(), b, b + static_cast<std::ptrdiff_t>(part.size()));
    else
      append_marked(out_marks, *marks, begin, end, out.size() - before);
  };
  size_t begin = 0, length;
  bool plain = true;  // text[begin, i) needs no work
  for (size_t i = 0; i < text.size(); i += length) {
    const uint32_t c = decode_at(text, i, length);
    if (c < 0x80) {
      if (!plain) {
        flush(begin, i, false);
        begin = i;
        plain = true;
      }
    } else if (is_left_alone(c)) {
      flush(begin, i, plain);
      flush(i, i + length, true);
      begin = i + length;
      plain = true;
    } else if (plain) {
      const size_t base = i > begin ? i - 1 : i;
      flush(begin, base, true);
      begin = base;
      plain = false;
    }
  }
  flush(begin, text.size(), plain);
  text = std::move(out);
  if (marks) *marks = std::move(out_marks);
}

void lowercase(std::string& text, std::vector<uint8_t>* marks) {
  std::string out;
  std::vector<uint8_t> out_marks;
  out.reserve(text.size());
  size_t length;
  for (size_t i = 0; i < text.size(); i += length) {
    const uint32_t c = decode_at(text, i, length);
    const size_t before = out.size();
    append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c == 0x130 ? 'i' : c))));
    if (c == 0x130) append(out, 0x307);
    if (marks) append_marked(out_marks, *marks, i, i + length, out.size() - before);
  }
  text = std::move(out);
  if (marks) *marks = std::move(out_marks);
}

}  // namespace hlwq::unicode
