// UTF-8 and the few Unicode facts that tokenizers need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq::unicode {

/// Length in bytes of the character that starts with `lead`; the text must be valid UTF-8.
constexpr size_t char_length(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/// The code point at `pos` of valid UTF-8; `length` gets its size in bytes.
uint32_t decode_at(std::string_view text, size_t pos, size_t& length);

/// Appends a code point (a Unicode scalar value) as UTF-8.
void append(std::string& out, uint32_t code_point);

bool is_valid(std::string_view text);

/// Where an incomplete character at the end of `text` starts (text.size() when there is none): bytes that a
/// continuation could still make valid.
size_t incomplete_tail(std::string_view text);

/// Each maximal invalid part becomes one U+FFFD, the substitution of the Unicode standard (and of Rust's
/// lossy decoder).
std::string lossy(std::string_view bytes);

bool is_white_space(uint32_t code_point);  ///< property White_Space
bool is_numeric(uint32_t code_point);      ///< Nd, Nl, No
bool is_punctuation(uint32_t code_point);  ///< ASCII punctuation and P*
bool is_word(uint32_t code_point);         ///< \w of UTS 18

enum class Form { kNfc, kNfd, kNfkc, kNfkd };

/// Normalises valid UTF-8 in place. `marks`, when not null, holds one byte per byte of text; a byte of the
/// result is marked when any character of the normalisation segment it comes from was.
void normalize(std::string& text, Form form, std::vector<uint8_t>* marks);

/// Full lower-case mapping per character (U+0130 becomes two characters); marks as above.
void lowercase(std::string& text, std::vector<uint8_t>* marks);

}  // namespace hlwq::unicode
