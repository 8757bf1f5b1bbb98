#include "text/jinja_lexer.h"

#include <charconv>
#include <cmath>

#include "hlwq/error.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {

void syntax_error(int line, const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, "chat template, line " + std::to_string(line) + ": " + message);
}

namespace {

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool is_digit_char(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) { return is_name_start(c) || is_digit_char(c); }

int digit_value(char c) {
  if (is_digit_char(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// One kind of newline, and no final one: jinja2's keep_trailing_newline=False.
std::string normalise_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalise_newlines(source)) {}

  std::vector<Token> run() {
    while (pos_ < text_.size()) lex_text();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the previous tag ended with a newline
  std::vector<Token> tokens_;

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  bool at(size_t p, std::string_view s) const { return text_.compare(p, s.size(), s) == 0; }
  void advance(size_t to) {
    for (; pos_ < to; ++pos_)
      if (text_[pos_] == '\n') ++line_;
    if (to > 0) line_starting_ = text_[to - 1] == '\n';
  }
  size_t skip_space(size_t p) const { return p + leading_space(std::string_view(text_).substr(p)); }

  size_t find_tag(size_t from) const {
    for (size_t p = text_.find('{', from); p != std::string::npos; p = text_.find('{', p + 1))
      if (p + 1 < text_.size() && (text_[p + 1] == '{' || text_[p + 1] == '%' || text_[p + 1] == '#'))
        return p;
    return std::string::npos;
  }

  // Data before a tag at `tag`, with the tag's left white-space control applied.
  std::string data_before(size_t begin, size_t tag, char sign, bool is_variable) const {
    std::string data = text_.substr(begin, tag - begin);
    if (sign == '-') {
      data.resize(data.size() - trailing_space(data));
    } else if (sign != '+' && !is_variable) {
      const size_t newline = data.rfind('\n');
      const size_t line_begin = newline == std::string::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting_) &&
          leading_space(std::string_view(data).substr(line_begin)) == data.size() - line_begin)
        data.resize(line_begin);
    }
    return data;
  }

  void emit_data(std::string data) {
    if (!data.empty()) add(TokenKind::kData, std::move(data));
  }

  // The end of "{% raw %}" at p, or npos when p does not start one.
  size_t raw_begin_end(size_t p) const {
    size_t q = p + 2;
    if (q < text_.size() && (text_[q] == '-' || text_[q] == '+')) ++q;
    q = skip_space(q);
    if (!at(q, "raw")) return std::string::npos;
    q = skip_space(q + 3);
    if (at(q, "-%}")) return skip_space(q + 3);
    if (at(q, "%}")) return q + 2;
    return std::string::npos;
  }

  // Where a tag that closes with `close` ends, given the position of its optional sign.
  size_t tag_end(size_t p, std::string_view close, bool trim) const {
    if (p < text_.size() && text_[p] == '-' && at(p + 1, close)) return skip_space(p + 1 + close.size());
    if (p < text_.size() && text_[p] == '+' && trim && at(p + 1, close)) return p + 1 + close.size();
    if (!at(p, close)) return std::string::npos;
    p += close.size();
    return trim && p < text_.size() && text_[p] == '\n' ? p + 1 : p;
  }

  void lex_text() {
    const size_t tag = find_tag(pos_);
    if (tag == std::string::npos) {
      emit_data(text_.substr(pos_));
      advance(text_.size());
      return;
    }
    const char type = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    const bool signed_tag = sign == '-' || sign == '+';
    emit_data(data_before(pos_, tag, sign, type == '{'));
    if (type == '%') {
      const size_t raw = raw_begin_end(tag);
      if (raw != std::string::npos) {
        advance(raw);
        lex_raw();
        return;
      }
    }
    advance(tag + 2 + (signed_tag ? 1 : 0));
    if (type == '#')
      lex_comment();
    else
      lex_expression(type == '{');
  }

  void lex_comment() {
    for (size_t p = text_.find('#', pos_ > 0 ? pos_ : 0); p != std::string::npos;
         p = text_.find('#', p + 1)) {
      if (!at(p, "#}")) continue;
      const bool has_sign = p > pos_ && (text_[p - 1] == '-' || text_[p - 1] == '+');
      advance(tag_end(has_sign ? p - 1 : p, "#}", true));
      return;
    }
    syntax_error(line_, "comment without end: expected '#}'");
  }

  void lex_raw() {
    const size_t begin = pos_;
    for (size_t p = text_.find("{%", pos_); p != std::string::npos; p = text_.find("{%", p + 1)) {
      size_t q = p + 2;
      const char sign = q < text_.size() ? text_[q] : '\0';
      if (sign == '-' || sign == '+') ++q;
      q = skip_space(q);
      if (!at(q, "endraw")) continue;
      const size_t end = tag_end(skip_space(q + 6), "%}", true);
      if (end == std::string::npos) continue;
      emit_data(data_before(begin, p, sign, false));
      advance(end);
      return;
    }
    syntax_error(line_, "raw block without end: expected '{% endraw %}'");
  }

  void lex_expression(bool variable) {
    add(variable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    const int begin_line = line_;
    std::vector<char> open;
    while (true) {
      advance(skip_space(pos_));
      if (pos_ >= text_.size())
        syntax_error(begin_line, variable ? "'{{' without '}}'" : "'{%' without '%}'");
      if (open.empty()) {
        const size_t end = tag_end(pos_, variable ? "}}" : "%}", !variable);
        if (end != std::string::npos) {
          add(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
          advance(end);
          return;
        }
      }
      const char c = text_[pos_];
      if (is_digit_char(c))
        lex_number();
      else if (is_name_start(c))
        lex_name();
      else if (c == '"' || c == '\'')
        lex_string(c);
      else
        lex_operator(open);
    }
  }

  void lex_name() {
    size_t end = pos_;
    while (end < text_.size() && is_name_char(text_[end])) ++end;
    add(TokenKind::kName, text_.substr(pos_, end - pos_));
    advance(end);
  }

  size_t digits_end(size_t p, int base) const {
    size_t end = p;
    while (end < text_.size()) {
      if (digit_value(text_[end]) < base)
        ++end;
      else if (text_[end] == '_' && end > p && end + 1 < text_.size() && digit_value(text_[end + 1]) < base)
        ++end;
      else
        break;
    }
    return end;
  }

  std::string without_underscores(size_t begin, size_t end) const {
    std::string s;
    for (; begin < end; ++begin)
      if (text_[begin] != '_') s += text_[begin];
    return s;
  }

  void lex_number() {
    int base = 10;
    if (text_[pos_] == '0' && pos_ + 1 < text_.size()) {
      const char p = static_cast<char>(text_[pos_ + 1] | 0x20);
      const int candidate = p == 'x' ? 16 : p == 'o' ? 8 : p == 'b' ? 2 : 10;
      if (candidate != 10 && digits_end(pos_ + 2, candidate) > pos_ + 2) base = candidate;
    }
    size_t begin = base == 10 ? pos_ : pos_ + 2;
    size_t end = digits_end(begin, base);
    bool real = false;
    // "a.0.b" is a subscript of a subscript, not a float.
    const bool after_dot =
        !tokens_.empty() && tokens_.back().kind == TokenKind::kOperator && tokens_.back().text == ".";
    if (base == 10 && !after_dot) {
      if (end + 1 < text_.size() && text_[end] == '.' && is_digit_char(text_[end + 1])) {
        real = true;
        end = digits_end(end + 1, 10);
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        size_t p = end + 1;
        if (p < text_.size() && (text_[p] == '+' || text_[p] == '-')) ++p;
        if (p < text_.size() && is_digit_char(text_[p])) {
          real = true;
          end = digits_end(p, 10);
        }
      }
    }
    const std::string digits = without_underscores(begin, end);
    Token token{real ? TokenKind::kFloat : TokenKind::kInteger, line_, digits};
    if (real) {
      const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), token.real);
      if (r.ec == std::errc::result_out_of_range) {
        const size_t e = digits.find_first_of("eE");
        token.real = e != std::string::npos && e + 1 < digits.size() && digits[e + 1] == '-' ? 0.0 : HUGE_VAL;
      }
    } else {
      const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
      if (r.ec != std::errc())
        syntax_error(line_, "integer " + digits.substr(0, 40) + " does not fit in 64 bits");
    }
    tokens_.push_back(std::move(token));
    advance(end);
  }

  void lex_string(char quote) {
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) syntax_error(line_, "string without closing quote");
    add(TokenKind::kString, unescape(text_.substr(pos_ + 1, end - pos_ - 1)));
    advance(end + 1);
  }

  std::string unescape(const std::string& raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\' || i + 1 >= raw.size()) {
        out += raw[i];
        continue;
      }
      const char c = raw[++i];
      switch (c) {
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case 'a':
          out += '\a';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'v':
          out += '\v';
          break;
        case 'x':
          append_code(out, raw, i, 2);
          break;
        case 'u':
          append_code(out, raw, i, 4);
          break;
        case 'U':
          append_code(out, raw, i, 8);
          break;
        case 'N':
          syntax_error(line_, "named characters (\\N{...}) are not supported");
        default:
          if (c >= '0' && c <= '7') {
            int32_t value = 0;
            size_t n = 0;
            while (n < 3 && i + n < raw.size() && raw[i + n] >= '0' && raw[i + n] <= '7')
              value = value * 8 + (raw[i + n++] - '0');
            i += n - 1;
            append_utf8(out, value);
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  void append_code(std::string& out, const std::string& raw, size_t& i, size_t digits) const {
    uint32_t value = 0;
    for (size_t n = 0; n < digits; ++n) {
      const int d = i + 1 < raw.size() ? digit_value(raw[i + 1]) : 99;
      if (d > 15) syntax_error(line_, "truncated \\x or \\u escape in a string");
      value = value << 4 | static_cast<uint32_t>(d);
      ++i;
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
      syntax_error(line_, "escape in a string is not a Unicode character");
    append_utf8(out, static_cast<int32_t>(value));
  }

  void lex_operator(std::vector<char>& open) {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (std::string_view op : kOperators) {
      if (!at(pos_, op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') {
        open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) syntax_error(line_, std::string("unexpected '") + c + "'");
        open.pop_back();
      }
      add(TokenKind::kOperator, std::string(op));
      advance(pos_ + op.size());
      return;
    }
    syntax_error(line_, std::string("unexpected character '") + text_[pos_] + "'");
  }
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace hlwq::jinja
