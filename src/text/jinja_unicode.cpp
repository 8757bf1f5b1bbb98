#include "text/jinja_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace hlwq::jinja {
namespace {

utf8proc_category_t category(int32_t c) { return utf8proc_category(c); }

struct FullCase {
  int32_t code_point;
  const char* upper;
  const char* title;
};
// The unconditional multi-character mappings of Unicode's SpecialCasing that text is likely to hold.
constexpr FullCase kFullCases[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\xCA\xBCN", "\xCA\xBCN"},
    {0x1F0, "J\xCC\x8C", "J\xCC\x8C"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
};

const FullCase* full_case(int32_t c) {
  const auto* it = std::find_if(std::begin(kFullCases), std::end(kFullCases),
                                [c](const FullCase& f) { return f.code_point == c; });
  return it == std::end(kFullCases) ? nullptr : it;
}

}  // namespace

CodePoint decode_at(std::string_view text, size_t offset) {
  utf8proc_int32_t c = -1;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + offset),
                                  static_cast<utf8proc_ssize_t>(text.size() - offset), &c);
  if (n <= 0) return {0xFFFD, 1};
  return {c, static_cast<size_t>(n)};
}

void append_utf8(std::string& out, int32_t code_point) {
  utf8proc_uint8_t buffer[4];
  const auto n = utf8proc_encode_char(code_point, buffer);
  out.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(n));
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++count)
    i += static_cast<unsigned char>(text[i]) < 0x80 ? 1 : decode_at(text, i).size;
  return count;
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t i = 0;
  while (index > 0 && i < text.size()) {
    i += static_cast<unsigned char>(text[i]) < 0x80 ? 1 : decode_at(text, i).size;
    --index;
  }
  return i;
}

bool is_space(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_alpha(int32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
         k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}
bool is_decimal(int32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(int32_t c) {
  // Superscripts, subscripts and circled digits have a digit value without being decimal.
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) ||
         (c >= 0x2474 && c <= 0x247C) || (c >= 0x2488 && c <= 0x2490);
}
bool is_numeric(int32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_printable(int32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}
bool is_upper(int32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(int32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }
bool is_title(int32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

void append_upper(std::string& out, int32_t c) {
  if (const FullCase* f = full_case(c))
    out += f->upper;
  else
    append_utf8(out, utf8proc_toupper(c));
}
void append_lower(std::string& out, int32_t c) {
  if (c == 0x130)
    out += "i\xCC\x87";
  else
    append_utf8(out, utf8proc_tolower(c));
}
void append_title(std::string& out, int32_t c) {
  if (const FullCase* f = full_case(c))
    out += f->title;
  else
    append_utf8(out, utf8proc_totitle(c));
}

size_t leading_space(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const CodePoint c = decode_at(text, i);
    if (!is_space(c.value)) break;
    i += c.size;
  }
  return i;
}

size_t trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const CodePoint c = decode_at(text, begin);
    if (begin + c.size != end || !is_space(c.value)) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace hlwq::jinja
