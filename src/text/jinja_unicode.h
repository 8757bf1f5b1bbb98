// Code points and character classes as Python's str sees them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hlwq::jinja {

struct CodePoint {
  int32_t value;  ///< U+FFFD for a byte that is not UTF-8
  size_t size;    ///< bytes taken, at least 1
};

CodePoint decode_at(std::string_view text, size_t offset);
void append_utf8(std::string& out, int32_t code_point);
/// Code points in `text`.
size_t count_code_points(std::string_view text);
/// Byte offset of code point number `index` (the size when past the end).
size_t byte_offset(std::string_view text, size_t index);

bool is_space(int32_t c);
bool is_alpha(int32_t c);
bool is_decimal(int32_t c);
bool is_digit(int32_t c);
bool is_numeric(int32_t c);
bool is_printable(int32_t c);
bool is_upper(int32_t c);
bool is_lower(int32_t c);
bool is_title(int32_t c);
/// Full case mappings, possibly several code points.
void append_upper(std::string& out, int32_t c);
void append_lower(std::string& out, int32_t c);
void append_title(std::string& out, int32_t c);

/// Bytes of leading / trailing white space.
size_t leading_space(std::string_view text);
size_t trailing_space(std::string_view text);

}  // namespace hlwq::jinja
