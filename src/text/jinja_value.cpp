#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "text/jinja_unicode.h"

namespace hlwq::jinja {

bool Text::untrusted_at(size_t offset) const {
  const auto passed = std::upper_bound(cuts_.begin(), cuts_.end(), offset) - cuts_.begin();
  return first_ != (passed % 2 == 1);
}

void Text::append(std::string_view bytes, bool untrusted) {
  if (bytes.empty()) return;
  if (bytes_.empty()) {
    first_ = untrusted;
    cuts_.clear();
  } else if ((first_ != (cuts_.size() % 2 == 1)) != untrusted) {
    cuts_.push_back(bytes_.size());
  }
  bytes_ += bytes;
}

void Text::append_range(const Text& other, size_t begin, size_t end) {
  end = std::min(end, other.size());
  if (begin >= end) return;
  const std::string_view all = other.bytes_;
  auto cut = std::upper_bound(other.cuts_.begin(), other.cuts_.end(), begin);
  bool untrusted = other.untrusted_at(begin);
  for (; cut != other.cuts_.end() && *cut < end; ++cut) {
    append(all.substr(begin, *cut - begin), untrusted);
    begin = *cut;
    untrusted = !untrusted;
  }
  append(all.substr(begin, end - begin), untrusted);
}

Text Text::substr(size_t begin, size_t end) const {
  Text out;
  out.append_range(*this, begin, end);
  return out;
}

Value Value::missing() {
  Value v;
  v.kind_ = Kind::kMissing;
  return v;
}
Value Value::none() {
  Value v;
  v.kind_ = Kind::kNone;
  return v;
}
Value Value::boolean(bool b) {
  Value v;
  v.kind_ = Kind::kBool;
  v.int_ = b;
  return v;
}
Value Value::integer(int64_t i) {
  Value v;
  v.kind_ = Kind::kInt;
  v.int_ = i;
  return v;
}
Value Value::real(double f) {
  Value v;
  v.kind_ = Kind::kFloat;
  v.float_ = f;
  return v;
}
Value Value::string(Text text, bool markup) {
  auto object = std::make_shared<StringObject>();
  object->text = std::move(text);
  object->markup = markup;
  return Value::object(Kind::kString, std::move(object));
}
Value Value::undefined(const std::string& what) {
  auto object = std::make_shared<StringObject>();
  object->text = Text(what, false);
  return Value::object(Kind::kUndefined, std::move(object));
}
Value Value::object(Kind kind, std::shared_ptr<Object> object) {
  Value v;
  v.kind_ = kind;
  v.object_ = std::move(object);
  return v;
}

const Text& Value::text() const { return static_cast<const StringObject&>(*object_).text; }
bool Value::markup() const { return is_string() && static_cast<const StringObject&>(*object_).markup; }
const SeqObject& Value::seq() const { return static_cast<const SeqObject&>(*object_); }
const DictObject& Value::dict() const { return static_cast<const DictObject&>(*object_); }
GeneratorObject& Value::generator() const { return static_cast<GeneratorObject&>(*object_); }
NamespaceObject& Value::name_space() const { return static_cast<NamespaceObject&>(*object_); }
LoopObject& Value::loop() const { return static_cast<LoopObject&>(*object_); }
CallableObject& Value::callable() const { return static_cast<CallableObject&>(*object_); }

namespace {
// Below this a linear walk beats a hash.
constexpr size_t kIndexFrom = 16;
constexpr size_t kAbsent = static_cast<size_t>(-1);
}  // namespace

size_t DictObject::position(Budget& budget, const Value& key, size_t hash) const {
  if (items.size() < kIndexFrom) {
    for (size_t i = 0; i < items.size(); ++i)
      if (equal(budget, items[i].first, key)) return i;
    return kAbsent;
  }
  const auto [begin, end] = index_.equal_range(hash);
  for (auto it = begin; it != end; ++it)
    if (equal(budget, items[it->second].first, key)) return it->second;
  return kAbsent;
}

const Value* DictObject::find(Budget& budget, const Value& key) const {
  const size_t p = position(budget, key, hash_value(budget, key));
  return p == kAbsent ? nullptr : &items[p].second;
}

const Value* DictObject::find(Budget& budget, std::string_view key) const {
  if (items.size() >= kIndexFrom) return find(budget, Value::string(std::string(key)));
  for (const auto& [k, v] : items)
    if (k.is_string() && k.bytes() == key) return &v;
  return nullptr;
}

void DictObject::set(Budget& budget, const Value& key, Value value) {
  const size_t hash = hash_value(budget, key);
  depth = std::max({depth, 1 + value.depth(), 1 + key.depth()});
  const size_t p = position(budget, key, hash);
  if (p != kAbsent) {
    items[p].second = std::move(value);
    return;
  }
  items.emplace_back(key, std::move(value));
  if (items.size() == kIndexFrom) {
    for (size_t i = 0; i < items.size(); ++i) index_.emplace(hash_value(budget, items[i].first), i);
  } else if (items.size() > kIndexFrom) {
    index_.emplace(hash, items.size() - 1);
  }
}

Values Arguments::bind(const std::string& what, std::initializer_list<const char*> names,
                       size_t required) const {
  if (positional.size() > names.size())
    fail(what + " takes at most " + std::to_string(names.size()) + " arguments");
  Values out(names.size(), Value::missing());
  std::copy(positional.begin(), positional.end(), out.begin());
  for (const auto& [name, value] : keywords) {
    size_t i = 0;
    for (const char* candidate : names) {
      if (name == candidate) break;
      ++i;
    }
    if (i == names.size()) fail(what + " has no argument '" + name + "'");
    if (!out[i].is_missing()) fail(what + " got two values for '" + name + "'");
    out[i] = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (out[i].is_missing()) fail(what + " is missing the argument '" + std::string(names.begin()[i]) + "'");
  return out;
}

namespace {
int depth_of(const Values& items) {
  int depth = 0;
  for (const Value& v : items) depth = std::max(depth, v.depth());
  return depth + 1;
}
}  // namespace

Value make_seq(Budget& budget, SeqKind kind, Values items) {
  budget.elements(items.size() + 2);
  auto object = std::make_shared<SeqObject>();
  object->seq_kind = kind;
  object->depth = depth_of(items);
  object->items = std::move(items);
  budget.nesting(object->depth);
  return Value::object(Kind::kSeq, std::move(object));
}

Value make_dict(Budget& budget, std::shared_ptr<DictObject> dict) {
  budget.elements(2 * dict->items.size() + 4);
  dict->depth = std::max(dict->depth, 1);
  budget.nesting(dict->depth);
  return Value::object(Kind::kDict, std::move(dict));
}

Value make_generator(Budget& budget, Values items) {
  budget.elements(items.size() + 2);
  auto object = std::make_shared<GeneratorObject>();
  object->depth = depth_of(items);
  object->items = std::move(items);
  budget.nesting(object->depth);
  return Value::object(Kind::kGenerator, std::move(object));
}

Value make_string(Budget& budget, Text text, bool markup) {
  budget.bytes(text.size());
  return Value::string(std::move(text), markup);
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_double() != 0.0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kSeq:
      return !value.seq().items.empty();
    case Kind::kDict:
      return !value.dict().items.empty();
    default:
      return true;
  }
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kSeq:
      switch (value.seq().seq_kind) {
        case SeqKind::kList:
          return "list";
        case SeqKind::kTuple:
          return "tuple";
        case SeqKind::kRange:
          return "range";
        case SeqKind::kKeys:
          return "dict_keys";
        case SeqKind::kValues:
          return "dict_values";
        case SeqKind::kItems:
          return "dict_items";
      }
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kGenerator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCallable:
      return "function";
  }
  return "?";
}

namespace {

bool is_view(const Value& v) { return v.is_seq() && v.seq().seq_kind >= SeqKind::kKeys; }

bool equal_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_float() && b.is_float()) return a.as_double() == b.as_double();
  const double f = a.is_float() ? a.as_double() : b.as_double();
  const int64_t i = a.is_float() ? b.as_int() : a.as_int();
  // Exact, as Python compares: the double must be that integer, not merely round to it.
  return f >= -9223372036854775808.0 && f < 9223372036854775808.0 && f == std::floor(f) &&
         static_cast<int64_t>(f) == i;
}

bool less_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
  return static_cast<long double>(a.is_float() ? a.as_double() : 0) +
             (a.is_float() ? 0.0L : static_cast<long double>(a.as_int())) <
         static_cast<long double>(b.is_float() ? b.as_double() : 0) +
             (b.is_float() ? 0.0L : static_cast<long double>(b.as_int()));
}

bool same_elements(Budget& budget, const SeqObject& a, const SeqObject& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const Value& v : a.items)
    if (std::none_of(b.items.begin(), b.items.end(), [&](const Value& w) { return equal(budget, v, w); }))
      return false;
  return true;
}

}  // namespace

bool equal(Budget& budget, const Value& a, const Value& b) {
  budget.step();
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.bytes() == b.bytes();
    case Kind::kSeq: {
      if (a.ptr() == b.ptr()) return true;
      if (a.seq().seq_kind != b.seq().seq_kind) return false;
      if (a.seq().seq_kind == SeqKind::kValues) return false;
      if (is_view(a)) return same_elements(budget, a.seq(), b.seq());
      const Values &x = a.seq().items, &y = b.seq().items;
      return x.size() == y.size() &&
             std::equal(x.begin(), x.end(), y.begin(),
                        [&](const Value& v, const Value& w) { return equal(budget, v, w); });
    }
    case Kind::kDict: {
      if (a.ptr() == b.ptr()) return true;
      if (a.dict().items.size() != b.dict().items.size()) return false;
      return std::all_of(a.dict().items.begin(), a.dict().items.end(), [&](const auto& item) {
        const Value* other = b.dict().find(budget, item.first);
        return other != nullptr && equal(budget, item.second, *other);
      });
    }
    default:
      return a.ptr() == b.ptr();
  }
}

bool less(Budget& budget, const Value& a, const Value& b) {
  budget.step();
  if (a.is_number() && b.is_number()) return less_numbers(a, b);
  // UTF-8 orders as code points do.
  if (a.is_string() && b.is_string()) return a.bytes() < b.bytes();
  if (a.is_seq() && b.is_seq() && a.seq().seq_kind == b.seq().seq_kind &&
      a.seq().seq_kind <= SeqKind::kTuple) {
    const Values &x = a.seq().items, &y = b.seq().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(budget, x[i], y[i])) return less(budget, x[i], y[i]);
    return x.size() < y.size();
  }
  fail("'<' is not supported between " + type_name(a) + " and " + type_name(b));
}

size_t hash_value(Budget& budget, const Value& value) {
  budget.step();
  switch (value.kind()) {
    case Kind::kUndefined:
      return 1;
    case Kind::kNone:
      return 2;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      return std::hash<double>()(value.as_double());
    case Kind::kString:
      return std::hash<std::string>()(value.bytes());
    case Kind::kSeq:
      if (value.seq().seq_kind == SeqKind::kTuple || value.seq().seq_kind == SeqKind::kRange) {
        size_t h = 3;
        for (const Value& v : value.seq().items) h = h * 1000003u ^ hash_value(budget, v);
        return h;
      }
      break;
    case Kind::kCallable:
    case Kind::kNamespace:
    case Kind::kLoop:
    case Kind::kGenerator:
      return std::hash<const void*>()(value.ptr().get());
    default:
      break;
  }
  fail("unhashable type: '" + type_name(value) + "'");
}

Values iterate(Budget& budget, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return {};
    case Kind::kSeq:
      budget.elements(value.seq().items.size());
      return value.seq().items;
    case Kind::kDict: {
      Values keys;
      budget.elements(value.dict().items.size());
      for (const auto& item : value.dict().items) keys.push_back(item.first);
      return keys;
    }
    case Kind::kGenerator: {
      GeneratorObject& g = value.generator();
      budget.elements(g.items.size() - g.next);
      Values rest(g.items.begin() + static_cast<std::ptrdiff_t>(g.next), g.items.end());
      g.next = g.items.size();
      return rest;
    }
    case Kind::kLoop: {
      // A loop iterates as (item, loop) pairs from where it stands; nothing sane uses it.
      fail("a loop cannot be iterated");
    }
    case Kind::kString: {
      const std::string& s = value.bytes();
      Values chars;
      budget.elements(s.size());
      for (size_t i = 0; i < s.size();) {
        const size_t n = decode_at(s, i).size;
        chars.push_back(Value::string(value.text().substr(i, i + n), value.markup()));
        i += n;
      }
      return chars;
    }
    default:
      fail("'" + type_name(value) + "' object is not iterable");
  }
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kSeq:
    case Kind::kDict:
    case Kind::kGenerator:
    case Kind::kString:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) fail("'in <string>' needs a string on the left, not " + type_name(item));
    budget.step(container.text().size() / 16);
    return container.bytes().find(item.bytes()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(budget, item) != nullptr;
  if (container.is_seq()) {
    budget.step(container.seq().items.size());
    const Values& items = container.seq().items;
    return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(budget, v, item); });
  }
  if (container.is(Kind::kGenerator)) {
    GeneratorObject& g = container.generator();
    while (g.next < g.items.size())
      if (equal(budget, g.items[g.next++], item)) return true;
    return false;
  }
  if (container.is_undefined()) return false;
  fail("argument of type '" + type_name(container) + "' is not iterable");
}

int64_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(count_code_points(value.bytes()));
    case Kind::kSeq:
      return static_cast<int64_t>(value.seq().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().items.size());
    case Kind::kLoop:
      return static_cast<int64_t>(value.loop().items.size());
    default:
      fail("object of type '" + type_name(value) + "' has no len()");
  }
}

}  // namespace hlwq::jinja
