// Filters on text and numbers.
#include "text/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>

#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {

int64_t integer_argument(const Value& value, int64_t otherwise) {
  if (value.is_missing() || value.is_none()) return otherwise;
  if (!value.is_integral()) fail("an integer is needed, not " + type_name(value));
  return value.as_int();
}

namespace {

// The value as a string; one marked safe stays so.
Value soft_string(Interp& interp, const Value& value) {
  return value.is_string() ? value : make_string(interp.budget, to_text(interp.budget, value));
}

template <Case kHow>
Value filter_case(Interp& interp, const Arguments& args) {
  const Value s = soft_string(interp, args.bind("a case filter", {"s"}, 1)[0]);
  return make_string(interp.budget, change_case(interp.budget, s.text(), kHow), s.markup());
}

// Unlike str.title, words begin after white space, '-' or an opening bracket only.
Value filter_title(Interp& interp, const Arguments& args) {
  const Value s = soft_string(interp, args.bind("title", {"s"}, 1)[0]);
  const std::string& bytes = s.bytes();
  Text out;
  for (size_t i = 0; i < bytes.size();) {
    const auto starts_word = [&](size_t p) {
      const int32_t c = decode_at(bytes, p).value;
      return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
    };
    size_t end = i;
    const bool separators = starts_word(i);
    while (end < bytes.size() && starts_word(end) == separators) end += decode_at(bytes, end).size;
    if (separators) {
      out.append_range(s.text(), i, end);
    } else {
      const size_t head = i + decode_at(bytes, i).size;
      out.append(change_case(interp.budget, s.text().substr(i, head), Case::kUpper));
      out.append(change_case(interp.budget, s.text().substr(head, end), Case::kLower));
    }
    i = end;
  }
  return make_string(interp.budget, std::move(out));
}

Value filter_trim(Interp& interp, const Arguments& args) {
  const Values a = args.bind("trim", {"value", "chars"}, 1);
  std::optional<std::string> chars;
  if (!a[1].is_missing() && !a[1].is_none()) {
    if (!a[1].is_string()) fail("trim needs a string of characters");
    chars = a[1].bytes();
  }
  const Value s = soft_string(interp, a[0]);
  return make_string(interp.budget, strip(s.text(), chars, true, true), s.markup());
}

Value filter_string(Interp& interp, const Arguments& args) {
  return soft_string(interp, args.bind("string", {"value"}, 1)[0]);
}

Value filter_replace(Interp& interp, const Arguments& args) {
  const Values a = args.bind("replace", {"s", "old", "new", "count"}, 3);
  Budget& budget = interp.budget;
  return make_string(budget, replace(budget, to_text(budget, a[0]), to_text(budget, a[1]),
                                     to_text(budget, a[2]), integer_argument(a[3], -1)));
}

Value filter_indent(Interp& interp, const Arguments& args) {
  const Values a = args.bind("indent", {"s", "width", "first", "blank"}, 1);
  if (!a[0].is_string()) fail("indent needs a string, not " + type_name(a[0]));
  Budget& budget = interp.budget;
  Text indentation;
  if (a[1].is_string()) {
    indentation = a[1].text();
  } else {
    const int64_t width = std::max<int64_t>(0, integer_argument(a[1], 4));
    budget.bytes(static_cast<uint64_t>(width));
    indentation = Text(std::string(static_cast<size_t>(width), ' '), false);
  }
  Text source = a[0].text();
  source.append("\n", false);
  const Values lines = split_lines(budget, source, false);
  Text out;
  if (truthy(a[2])) out.append(indentation);
  for (size_t i = 0; i < lines.size(); ++i) {
    budget.bytes(out.size() + indentation.size() + lines[i].text().size() + 1);
    if (i > 0) {
      out.append("\n", false);
      if (truthy(a[3]) || !lines[i].text().empty()) out.append(indentation);
    }
    out.append(lines[i].text());
  }
  return make_string(budget, std::move(out), a[0].markup());
}

Value filter_escape(Interp& interp, const Arguments& args) {
  const Value s = soft_string(interp, args.bind("escape", {"s"}, 1)[0]);
  return s.markup() ? s : make_string(interp.budget, escape_html(interp.budget, s.text()), true);
}
Value filter_forceescape(Interp& interp, const Arguments& args) {
  const Value s = soft_string(interp, args.bind("forceescape", {"s"}, 1)[0]);
  return make_string(interp.budget, escape_html(interp.budget, s.text()), true);
}
Value filter_safe(Interp& interp, const Arguments& args) {
  return make_string(interp.budget, to_text(interp.budget, args.bind("safe", {"s"}, 1)[0]), true);
}

Value filter_center(Interp& interp, const Arguments& args) {
  const Values a = args.bind("center", {"value", "width"}, 1);
  const Value s = soft_string(interp, a[0]);
  return make_string(interp.budget, pad(interp.budget, s.text(), integer_argument(a[1], 80), " ", 'c'),
                     s.markup());
}

Value filter_truncate(Interp& interp, const Arguments& args) {
  const Values a = args.bind("truncate", {"s", "length", "killwords", "end", "leeway"}, 1);
  if (!a[0].is_string()) fail("truncate needs a string");
  const Text end = a[3].is_missing() ? Text("...", false) : to_text(interp.budget, a[3]);
  const int64_t limit = integer_argument(a[1], 255), leeway = integer_argument(a[4], 5);
  const auto end_length = static_cast<int64_t>(count_code_points(end.bytes()));
  if (limit < end_length) fail("truncate: length is shorter than the ending");
  if (leeway < 0) fail("truncate: leeway is negative");
  if (length(a[0]) <= limit || length(a[0]) - limit <= leeway) return a[0];
  Text head = a[0].text().substr(0, byte_offset(a[0].bytes(), static_cast<size_t>(limit - end_length)));
  if (!truthy(a[2])) {
    const size_t space = head.bytes().rfind(' ');
    if (space != std::string::npos) head = head.substr(0, space);
  }
  head.append(end);
  return make_string(interp.budget, std::move(head));
}

Value filter_wordcount(Interp& interp, const Arguments& args) {
  const Value s = soft_string(interp, args.bind("wordcount", {"s"}, 1)[0]);
  interp.budget.step(s.text().size());
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < s.bytes().size();) {
    const CodePoint c = decode_at(s.bytes(), i);
    const bool word = c.value == '_' || is_alpha(c.value) || is_numeric(c.value) || is_digit(c.value);
    words += word && !inside;
    inside = word;
    i += c.size;
  }
  return Value::integer(words);
}

Text quote_url(Interp& interp, const Value& value, bool for_query) {
  const Text text = to_text(interp.budget, value);
  interp.budget.bytes(3 * text.size());
  Text out;
  text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
    std::string run;
    for (size_t i = begin; i < end; ++i) {
      const char c = text.bytes()[i];
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query);
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "%%%02X", static_cast<unsigned char>(c));
      if (plain)
        run += c;
      else if (c == ' ' && for_query)
        run += '+';
      else
        run += buffer;
    }
    out.append(run, untrusted);
  });
  return out;
}

Value filter_urlencode(Interp& interp, const Arguments& args) {
  const Value value = args.bind("urlencode", {"value"}, 1)[0];
  Budget& budget = interp.budget;
  if (value.is_string() || !is_iterable(value)) return make_string(budget, quote_url(interp, value, false));
  std::vector<Text> parts;
  const auto pair = [&](const Value& key, const Value& item) {
    Text part = quote_url(interp, key, true);
    part.append("=", false);
    part.append(quote_url(interp, item, true));
    parts.push_back(std::move(part));
  };
  if (value.is_dict()) {
    for (const auto& [key, item] : value.dict().items) pair(key, item);
  } else {
    for (const Value& entry : iterate(budget, value)) {
      const Values two = iterate(budget, entry);
      if (two.size() != 2) fail("urlencode needs pairs of a key and a value");
      pair(two[0], two[1]);
    }
  }
  return make_string(budget, join(budget, Text("&", false), parts));
}

Value filter_format(Interp& interp, const Arguments& args) {
  if (args.positional.empty()) fail("format needs a string");
  const Value s = soft_string(interp, args.positional[0]);
  Value values;
  if (!args.keywords.empty()) {
    if (args.positional.size() > 1) fail("format takes positional or keyword arguments, not both");
    auto dict = std::make_shared<DictObject>();
    for (const auto& [name, value] : args.keywords) dict->set(interp.budget, Value::string(name), value);
    values = make_dict(interp.budget, std::move(dict));
  } else {
    values = make_tuple(interp.budget, Values(args.positional.begin() + 1, args.positional.end()));
  }
  return make_string(interp.budget, format_percent(interp, s.text(), values), s.markup());
}

// ---- numbers ----

// A literal as Python's int() and float() take it: trimmed, single underscores between digits dropped.
std::optional<std::string> number_text(const std::string& s, bool hexadecimal) {
  const size_t begin = leading_space(s);
  if (begin == s.size()) return std::nullopt;
  std::string out;
  const std::string trimmed = s.substr(begin, s.size() - begin - trailing_space(s));
  const auto digit = [hexadecimal](char c) {
    return (c >= '0' && c <= '9') || (hexadecimal && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')));
  };
  for (size_t i = 0; i < trimmed.size(); ++i) {
    if (trimmed[i] != '_')
      out += trimmed[i];
    else if (i == 0 || i + 1 == trimmed.size() || !digit(trimmed[i - 1]) || !digit(trimmed[i + 1]))
      return std::nullopt;
  }
  return out;
}

std::optional<int64_t> parse_integer(const std::string& s, int64_t base) {
  auto text = number_text(s, base > 10);
  if (!text || base < 2 || base > 36) return std::nullopt;
  std::string digits = *text;
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') digits.erase(0, 1);
  const auto prefix = [&](char c) {
    return digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == c;
  };
  if ((base == 16 && prefix('x')) || (base == 8 && prefix('o')) || (base == 2 && prefix('b')))
    digits.erase(0, 2);
  if (digits.empty() || digits[0] == '-' || digits[0] == '+') return std::nullopt;
  if (negative) digits.insert(0, "-");
  int64_t value = 0;
  const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (r.ptr != digits.data() + digits.size()) return std::nullopt;
  if (r.ec != std::errc()) fail("integer " + digits.substr(0, 40) + " does not fit in 64 bits");
  return value;
}

std::optional<double> parse_real(const std::string& s) {
  auto text = number_text(s, false);
  if (!text) return std::nullopt;
  std::string digits = *text;
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') digits.erase(0, 1);
  std::string lower;
  for (char c : digits) lower += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  const double sign = negative ? -1 : 1;
  if (lower == "inf" || lower == "infinity") return sign * HUGE_VAL;
  if (lower == "nan") return std::nan("");
  if (lower.empty() || !((lower[0] >= '0' && lower[0] <= '9') || lower[0] == '.')) return std::nullopt;
  double value = 0;
  const auto r = std::from_chars(lower.data(), lower.data() + lower.size(), value);
  if (r.ptr != lower.data() + lower.size()) return std::nullopt;
  if (r.ec == std::errc::result_out_of_range) {
    const size_t e = lower.find("e-");
    value = e == std::string::npos ? HUGE_VAL : 0.0;
  }
  return sign * value;
}

std::optional<int64_t> truncated(double f) {
  if (!std::isfinite(f)) return std::nullopt;
  if (std::fabs(f) >= 9223372036854775808.0) fail("integer result does not fit in 64 bits");
  return static_cast<int64_t>(f);
}

Value filter_int(Interp&, const Arguments& args) {
  const Values a = args.bind("int", {"value", "default", "base"}, 1);
  std::optional<int64_t> result;
  if (a[0].is_undefined()) fail(a[0].ptr() ? a[0].bytes() : "an undefined value is not a number");
  if (a[0].is_integral())
    result = a[0].as_int();
  else if (a[0].is_float())
    result = truncated(a[0].as_double());
  else if (a[0].is_string()) {
    result = parse_integer(a[0].bytes(), integer_argument(a[2], 10));
    if (!result)
      if (const auto f = parse_real(a[0].bytes())) result = truncated(*f);
  }
  if (result) return Value::integer(*result);
  return a[1].is_missing() ? Value::integer(0) : a[1];
}

Value filter_float(Interp&, const Arguments& args) {
  const Values a = args.bind("float", {"value", "default"}, 1);
  if (a[0].is_undefined()) fail(a[0].ptr() ? a[0].bytes() : "an undefined value is not a number");
  if (a[0].is_number()) return Value::real(a[0].as_double());
  if (a[0].is_string())
    if (const auto f = parse_real(a[0].bytes())) return Value::real(*f);
  return a[1].is_missing() ? Value::real(0.0) : a[1];
}

Value filter_abs(Interp&, const Arguments& args) {
  const Value v = args.bind("abs", {"x"}, 1)[0];
  if (v.is_float()) return Value::real(std::fabs(v.as_double()));
  if (!v.is_integral()) fail("bad operand type for abs(): " + type_name(v));
  if (v.as_int() == INT64_MIN) fail("integer result does not fit in 64 bits");
  return Value::integer(std::abs(v.as_int()));
}

// round() on doubles: the exact decimal expansion, ties to even, which is what printf does.
double round_decimal(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -330) return std::copysign(0.0, value);
  char buffer[800];
  if (digits >= 0) {
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), value);
    return std::strtod(buffer, nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(value / scale) * scale;
}

Value filter_round(Interp&, const Arguments& args) {
  const Values a = args.bind("round", {"value", "precision", "method"}, 1);
  const int64_t precision = integer_argument(a[1], 0);
  const std::string method = a[2].is_missing() ? "common" : a[2].is_string() ? a[2].bytes() : "";
  if (method != "common" && method != "ceil" && method != "floor")
    fail("round: method must be common, ceil or floor");
  if (!a[0].is_number()) fail("round needs a number, not " + type_name(a[0]));
  if (precision > 300 || precision < -300) fail("round: precision out of range");
  if (method == "common") {
    if (a[0].is_float()) return Value::real(round_decimal(a[0].as_double(), precision));
    if (precision >= 0) return Value::integer(a[0].as_int());
    return Value::integer(static_cast<int64_t>(round_decimal(a[0].as_double(), precision)));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = a[0].as_double() * scale;
  if (!std::isfinite(scaled)) fail("round: cannot convert to an integer");
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value filter_default(Interp&, const Arguments& args) {
  const Values a = args.bind("default", {"value", "default_value", "boolean"}, 1);
  if (a[0].is_undefined() || (truthy(a[2]) && !truthy(a[0])))
    return a[1].is_missing() ? Value::string("") : a[1];
  return a[0];
}

}  // namespace

const Filters& text_filters() {
  static const Filters filters = {
      {"upper", filter_case<Case::kUpper>},
      {"lower", filter_case<Case::kLower>},
      {"capitalize", filter_case<Case::kCapitalize>},
      {"title", filter_title},
      {"trim", filter_trim},
      {"string", filter_string},
      {"replace", filter_replace},
      {"indent", filter_indent},
      {"escape", filter_escape},
      {"e", filter_escape},
      {"forceescape", filter_forceescape},
      {"safe", filter_safe},
      {"center", filter_center},
      {"truncate", filter_truncate},
      {"wordcount", filter_wordcount},
      {"urlencode", filter_urlencode},
      {"format", filter_format},
      {"tojson", to_json},
      {"int", filter_int},
      {"float", filter_float},
      {"abs", filter_abs},
      {"round", filter_round},
      {"default", filter_default},
      {"d", filter_default},
  };
  return filters;
}

bool has_filter(const std::string& name) {
  return text_filters().contains(name) || sequence_filters().contains(name);
}

Value Interp::filter(const std::string& name, const Arguments& arguments) {
  for (const Filters* filters : {&text_filters(), &sequence_filters()}) {
    const auto it = filters->find(name);
    if (it != filters->end()) return it->second(*this, arguments);
  }
  fail("no filter named '" + name + "'");
}

}  // namespace hlwq::jinja
