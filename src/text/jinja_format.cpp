// Python's two ways of formatting: "..." % values and "...".format(values).
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja_eval.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {
namespace {

struct Spec {
  std::string fill = " ";
  char align = 0;   // < > ^ =
  char sign = '-';  // - + space
  bool alternate = false;
  char grouping = 0;  // , _
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

std::string grouped(const std::string& digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out += separator;
    out += digits[i];
  }
  return out;
}

std::string magnitude_of_int(uint64_t value, const Spec& spec) {
  const int base = spec.type == 'x' || spec.type == 'X' ? 16
                   : spec.type == 'o'                   ? 8
                   : spec.type == 'b'                   ? 2
                                                        : 10;
  char buffer[80];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, value, base);
  std::string digits(buffer, r.ptr);
  if (spec.type == 'X')
    for (char& c : digits) c = static_cast<char>(c >= 'a' ? c - 32 : c);
  if (spec.grouping) digits = grouped(digits, spec.grouping, base == 10 ? 3 : 4);
  if (spec.alternate && base != 10) digits.insert(0, std::string("0") + spec.type);
  return digits;
}

std::string magnitude_of_float(double value, const Spec& spec) {
  const double magnitude = std::fabs(value);
  const char type = spec.type;
  if (!std::isfinite(value)) {
    const std::string s = std::isnan(value) ? "nan" : "inf";
    const bool upper = type == 'F' || type == 'E' || type == 'G';
    return (upper ? (s == "nan" ? "NAN" : "INF") : s) + (type == '%' ? "%" : "");
  }
  if (spec.precision > 400) fail("format: precision is too large");
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  char buffer[1024];
  std::string s;
  if (type == 0 && spec.precision < 0) {
    s = float_repr(magnitude);
  } else if (type == 0) {
    // Like 'g', but keeps one digit after the point and switches to an exponent one digit later.
    std::snprintf(buffer, sizeof buffer, "%.*e", std::max(precision, 1) - 1, magnitude);
    const int exponent = std::atoi(std::string(buffer).substr(std::string(buffer).find('e') + 1).c_str());
    if (exponent >= -4 && exponent < std::max(precision, 1) - 1) {
      std::snprintf(buffer, sizeof buffer, "%.*g", std::max(precision, 1), magnitude);
      s = buffer;
      if (s.find('.') == std::string::npos) s += ".0";
    } else {
      std::snprintf(buffer, sizeof buffer, "%.*g", std::max(precision, 1), magnitude);
      s = buffer;
    }
  } else {
    const double shown = type == '%' ? magnitude * 100 : magnitude;
    const char conversion = type == '%' ? 'f' : type == 'n' ? 'g' : type;
    const char format[] = {'%',
                           spec.alternate ? '#' : '.',
                           spec.alternate ? '.' : '*',
                           spec.alternate ? '*' : conversion,
                           spec.alternate ? conversion : '\0',
                           '\0'};
    std::snprintf(buffer, sizeof buffer, format, precision, shown);
    s = buffer;
    if (type == '%') s += '%';
  }
  if (spec.grouping) {
    const size_t whole = s.find_first_not_of("0123456789");
    const size_t n = whole == std::string::npos ? s.size() : whole;
    s = grouped(s.substr(0, n), spec.grouping, 3) + s.substr(n);
  }
  return s;
}

Text padded(Budget& budget, const Text& text, const Spec& spec, char default_align) {
  const char align = spec.align ? spec.align : default_align;
  return pad(budget, text, spec.width, spec.fill, align == '=' ? '>' : align);
}

Text number_field(Budget& budget, bool negative, const std::string& magnitude, const Spec& spec) {
  std::string sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  if (spec.align == '=') {
    const Spec rest = [&] {
      Spec r = spec;
      r.width = spec.width - static_cast<int64_t>(sign.size());
      return r;
    }();
    Text out(sign, false);
    out.append(padded(budget, Text(magnitude, false), rest, '>'));
    return out;
  }
  return padded(budget, Text(sign + magnitude, false), spec, '>');
}

uint64_t magnitude(int64_t v) { return v < 0 ? 0 - static_cast<uint64_t>(v) : static_cast<uint64_t>(v); }

bool is_float_type(char type) {
  return type != 0 && std::string_view("eEfFgG%").find(type) != std::string_view::npos;
}

Text character(int64_t code) {
  if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) fail("%c needs a Unicode character");
  std::string s;
  append_utf8(s, static_cast<int32_t>(code));
  // A number may come from anywhere: what it spells is never trusted.
  return Text(std::move(s), true);
}

Text limit_precision(const Text& text, int64_t precision) {
  return precision < 0 ? text : text.substr(0, byte_offset(text.bytes(), static_cast<size_t>(precision)));
}

int64_t parse_number(const std::string& s, size_t& i, int64_t otherwise) {
  if (i >= s.size() || s[i] < '0' || s[i] > '9') return otherwise;
  int64_t value = 0;
  while (i < s.size() && s[i] >= '0' && s[i] <= '9') {
    value = value * 10 + (s[i++] - '0');
    if (value > (1 << 30)) fail("format: width or precision is too large");
  }
  return value;
}

}  // namespace

Text format_percent(Interp& interp, const Text& format, const Value& arguments) {
  const std::string& s = format.bytes();
  Budget& budget = interp.budget;
  const bool is_tuple = arguments.is_seq() && arguments.seq().seq_kind == SeqKind::kTuple;
  const bool is_mapping = !is_tuple && (arguments.is_dict() ||
                                        (arguments.is_seq() && arguments.seq().seq_kind == SeqKind::kList));
  size_t next = 0;
  bool mapped = false;
  const auto take = [&]() -> Value {
    if (is_tuple) {
      if (next >= arguments.seq().items.size()) fail("not enough arguments for format string");
      return arguments.seq().items[next++];
    }
    if (next++ > 0) fail("not enough arguments for format string");
    return arguments;
  };
  Text out;
  for (size_t i = 0; i < s.size();) {
    const size_t percent = std::min(s.find('%', i), s.size());
    out.append_range(format, i, percent);
    if (percent == s.size()) break;
    i = percent + 1;
    const Value* keyed = nullptr;
    if (i < s.size() && s[i] == '(') {
      const size_t close = s.find(')', i);
      if (close == std::string::npos) fail("incomplete format key");
      if (!arguments.is_dict()) fail("format requires a mapping");
      keyed = arguments.dict().find(budget, Value::string(s.substr(i + 1, close - i - 1)));
      if (keyed == nullptr) fail("no value for the format key '" + s.substr(i + 1, close - i - 1) + "'");
      mapped = true;
      i = close + 1;
    }
    Spec spec;
    bool zero = false;
    for (; i < s.size(); ++i) {
      if (s[i] == '-')
        spec.align = '<';
      else if (s[i] == '+')
        spec.sign = '+';
      else if (s[i] == ' ')
        spec.sign = spec.sign == '+' ? '+' : ' ';
      else if (s[i] == '#')
        spec.alternate = true;
      else if (s[i] == '0')
        zero = true;
      else
        break;
    }
    const auto star_or_number = [&](int64_t otherwise) {
      if (i < s.size() && s[i] == '*') {
        ++i;
        const Value v = take();
        if (!v.is_integral() || v.as_int() > (1 << 30) || v.as_int() < -(1 << 30))
          fail("* needs a small integer");
        return v.as_int();
      }
      return parse_number(s, i, otherwise);
    };
    spec.width = star_or_number(0);
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (i < s.size() && s[i] == '.') {
      ++i;
      spec.precision = std::max<int64_t>(0, star_or_number(0));
    }
    while (i < s.size() && (s[i] == 'l' || s[i] == 'h' || s[i] == 'L')) ++i;
    if (i >= s.size()) fail("incomplete format");
    const char type = s[i++];
    if (type == '%') {
      out.append("%", false);
      continue;
    }
    const Value value = keyed != nullptr ? *keyed : take();
    Text field;
    const char default_align = '>';
    switch (type) {
      case 's':
      case 'r':
      case 'a':
        field = padded(
            budget,
            limit_precision(type == 's' ? to_text(budget, value) : repr_text(budget, value), spec.precision),
            spec, default_align);
        break;
      case 'c':
        if (value.is_string() && count_code_points(value.bytes()) == 1)
          field = value.text();
        else if (value.is_integral())
          field = character(value.as_int());
        else
          fail("%c requires an int or a character");
        field = padded(budget, field, spec, default_align);
        break;
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        int64_t number = 0;
        if (value.is_integral())
          number = value.as_int();
        else if (value.is_float() && (type == 'd' || type == 'i' || type == 'u') &&
                 std::fabs(value.as_double()) < 9e18)
          number = static_cast<int64_t>(value.as_double());
        else
          fail(std::string("%") + type + " format: a number is required, not " + type_name(value));
        spec.type = type == 'i' || type == 'u' ? 'd' : type;
        if (spec.precision > 10000) fail("format: precision is too large");
        std::string digits = magnitude_of_int(magnitude(number), spec);
        const size_t prefix = spec.alternate && spec.type != 'd' ? 2 : 0;
        while (static_cast<int64_t>(digits.size() - prefix) < spec.precision) digits.insert(prefix, "0");
        if (zero && !spec.align) spec.align = '=', spec.fill = "0";
        field = number_field(budget, number < 0, digits, spec);
        break;
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.is_number()) fail("must be real number, not " + type_name(value));
        spec.type = type;
        if (zero && !spec.align) spec.align = '=', spec.fill = "0";
        field = number_field(budget, std::signbit(value.as_double()) && !std::isnan(value.as_double()),
                             magnitude_of_float(value.as_double(), spec), spec);
        break;
      default:
        fail(std::string("unsupported format character '") + type + "'");
    }
    budget.bytes(out.size() + field.size());
    out.append(field);
  }
  const bool left_over = is_tuple ? next < arguments.seq().items.size() : next == 0 && !is_mapping;
  if (left_over && !mapped) fail("not all arguments converted during string formatting");
  return out;
}

namespace {

class Braces {
 public:
  Braces(Interp& interp, const Arguments& arguments) : interp_(interp), arguments_(arguments) {}

  // depth: of fields within format specifications, of which Python allows one level.
  Text run(const Text& format, int depth) {
    if (depth > 1) fail("max string recursion exceeded");
    const std::string& s = format.bytes();
    Text out;
    for (size_t i = 0; i < s.size();) {
      const size_t brace = std::min(s.find_first_of("{}", i), s.size());
      out.append_range(format, i, brace);
      if (brace == s.size()) break;
      if (brace + 1 < s.size() && s[brace + 1] == s[brace]) {
        out.append_range(format, brace, brace + 1);
        i = brace + 2;
        continue;
      }
      if (s[brace] == '}') fail("single '}' encountered in format string");
      size_t end = brace + 1;
      int nesting = 1;
      for (; end < s.size(); ++end) {
        if (s[end] == '{')
          ++nesting;
        else if (s[end] == '}' && --nesting == 0)
          break;
      }
      if (end >= s.size()) fail("expected '}' before end of string");
      const Text field = replace_field(format, brace + 1, end, depth);
      interp_.budget.bytes(out.size() + field.size());
      out.append(field);
      i = end + 1;
    }
    return out;
  }

 private:
  Interp& interp_;
  const Arguments& arguments_;
  int64_t automatic_ = 0;
  bool manual_ = false;

  Text replace_field(const Text& format, size_t begin, size_t end, int depth) {
    const std::string field = format.bytes().substr(begin, end - begin);
    size_t name_end = 0;
    bool bracket = false;
    for (; name_end < field.size(); ++name_end) {
      if (field[name_end] == '[')
        bracket = true;
      else if (field[name_end] == ']')
        bracket = false;
      else if (!bracket && (field[name_end] == '!' || field[name_end] == ':'))
        break;
    }
    Value value = lookup(field.substr(0, name_end));
    char conversion = 0;
    size_t i = name_end;
    if (i < field.size() && field[i] == '!') {
      if (i + 1 >= field.size()) fail("end of string while looking for conversion specifier");
      conversion = field[i + 1];
      i += 2;
      if (i < field.size() && field[i] != ':') fail("expected ':' after conversion specifier");
    }
    std::string spec;
    if (i < field.size()) spec = run(format.substr(begin + i + 1, end), depth + 1).bytes();
    if (conversion == 's')
      value = Value::string(to_text(interp_.budget, value));
    else if (conversion == 'r' || conversion == 'a')
      value = Value::string(repr_text(interp_.budget, value));
    else if (conversion != 0)
      fail("unknown conversion specifier");
    return apply(value, spec);
  }

  static bool all_digits(const std::string& s) {
    return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
  }
  static int64_t number(const std::string& s) {
    size_t i = 0;
    return parse_number(s, i, 0);
  }

  Value lookup(const std::string& name) {
    size_t i = std::min(name.find_first_of(".["), name.size());
    const std::string head = name.substr(0, i);
    Value value;
    if (head.empty() || all_digits(head)) {
      if (head.empty() ? manual_ : automatic_ > 0) fail("cannot mix automatic and manual field numbering");
      manual_ = manual_ || !head.empty();
      const int64_t index = head.empty() ? automatic_++ : number(head);
      if (static_cast<size_t>(index) >= arguments_.positional.size())
        fail("replacement index " + std::to_string(index) + " out of range");
      value = arguments_.positional[static_cast<size_t>(index)];
    } else {
      const auto it = std::find_if(arguments_.keywords.begin(), arguments_.keywords.end(),
                                   [&](const auto& k) { return k.first == head; });
      if (it == arguments_.keywords.end()) fail("no argument '" + head + "' for format");
      value = it->second;
    }
    while (i < name.size()) {
      if (name[i] == '.') {
        const size_t end = std::min(name.find_first_of(".[", i + 1), name.size());
        value = interp_.attribute(value, name.substr(i + 1, end - i - 1));
        i = end;
      } else {
        const size_t close = name.find(']', i);
        if (name[i] != '[' || close == std::string::npos) fail("malformed format field '" + name + "'");
        const std::string key = name.substr(i + 1, close - i - 1);
        value = interp_.item(value, all_digits(key) ? Value::integer(number(key)) : Value::string(key));
        i = close + 1;
      }
    }
    return value;
  }

  static Spec parse_spec(const std::string& s) {
    Spec spec;
    size_t i = 0;
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    if (!s.empty()) {
      const size_t first = decode_at(s, 0).size;
      if (first < s.size() && is_align(s[first])) {
        spec.fill = s.substr(0, first);
        spec.align = s[first];
        i = first + 1;
      } else if (is_align(s[0])) {
        spec.align = s[0];
        i = 1;
      }
    }
    if (i < s.size() && (s[i] == '+' || s[i] == '-' || s[i] == ' ')) spec.sign = s[i++];
    if (i < s.size() && s[i] == '#') spec.alternate = true, ++i;
    if (i < s.size() && s[i] == '0') {
      if (!spec.align) spec.align = '0', spec.fill = "0";
      ++i;
    }
    spec.width = parse_number(s, i, 0);
    if (i < s.size() && (s[i] == ',' || s[i] == '_')) spec.grouping = s[i++];
    if (i < s.size() && s[i] == '.') {
      ++i;
      spec.precision = parse_number(s, i, -1);
      if (spec.precision < 0) fail("format specifier missing precision");
    }
    if (i < s.size()) spec.type = s[i++];
    if (i != s.size()) fail("invalid format specifier '" + s + "'");
    return spec;
  }

  Text apply(const Value& value, const std::string& text) {
    Budget& budget = interp_.budget;
    if (text.empty()) return to_text(budget, value);
    Spec spec = parse_spec(text);
    const bool zero = spec.align == '0';
    const bool as_number = value.is_number() && !(value.is_bool() && spec.type == 0 && false);
    if (zero) spec.align = as_number ? '=' : '<';
    if (as_number) {
      if (spec.type == 'c') return padded(budget, character(value.as_int()), spec, '<');
      if (value.is_float() || is_float_type(spec.type)) {
        if (spec.type != 0 && spec.type != 'n' && !is_float_type(spec.type))
          fail("unknown format code for float");
        const double f = value.as_double();
        return number_field(budget, std::signbit(f) && !std::isnan(f), magnitude_of_float(f, spec), spec);
      }
      if (spec.type != 0 && std::string_view("bdoxXn").find(spec.type) == std::string_view::npos)
        fail("unknown format code for int");
      if (spec.precision >= 0) fail("precision not allowed in integer format specifier");
      return number_field(budget, value.as_int() < 0, magnitude_of_int(magnitude(value.as_int()), spec),
                          spec);
    }
    if (!value.is_string()) fail("unsupported format string passed to " + type_name(value));
    if (spec.type != 0 && spec.type != 's') fail("unknown format code for str");
    if (spec.align == '=') fail("'=' alignment not allowed in string format specifier");
    if (spec.sign != '-' || spec.grouping || spec.alternate)
      fail("sign, grouping and '#' are not allowed for strings");
    return padded(budget, limit_precision(value.text(), spec.precision), spec, '<');
  }
};

}  // namespace

Text format_braces(Interp& interp, const Text& format, const Arguments& arguments) {
  return Braces(interp, arguments).run(format, 0);
}

}  // namespace hlwq::jinja
