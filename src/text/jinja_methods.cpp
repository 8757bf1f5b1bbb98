// Methods of strings, dictionaries, lists and loops that a template may call. Those that would change a value
// are absent, as in jinja2's ImmutableSandboxedEnvironment.
#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "text/jinja_eval.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {
namespace {

int64_t to_index(const Value& value, int64_t otherwise) {
  if (value.is_missing() || value.is_none()) return otherwise;
  if (!value.is_integral()) fail("an integer is needed, not " + type_name(value));
  return value.as_int();
}

const Text& string_argument(const Value& value, const char* what) {
  if (!value.is_string()) fail(std::string(what) + " needs a string, not " + type_name(value));
  return value.text();
}

Value made(Interp& interp, const Value& self, Text text) {
  return make_string(interp.budget, std::move(text), self.markup());
}

template <bool kLeft, bool kRight>
Value str_strip(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("strip", {"chars"}, 0);
  std::optional<std::string> chars;
  if (!a[0].is_missing() && !a[0].is_none()) chars = string_argument(a[0], "strip").bytes();
  return made(interp, self, strip(self.text(), chars, kLeft, kRight));
}

template <bool kFromRight>
Value str_split(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("split", {"sep", "maxsplit"}, 0);
  std::optional<std::string> separator;
  if (!a[0].is_missing() && !a[0].is_none()) separator = string_argument(a[0], "split").bytes();
  return make_list(interp.budget,
                   split(interp.budget, self.text(), separator, to_index(a[1], -1), kFromRight));
}

Value str_splitlines(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("splitlines", {"keepends"}, 0);
  return make_list(interp.budget, split_lines(interp.budget, self.text(), truthy(a[0])));
}

// The byte range of s[start:end], as find and startswith take it; nullopt when start is past the end.
std::optional<std::pair<size_t, size_t>> bounds(const std::string& s, const Value& start, const Value& end) {
  const bool whole = (start.is_missing() || start.is_none()) && (end.is_missing() || end.is_none());
  if (whole) return std::pair{size_t{0}, s.size()};
  const auto count = static_cast<int64_t>(count_code_points(s));
  const auto resolve = [count](int64_t i) {
    return i < 0 ? std::max<int64_t>(i + std::max<int64_t>(count, 0), 0) : i;
  };
  const int64_t from = resolve(std::max(to_index(start, 0), -count)),
                to = std::min(resolve(std::max(to_index(end, count), -count)), count);
  if (from > count || from > to) return std::nullopt;
  return std::pair{byte_offset(s, static_cast<size_t>(from)), byte_offset(s, static_cast<size_t>(to))};
}

template <bool kEnd>
Value str_affix(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind(kEnd ? "endswith" : "startswith", {"prefix", "start", "end"}, 1);
  const auto range = bounds(self.bytes(), a[1], a[2]);
  interp.budget.step(self.text().size() / 64);
  Values candidates{a[0]};
  if (a[0].is_seq() && a[0].seq().seq_kind == SeqKind::kTuple) candidates = a[0].seq().items;
  bool found = false;
  for (const Value& candidate : candidates) {
    const std::string& affix = string_argument(candidate, "startswith").bytes();
    if (!range) continue;
    const auto part = std::string_view(self.bytes()).substr(range->first, range->second - range->first);
    found = found || (kEnd ? part.ends_with(affix) : part.starts_with(affix));
  }
  return Value::boolean(found);
}

Value str_replace(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("replace", {"old", "new", "count"}, 2);
  return made(interp, self,
              replace(interp.budget, self.text(), string_argument(a[0], "replace"),
                      string_argument(a[1], "replace"), to_index(a[2], -1)));
}

template <Case kHow>
Value str_case(Interp& interp, const Value& self, const Arguments& args) {
  args.bind("a method that changes case", {}, 0);
  return made(interp, self, change_case(interp.budget, self.text(), kHow));
}

Value str_join(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("join", {"iterable"}, 1);
  std::vector<Text> parts;
  for (const Value& v : iterate(interp.budget, a[0])) parts.push_back(string_argument(v, "join"));
  return made(interp, self, join(interp.budget, self.text(), parts));
}

template <bool kRight, bool kMustFind>
Value str_find(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("find", {"sub", "start", "end"}, 1);
  const std::string& sub = string_argument(a[0], "find").bytes();
  const std::string& s = self.bytes();
  interp.budget.step(s.size() / 16);
  size_t p = std::string::npos;
  if (const auto range = bounds(s, a[1], a[2])) {
    const auto part = std::string_view(s).substr(range->first, range->second - range->first);
    p = kRight ? part.rfind(sub) : part.find(sub);
    if (p != std::string::npos) p += range->first;
  }
  if (p == std::string::npos) {
    if (kMustFind) fail("substring not found");
    return Value::integer(-1);
  }
  return Value::integer(static_cast<int64_t>(count_code_points(std::string_view(s).substr(0, p))));
}

Value str_count(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("count", {"sub", "start", "end"}, 1);
  const std::string& sub = string_argument(a[0], "count").bytes();
  interp.budget.step(self.text().size() / 16);
  const auto range = bounds(self.bytes(), a[1], a[2]);
  if (!range) return Value::integer(0);
  const auto part = std::string_view(self.bytes()).substr(range->first, range->second - range->first);
  if (sub.empty()) return Value::integer(static_cast<int64_t>(count_code_points(part)) + 1);
  int64_t n = 0;
  for (size_t p = part.find(sub); p != std::string_view::npos; p = part.find(sub, p + sub.size())) ++n;
  return Value::integer(n);
}

Value str_format(Interp& interp, const Value& self, const Arguments& args) {
  return made(interp, self, format_braces(interp, self.text(), args));
}

template <bool (*kTest)(int32_t), bool kEmpty = false>
Value str_all(Interp& interp, const Value& self, const Arguments& args) {
  args.bind("a string test", {}, 0);
  const std::string& s = self.bytes();
  interp.budget.step(s.size() / 8);
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = decode_at(s, i);
    if (!kTest(c.value)) return Value::boolean(false);
    i += c.size;
  }
  return Value::boolean(kEmpty || !s.empty());
}

bool is_alnum(int32_t c) { return is_alpha(c) || is_digit(c) || is_numeric(c); }
bool is_ascii(int32_t c) { return c < 0x80; }

template <bool kUpper>
Value str_cased(Interp& interp, const Value& self, const Arguments& args) {
  args.bind("a string test", {}, 0);
  const std::string& s = self.bytes();
  interp.budget.step(s.size() / 8);
  bool any = false;
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = decode_at(s, i);
    if (is_title(c.value) || (kUpper ? is_lower(c.value) : is_upper(c.value))) return Value::boolean(false);
    any = any || (kUpper ? is_upper(c.value) : is_lower(c.value));
    i += c.size;
  }
  return Value::boolean(any);
}

Value str_istitle(Interp& interp, const Value& self, const Arguments& args) {
  args.bind("istitle", {}, 0);
  const std::string& s = self.bytes();
  interp.budget.step(s.size() / 8);
  bool any = false, previous_cased = false;
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = decode_at(s, i);
    const bool upper = is_upper(c.value) || is_title(c.value), lower = is_lower(c.value);
    if ((upper && previous_cased) || (lower && !previous_cased)) return Value::boolean(false);
    previous_cased = upper || lower;
    any = any || previous_cased;
    i += c.size;
  }
  return Value::boolean(any);
}

Value str_removeprefix(Interp& interp, const Value& self, const Arguments& args) {
  const std::string prefix =
      string_argument(args.bind("removeprefix", {"prefix"}, 1)[0], "removeprefix").bytes();
  return made(
      interp, self,
      self.bytes().starts_with(prefix) ? self.text().substr(prefix.size(), self.text().size()) : self.text());
}
Value str_removesuffix(Interp& interp, const Value& self, const Arguments& args) {
  const std::string suffix =
      string_argument(args.bind("removesuffix", {"suffix"}, 1)[0], "removesuffix").bytes();
  return made(interp, self,
              self.bytes().ends_with(suffix) ? self.text().substr(0, self.text().size() - suffix.size())
                                             : self.text());
}

template <bool kRight>
Value str_partition(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("partition", {"sep"}, 1);
  const Text& separator = string_argument(a[0], "partition");
  if (separator.empty()) fail("empty separator");
  const Text& text = self.text();
  interp.budget.bytes(text.size());
  const size_t p = kRight ? text.bytes().rfind(separator.bytes()) : text.bytes().find(separator.bytes());
  const Value empty = Value::string("");
  if (p == std::string::npos)
    return make_tuple(interp.budget, kRight ? Values{empty, empty, self} : Values{self, empty, empty});
  return make_tuple(interp.budget,
                    {Value::string(text.substr(0, p)), Value::string(text.substr(p, p + separator.size())),
                     Value::string(text.substr(p + separator.size(), text.size()))});
}

template <char kAlign>
Value str_pad(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("padding", {"width", "fillchar"}, 1);
  const std::string fill = a[1].is_missing() ? " " : string_argument(a[1], "padding").bytes();
  if (count_code_points(fill) != 1) fail("the fill character must be exactly one character long");
  return made(interp, self, pad(interp.budget, self.text(), to_index(a[0], 0), fill, kAlign));
}

Value str_zfill(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("zfill", {"width"}, 1);
  const Text& text = self.text();
  const bool sign = !text.empty() && (text.bytes()[0] == '+' || text.bytes()[0] == '-');
  Text out = text.substr(0, sign ? 1 : 0);
  const int64_t width = to_index(a[0], 0);
  if (width > static_cast<int64_t>(interp.budget.max_bytes())) fail("zfill: too wide");
  out.append(pad(interp.budget, text.substr(sign ? 1 : 0, text.size()), width - (sign ? 1 : 0), "0", '>'));
  return made(interp, self, std::move(out));
}

Value str_expandtabs(Interp& interp, const Value& self, const Arguments& args) {
  const int64_t size = to_index(args.bind("expandtabs", {"tabsize"}, 0)[0], 8);
  const Text& text = self.text();
  Text out;
  int64_t column = 0;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = decode_at(text.bytes(), i);
    if (c.value == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      interp.budget.bytes(out.size() + static_cast<uint64_t>(spaces));
      out.append(std::string(static_cast<size_t>(spaces), ' '), text.untrusted_at(i));
      column += spaces;
    } else {
      out.append_range(text, i, i + c.size);
      column = c.value == '\n' || c.value == '\r' ? 0 : column + 1;
    }
    interp.budget.step();
    i += c.size;
  }
  return made(interp, self, std::move(out));
}

Value dict_get(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("get", {"key", "default"}, 1);
  if (const Value* value = self.dict().find(interp.budget, a[0])) return *value;
  return a[1].is_missing() ? Value::none() : a[1];
}

template <SeqKind kKind>
Value dict_view(Interp& interp, const Value& self, const Arguments& args) {
  args.bind("a dictionary view", {}, 0);
  Values out;
  for (const auto& [key, value] : self.dict().items) {
    if (kKind == SeqKind::kKeys)
      out.push_back(key);
    else if (kKind == SeqKind::kValues)
      out.push_back(value);
    else
      out.push_back(make_tuple(interp.budget, {key, value}));
  }
  return make_seq(interp.budget, kKind, std::move(out));
}

Value copy_self(Interp&, const Value& self, const Arguments& args) {
  args.bind("copy", {}, 0);
  return self;
}

Value seq_index(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("index", {"value"}, 1);
  const Values& items = self.seq().items;
  for (size_t i = 0; i < items.size(); ++i)
    if (equal(interp.budget, items[i], a[0])) return Value::integer(static_cast<int64_t>(i));
  fail("the value is not in the list");
}

Value seq_count(Interp& interp, const Value& self, const Arguments& args) {
  const Values a = args.bind("count", {"value"}, 1);
  int64_t n = 0;
  for (const Value& v : self.seq().items) n += equal(interp.budget, v, a[0]);
  return Value::integer(n);
}

Value loop_cycle(Interp&, const Value& self, const Arguments& args) {
  if (args.positional.empty()) fail("loop.cycle needs at least one value");
  return args.positional[self.loop().index % args.positional.size()];
}

Value loop_changed(Interp& interp, const Value& self, const Arguments& args) {
  LoopObject& loop = self.loop();
  const bool same = loop.has_changed && loop.last_changed.size() == args.positional.size() &&
                    std::equal(args.positional.begin(), args.positional.end(), loop.last_changed.begin(),
                               [&](const Value& x, const Value& y) { return equal(interp.budget, x, y); });
  loop.has_changed = true;
  loop.last_changed = args.positional;
  return Value::boolean(!same);
}

Value float_is_integer(Interp&, const Value& self, const Arguments&) {
  return Value::boolean(std::isfinite(self.as_double()) && self.as_double() == std::floor(self.as_double()));
}

using Methods = std::unordered_map<std::string_view, NativeFunction>;

const Methods kStringMethods = {
    {"strip", str_strip<true, true>},
    {"lstrip", str_strip<true, false>},
    {"rstrip", str_strip<false, true>},
    {"split", str_split<false>},
    {"rsplit", str_split<true>},
    {"splitlines", str_splitlines},
    {"startswith", str_affix<false>},
    {"endswith", str_affix<true>},
    {"replace", str_replace},
    {"upper", str_case<Case::kUpper>},
    {"lower", str_case<Case::kLower>},
    {"casefold", str_case<Case::kLower>},
    {"title", str_case<Case::kTitle>},
    {"capitalize", str_case<Case::kCapitalize>},
    {"swapcase", str_case<Case::kSwap>},
    {"join", str_join},
    {"find", str_find<false, false>},
    {"rfind", str_find<true, false>},
    {"index", str_find<false, true>},
    {"rindex", str_find<true, true>},
    {"count", str_count},
    {"format", str_format},
    {"isalpha", str_all<is_alpha>},
    {"isdigit", str_all<is_digit>},
    {"isdecimal", str_all<is_decimal>},
    {"isnumeric", str_all<is_numeric>},
    {"isalnum", str_all<is_alnum>},
    {"isspace", str_all<is_space>},
    {"isascii", str_all<is_ascii, true>},
    {"isprintable", str_all<is_printable, true>},
    {"isupper", str_cased<true>},
    {"islower", str_cased<false>},
    {"istitle", str_istitle},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"partition", str_partition<false>},
    {"rpartition", str_partition<true>},
    {"center", str_pad<'c'>},
    {"ljust", str_pad<'<'>},
    {"rjust", str_pad<'>'>},
    {"zfill", str_zfill},
    {"expandtabs", str_expandtabs},
};

const Methods kDictMethods = {
    {"get", dict_get},
    {"items", dict_view<SeqKind::kItems>},
    {"keys", dict_view<SeqKind::kKeys>},
    {"values", dict_view<SeqKind::kValues>},
    {"copy", copy_self},
};

const Methods kListMethods = {{"index", seq_index}, {"count", seq_count}, {"copy", copy_self}};
const Methods kTupleMethods = {{"index", seq_index}, {"count", seq_count}};
const Methods kLoopMethods = {{"cycle", loop_cycle}, {"changed", loop_changed}};
const Methods kFloatMethods = {{"is_integer", float_is_integer}};
const Methods kNoMethods;

const Methods& methods_of(const Value& object) {
  switch (object.kind()) {
    case Kind::kString:
      return kStringMethods;
    case Kind::kDict:
      return kDictMethods;
    case Kind::kSeq:
      if (object.seq().seq_kind == SeqKind::kList) return kListMethods;
      return object.seq().seq_kind <= SeqKind::kRange ? kTupleMethods : kNoMethods;
    case Kind::kLoop:
      return kLoopMethods;
    case Kind::kFloat:
      return kFloatMethods;
    default:
      return kNoMethods;
  }
}

}  // namespace

NativeFunction find_method(const Value& object, const std::string& name) {
  const Methods& methods = methods_of(object);
  const auto it = methods.find(name);
  return it == methods.end() ? nullptr : it->second;
}

}  // namespace hlwq::jinja
