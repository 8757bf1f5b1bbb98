// Functions that every template can call, and the tests behind `is`.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <unordered_map>

#include "text/jinja_eval.h"
#include "text/jinja_strings.h"

namespace hlwq::jinja {
namespace {

// jinja2's sandbox refuses longer ranges.
constexpr int64_t kMaxRange = 100000;

Value global_range(Interp& interp, const Value&, const Arguments& args) {
  const Values a = args.bind("range", {"start", "stop", "step"}, 1);
  for (const Value& v : a)
    if (!v.is_missing() && !v.is_integral()) fail("range needs integers, not " + type_name(v));
  auto range = std::make_shared<SeqObject>();
  range->seq_kind = SeqKind::kRange;
  range->depth = 1;
  range->start = a[1].is_missing() ? 0 : a[0].as_int();
  range->stop = a[1].is_missing() ? a[0].as_int() : a[1].as_int();
  range->step = a[2].is_missing() ? 1 : a[2].as_int();
  if (range->step == 0) fail("range step cannot be zero");
  for (int64_t i = range->start; range->step > 0 ? i < range->stop : i > range->stop;) {
    if (static_cast<int64_t>(range->items.size()) >= kMaxRange)
      fail("range is longer than " + std::to_string(kMaxRange));
    range->items.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, range->step, &i)) break;
  }
  interp.budget.elements(range->items.size());
  return Value::object(Kind::kSeq, std::move(range));
}

Value global_namespace(Interp& interp, const Value&, const Arguments& args) {
  return interp.make_namespace(args);
}

Value global_dict(Interp& interp, const Value&, const Arguments& args) {
  auto dict = std::make_shared<DictObject>();
  if (args.positional.size() > 1) fail("dict takes one positional argument");
  if (args.positional.size() == 1) {
    const Value& source = args.positional[0];
    if (source.is_dict()) {
      for (const auto& [key, value] : source.dict().items) dict->set(interp.budget, key, value);
    } else {
      for (const Value& pair : iterate(interp.budget, source)) {
        const Values parts = iterate(interp.budget, pair);
        if (parts.size() != 2) fail("dict needs pairs of a key and a value");
        dict->set(interp.budget, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : args.keywords) dict->set(interp.budget, Value::string(name), value);
  return make_dict(interp.budget, std::move(dict));
}

Value global_raise(Interp& interp, const Value&, const Arguments& args) {
  const Values a = args.bind("raise_exception", {"message"}, 1);
  throw RaisedByTemplate(to_text(interp.budget, a[0]).bytes());
}

Value global_strftime(Interp& interp, const Value&, const Arguments& args) {
  const Values a = args.bind("strftime_now", {"format"}, 1);
  if (!a[0].is_string()) fail("strftime_now needs a string");
  return make_string(interp.budget, Text(format_time(a[0].bytes(), interp.now), a[0].text().any_untrusted()));
}

const std::unordered_map<std::string_view, NativeFunction> kGlobals = {
    {"range", global_range},           {"namespace", global_namespace},   {"dict", global_dict},
    {"raise_exception", global_raise}, {"strftime_now", global_strftime},
};

// ---- tests ----

using TestFunction = bool (*)(Interp& interp, const Values& args);
struct Test {
  size_t arguments;  // besides the value
  TestFunction function;
};

bool is_multiple(const Value& value, const Value& of) {
  for (const Value* v : {&value, &of})
    if (!v->is_number()) fail("a number is needed, not " + type_name(*v));
  if (value.is_integral() && of.is_integral()) {
    if (of.as_int() == 0) fail("integer modulo by zero");
    return of.as_int() == -1 || value.as_int() % of.as_int() == 0;
  }
  if (of.as_double() == 0) fail("float modulo by zero");
  return std::fmod(value.as_double(), of.as_double()) == 0;
}

template <Operator kOp>
bool compares(Interp& interp, const Values& a) {
  return compare(interp.budget, kOp, a[0], a[1]);
}

template <bool kUpper>
bool has_case(Interp& interp, const Values& a) {
  const Value text = make_string(interp.budget, to_text(interp.budget, a[0]));
  return truthy(interp.call(interp.attribute(text, kUpper ? "isupper" : "islower"), {}));
}

bool same_object(Interp&, const Values& a) {
  if (a[0].kind() != a[1].kind()) return false;
  if (a[0].is_bool() || a[0].is_int()) return a[0].as_int() == a[1].as_int();
  if (a[0].is_none()) return true;
  if (a[0].is_float()) return a[0].as_double() == a[1].as_double();
  if (a[0].is_string()) return a[0].bytes() == a[1].bytes();
  return a[0].ptr() == a[1].ptr();
}

const std::unordered_map<std::string_view, Test> kTests = {
    {"defined", {0, [](Interp&, const Values& a) { return !a[0].is_undefined(); }}},
    {"undefined", {0, [](Interp&, const Values& a) { return a[0].is_undefined(); }}},
    {"none", {0, [](Interp&, const Values& a) { return a[0].is_none(); }}},
    {"boolean", {0, [](Interp&, const Values& a) { return a[0].is_bool(); }}},
    {"true", {0, [](Interp&, const Values& a) { return a[0].is_bool() && a[0].as_bool(); }}},
    {"false", {0, [](Interp&, const Values& a) { return a[0].is_bool() && !a[0].as_bool(); }}},
    {"integer", {0, [](Interp&, const Values& a) { return a[0].is_int(); }}},
    {"float", {0, [](Interp&, const Values& a) { return a[0].is_float(); }}},
    {"number", {0, [](Interp&, const Values& a) { return a[0].is_number(); }}},
    {"string", {0, [](Interp&, const Values& a) { return a[0].is_string(); }}},
    {"mapping", {0, [](Interp&, const Values& a) { return a[0].is_dict(); }}},
    {"iterable", {0, [](Interp&, const Values& a) { return is_iterable(a[0]); }}},
    {"sequence",
     {0,
      [](Interp&, const Values& a) {
        // What has both a length and items: an undefined value passes too, as in jinja2.
        return a[0].is_string() || a[0].is_dict() ||
               (a[0].is_seq() && a[0].seq().seq_kind <= SeqKind::kRange) || a[0].is_undefined();
      }}},
    {"callable",
     {0,
      [](Interp&, const Values& a) {
        return a[0].is(Kind::kCallable) || a[0].is(Kind::kLoop) || a[0].is_undefined();
      }}},
    {"escaped", {0, [](Interp&, const Values& a) { return a[0].markup(); }}},
    {"odd",
     {0,
      [](Interp&, const Values& a) {
        return !is_multiple(a[0], Value::integer(2)) &&
               !(a[0].is_float() && std::fabs(std::fmod(a[0].as_double(), 2)) != 1);
      }}},
    {"even", {0, [](Interp&, const Values& a) { return is_multiple(a[0], Value::integer(2)); }}},
    {"divisibleby", {1, [](Interp&, const Values& a) { return is_multiple(a[0], a[1]); }}},
    {"lower", {0, has_case<false>}},
    {"upper", {0, has_case<true>}},
    {"sameas", {1, same_object}},
    {"in", {1, compares<Operator::kIn>}},
    {"eq", {1, compares<Operator::kEq>}},
    {"==", {1, compares<Operator::kEq>}},
    {"equalto", {1, compares<Operator::kEq>}},
    {"ne", {1, compares<Operator::kNe>}},
    {"!=", {1, compares<Operator::kNe>}},
    {"lt", {1, compares<Operator::kLt>}},
    {"<", {1, compares<Operator::kLt>}},
    {"lessthan", {1, compares<Operator::kLt>}},
    {"le", {1, compares<Operator::kLe>}},
    {"<=", {1, compares<Operator::kLe>}},
    {"gt", {1, compares<Operator::kGt>}},
    {">", {1, compares<Operator::kGt>}},
    {"greaterthan", {1, compares<Operator::kGt>}},
    {"ge", {1, compares<Operator::kGe>}},
    {">=", {1, compares<Operator::kGe>}},
    {"filter", {0, [](Interp&, const Values& a) { return a[0].is_string() && has_filter(a[0].bytes()); }}},
    {"test", {0, [](Interp&, const Values& a) { return a[0].is_string() && has_test(a[0].bytes()); }}},
};

}  // namespace

bool has_test(const std::string& name) { return kTests.contains(name); }

bool Interp::test(const std::string& name, const Arguments& arguments) {
  const auto it = kTests.find(name);
  if (it == kTests.end()) fail("no test named '" + name + "'");
  Values values = arguments.positional;
  for (const auto& keyword : arguments.keywords) values.push_back(keyword.second);
  if (values.size() != it->second.arguments + 1)
    fail("test '" + name + "' takes " + std::to_string(it->second.arguments) + " arguments");
  return it->second.function(*this, values);
}

Value find_global(const std::string& name) {
  const auto it = kGlobals.find(name);
  return it == kGlobals.end() ? Value() : make_native(it->second, Value::none());
}

std::string format_time(const std::string& format, int64_t unix_seconds) {
  using std::chrono::days;
  static constexpr const char* kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                          "Thursday", "Friday", "Saturday"};
  static constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                            "May",       "June",     "July",     "August",
                                            "September", "October",  "November", "December"};
  const std::chrono::sys_seconds time{std::chrono::seconds(unix_seconds)};
  const auto day = std::chrono::floor<days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  const int year = static_cast<int>(date.year());
  const unsigned month = static_cast<unsigned>(date.month()), mday = static_cast<unsigned>(date.day());
  const unsigned weekday = std::chrono::weekday(day).c_encoding();
  const auto hour = static_cast<unsigned>(clock.hours().count()),
             minute = static_cast<unsigned>(clock.minutes().count());
  const auto second = static_cast<unsigned>(clock.seconds().count());
  const auto yday = static_cast<unsigned>((day - std::chrono::sys_days(date.year() / 1 / 1)).count()) + 1;
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      out += format[i];
      continue;
    }
    char directive = format[++i];
    const bool bare = directive == '-' && i + 1 < format.size();
    if (bare) directive = format[++i];
    const auto number = [&](unsigned value, int width) {
      char buffer[16];
      std::snprintf(buffer, sizeof buffer, "%0*u", bare ? 1 : width, value);
      out += buffer;
    };
    switch (directive) {
      case 'Y':
        out += std::to_string(year);
        break;
      case 'y':
        number(static_cast<unsigned>(year % 100), 2);
        break;
      case 'm':
        number(month, 2);
        break;
      case 'd':
        number(mday, 2);
        break;
      case 'e':
        out += mday < 10 && !bare ? " " + std::to_string(mday) : std::to_string(mday);
        break;
      case 'H':
        number(hour, 2);
        break;
      case 'I':
        number(hour % 12 == 0 ? 12 : hour % 12, 2);
        break;
      case 'M':
        number(minute, 2);
        break;
      case 'S':
        number(second, 2);
        break;
      case 'f':
        out += "000000";
        break;
      case 'j':
        number(yday, 3);
        break;
      case 'w':
        number(weekday, 1);
        break;
      case 'u':
        number(weekday == 0 ? 7 : weekday, 1);
        break;
      case 'p':
        out += hour < 12 ? "AM" : "PM";
        break;
      case 'B':
        out += kMonths[month - 1];
        break;
      case 'b':
      case 'h':
        out += std::string(kMonths[month - 1], 3);
        break;
      case 'A':
        out += kDays[weekday];
        break;
      case 'a':
        out += std::string(kDays[weekday], 3);
        break;
      case 'F':
        out += format_time("%Y-%m-%d", unix_seconds);
        break;
      case 'T':
      case 'X':
        out += format_time("%H:%M:%S", unix_seconds);
        break;
      case 'D':
      case 'x':
        out += format_time("%m/%d/%y", unix_seconds);
        break;
      case 'R':
        out += format_time("%H:%M", unix_seconds);
        break;
      case 'c':
        out += format_time("%a %b %e %H:%M:%S %Y", unix_seconds);
        break;
      case 'z':
      case 'Z':
        break;  // a time without zone, as datetime.now() makes
      case 's':
        out += std::to_string(unix_seconds);
        break;
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case '%':
        out += '%';
        break;
      default:
        fail(std::string("strftime_now: directive %") + directive + " is not supported");
    }
  }
  return out;
}

}  // namespace hlwq::jinja
