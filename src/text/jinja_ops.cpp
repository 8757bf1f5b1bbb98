// Python's arithmetic, comparisons and slices.
#include <algorithm>
#include <cmath>

#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {
namespace {

constexpr const char* kNames[] = {
    "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

[[noreturn]] void unsupported(Operator op, const Value& a, const Value& b) {
  fail(std::string("unsupported operand types for ") + kNames[static_cast<size_t>(op)] + ": " + type_name(a) +
       " and " + type_name(b));
}

[[noreturn]] void overflow() { fail("integer result does not fit in 64 bits"); }

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) fail("integer division or modulo by zero");
  if (b == -1) {
    int64_t r;
    if (__builtin_sub_overflow(int64_t{0}, a, &r)) overflow();
    return r;
  }
  return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent & 1)
      if (__builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

Value integer_arithmetic(Operator op, int64_t a, int64_t b) {
  int64_t r = 0;
  switch (op) {
    case Operator::kAdd:
      if (__builtin_add_overflow(a, b, &r)) overflow();
      return Value::integer(r);
    case Operator::kSub:
      if (__builtin_sub_overflow(a, b, &r)) overflow();
      return Value::integer(r);
    case Operator::kMul:
      if (__builtin_mul_overflow(a, b, &r)) overflow();
      return Value::integer(r);
    case Operator::kDiv:
      if (b == 0) fail("division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kFloorDiv:
      return Value::integer(floor_divide(a, b));
    case Operator::kMod:
      if (b == 0) fail("integer division or modulo by zero");
      if (b == -1) return Value::integer(0);
      r = a % b;
      return Value::integer(r != 0 && (r < 0) != (b < 0) ? r + b : r);
    default:
      if (b >= 0) return Value::integer(integer_power(a, b));
      if (a == 0) fail("0 cannot be raised to a negative power");
      return Value::real(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
}

Value real_arithmetic(Operator op, double a, double b) {
  if ((op == Operator::kDiv || op == Operator::kFloorDiv || op == Operator::kMod) && b == 0)
    fail("float division by zero");
  switch (op) {
    case Operator::kAdd:
      return Value::real(a + b);
    case Operator::kSub:
      return Value::real(a - b);
    case Operator::kMul:
      return Value::real(a * b);
    case Operator::kDiv:
      return Value::real(a / b);
    case Operator::kPow: {
      if (a == 0 && b < 0) fail("0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b) && std::isfinite(b)) fail("complex numbers are not supported");
      const double r = std::pow(a, b);
      if (std::isinf(r) && std::isfinite(a) && std::isfinite(b)) fail("the result is too large for a float");
      return Value::real(r);
    }
    default: {
      // As CPython: the remainder has the divisor's sign, the quotient is exact before rounding down.
      double mod = std::fmod(a, b);
      double div = (a - mod) / b;
      if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
          mod += b;
          div -= 1.0;
        }
      } else {
        mod = std::copysign(0.0, b);
      }
      if (op == Operator::kMod) return Value::real(mod);
      if (div == 0) return Value::real(std::copysign(0.0, a / b));
      double whole = std::floor(div);
      if (div - whole > 0.5) whole += 1.0;
      return Value::real(whole);
    }
  }
}

Value add_strings(Budget& budget, const Value& a, const Value& b) {
  budget.bytes(a.text().size() + b.text().size());
  const bool markup = a.markup() || b.markup();
  Text out = markup && !a.markup() ? escape_html(budget, a.text()) : a.text();
  out.append(markup && !b.markup() ? escape_html(budget, b.text()) : b.text());
  return make_string(budget, std::move(out), markup);
}

bool is_array(const Value& v, SeqKind kind) { return v.is_seq() && v.seq().seq_kind == kind; }

Value repeat(Budget& budget, const Value& what, int64_t times) {
  const auto n = static_cast<uint64_t>(std::max<int64_t>(times, 0));
  const uint64_t size = what.is_string() ? what.text().size() : what.seq().items.size();
  uint64_t total;
  if (__builtin_mul_overflow(n, size, &total)) fail("the repetition is too long");
  if (what.is_string()) {
    budget.bytes(total);
    Text out;
    for (uint64_t i = 0; i < n && size > 0; ++i) out.append(what.text());
    return Value::string(std::move(out), what.markup());
  }
  budget.elements(total);
  Values items;
  for (uint64_t i = 0; i < n && size > 0; ++i)
    items.insert(items.end(), what.seq().items.begin(), what.seq().items.end());
  return make_seq(budget, what.seq().seq_kind, std::move(items));
}

bool ordered(Budget& budget, Operator op, const Value& a, const Value& b) {
  if ((a.is_float() && std::isnan(a.as_double())) || (b.is_float() && std::isnan(b.as_double())))
    if (a.is_number() && b.is_number()) return false;
  switch (op) {
    case Operator::kLt:
      return less(budget, a, b);
    case Operator::kLe:
      return !less(budget, b, a);
    case Operator::kGt:
      return less(budget, b, a);
    default:
      return !less(budget, a, b);
  }
}

}  // namespace

Value arithmetic(Interp& interp, Operator op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) fail(v->ptr() ? v->bytes() : "an undefined value has no arithmetic");
  Budget& budget = interp.budget;
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return integer_arithmetic(op, a.as_int(), b.as_int());
    return real_arithmetic(op, a.as_double(), b.as_double());
  }
  if (op == Operator::kAdd) {
    if (a.is_string() && b.is_string()) return add_strings(budget, a, b);
    for (const SeqKind kind : {SeqKind::kList, SeqKind::kTuple}) {
      if (!is_array(a, kind) || !is_array(b, kind)) continue;
      budget.elements(a.seq().items.size() + b.seq().items.size());
      Values items = a.seq().items;
      items.insert(items.end(), b.seq().items.begin(), b.seq().items.end());
      return make_seq(budget, kind, std::move(items));
    }
  }
  if (op == Operator::kMul) {
    const auto repeatable = [](const Value& v) {
      return v.is_string() || is_array(v, SeqKind::kList) || is_array(v, SeqKind::kTuple);
    };
    if (repeatable(a) && b.is_integral()) return repeat(budget, a, b.as_int());
    if (repeatable(b) && a.is_integral()) return repeat(budget, b, a.as_int());
  }
  if (op == Operator::kMod && a.is_string())
    return make_string(budget, format_percent(interp, a.text(), b), a.markup());
  unsupported(op, a, b);
}

bool compare(Budget& budget, Operator op, const Value& a, const Value& b) {
  switch (op) {
    case Operator::kEq:
      return equal(budget, a, b);
    case Operator::kNe:
      return !equal(budget, a, b);
    case Operator::kIn:
      return contains(budget, b, a);
    case Operator::kNotIn:
      return !contains(budget, b, a);
    default:
      return ordered(budget, op, a, b);
  }
}

Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) fail(object.ptr() ? object.bytes() : "an undefined value cannot be sliced");
  const bool sliceable = object.is_string() || (object.is_seq() && object.seq().seq_kind <= SeqKind::kRange);
  if (!sliceable) fail("'" + type_name(object) + "' object cannot be sliced");
  for (const Value* v : {&start, &stop, &step})
    if (!v->is_none() && !v->is_integral()) fail("slice indices must be integers or none");
  const int64_t by = step.is_none() ? 1 : step.as_int();
  if (by == 0) fail("slice step cannot be zero");
  const int64_t count = length(object);
  // Bounds clamp to what the direction can reach.
  const int64_t lowest = by < 0 ? -1 : 0, highest = by < 0 ? count - 1 : count;
  const auto clamp = [&](const Value& v, int64_t otherwise) {
    if (v.is_none()) return otherwise;
    int64_t i = v.as_int();
    if (i < 0) i = i < -count ? lowest : i + count;
    return std::clamp(i, lowest, std::max(lowest, highest));
  };
  const int64_t from = clamp(start, by < 0 ? highest : lowest), to = clamp(stop, by < 0 ? lowest : highest);
  if (object.is_string()) {
    const std::string& s = object.bytes();
    if (by == 1) {
      const size_t begin = byte_offset(s, static_cast<size_t>(from));
      const size_t taken =
          to > from ? byte_offset(std::string_view(s).substr(begin), static_cast<size_t>(to - from)) : 0;
      return make_string(budget, object.text().substr(begin, begin + taken), object.markup());
    }
    budget.elements(static_cast<uint64_t>(count));
    std::vector<size_t> offsets;
    for (size_t i = 0; i < s.size(); i += decode_at(s, i).size) offsets.push_back(i);
    offsets.push_back(s.size());
    Text out;
    for (int64_t i = from; by > 0 ? i < to : i > to;) {
      out.append_range(object.text(), offsets[static_cast<size_t>(i)], offsets[static_cast<size_t>(i) + 1]);
      if (__builtin_add_overflow(i, by, &i)) break;
    }
    return make_string(budget, std::move(out), object.markup());
  }
  const Values& all = object.seq().items;
  Values items;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    items.push_back(all[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  const SeqKind kind = object.seq().seq_kind == SeqKind::kTuple ? SeqKind::kTuple : SeqKind::kList;
  return make_seq(budget, kind, std::move(items));
}

}  // namespace hlwq::jinja
