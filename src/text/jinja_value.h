// Values of the template interpreter: Python's semantics, immutable objects, strings that remember their
// origin.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hlwq::jinja {

class Interp;

/// A failure while rendering; becomes Error(kInvalidFile) with the template's line.
struct RuntimeFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// raise_exception(message) was called; becomes Error(kInvalidArgument).
struct RaisedByTemplate : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] inline void fail(const std::string& message) { throw RuntimeFailure(message); }

/// UTF-8 text whose every byte is either trusted (template text) or untrusted (came from messages).
/// Trust alternates at each offset in `cuts`, starting from `starts_untrusted`: uniform strings carry no
/// cuts.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool untrusted) : bytes_(std::move(bytes)), first_(untrusted) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool untrusted_at(size_t offset) const;
  bool any_untrusted() const { return !bytes_.empty() && (first_ || !cuts_.empty()); }

  void append(std::string_view bytes, bool untrusted);
  void append(const Text& other) { append_range(other, 0, other.size()); }
  void append_range(const Text& other, size_t begin, size_t end);
  Text substr(size_t begin, size_t end) const;

  /// Calls fn(begin, end, untrusted) for each maximal run, in order.
  template <class Fn>
  void for_each_run(Fn&& fn) const {
    size_t begin = 0;
    bool untrusted = first_;
    for (size_t cut : cuts_) {
      if (cut > begin) fn(begin, cut, untrusted);
      begin = cut;
      untrusted = !untrusted;
    }
    if (begin < bytes_.size()) fn(begin, bytes_.size(), untrusted);
  }

 private:
  std::string bytes_;
  std::vector<size_t> cuts_;  ///< ascending, within (0, size())
  bool first_ = false;
};

enum class Kind : uint8_t {
  kMissing,  ///< argument not given; never visible to templates
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSeq,  ///< list, tuple, range and dict views
  kDict,
  kGenerator,  ///< what map, select... return: can be walked once
  kNamespace,
  kLoop,
  kCallable,
};

struct Object {
  int depth = 0;  ///< nesting of containers below; bounded, so that recursion over values is
  virtual ~Object() = default;
};

class Budget;
struct StringObject;
struct SeqObject;
struct DictObject;
struct GeneratorObject;
struct NamespaceObject;
struct LoopObject;
struct CallableObject;

/// Cheap to copy; objects are shared and immutable (namespaces and generators excepted).
class Value {
 public:
  Value() : kind_(Kind::kUndefined), int_(0) {}
  static Value missing();
  static Value none();
  static Value boolean(bool b);
  static Value integer(int64_t i);
  static Value real(double f);
  static Value string(Text text, bool markup = false);
  static Value string(std::string bytes) { return string(Text(std::move(bytes), false)); }
  static Value undefined(const std::string& what);
  static Value object(Kind kind, std::shared_ptr<Object> object);

  Kind kind() const { return kind_; }
  bool is(Kind k) const { return kind_ == k; }
  bool is_missing() const { return kind_ == Kind::kMissing; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_seq() const { return kind_ == Kind::kSeq; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  bool is_int() const { return kind_ == Kind::kInt; }
  bool is_float() const { return kind_ == Kind::kFloat; }
  bool is_integral() const { return is_int() || is_bool(); }
  bool is_number() const { return is_integral() || is_float(); }

  bool as_bool() const { return int_ != 0; }
  int64_t as_int() const { return int_; }  ///< of a bool or an int
  double as_double() const { return is_float() ? float_ : static_cast<double>(int_); }
  const Text& text() const;  ///< of a string
  const std::string& bytes() const { return text().bytes(); }
  bool markup() const;  ///< the string is marked safe: adding to it escapes
  const SeqObject& seq() const;
  const DictObject& dict() const;
  GeneratorObject& generator() const;
  NamespaceObject& name_space() const;
  LoopObject& loop() const;
  CallableObject& callable() const;
  const std::shared_ptr<Object>& ptr() const { return object_; }
  int depth() const { return object_ ? object_->depth : 0; }

 private:
  Kind kind_;
  union {
    int64_t int_;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

using Values = std::vector<Value>;

struct StringObject : Object {
  Text text;
  bool markup = false;
};

enum class SeqKind : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems };

struct SeqObject : Object {
  SeqKind seq_kind = SeqKind::kList;
  Values items;
  int64_t start = 0, stop = 0, step = 1;  ///< of a range, for printing
  bool group = false;                     ///< a pair made by groupby: has the attributes grouper and list
};

/// Insertion-ordered; keys are hashable values. Large dictionaries get an index.
struct DictObject : Object {
  std::vector<std::pair<Value, Value>> items;
  const Value* find(Budget& budget,
                    const Value& key) const;  ///< nullptr when absent; throws for an unhashable key
  const Value* find(Budget& budget, std::string_view key) const;
  void set(Budget& budget, const Value& key, Value value);  ///< while the dictionary is being made

 private:
  std::unordered_multimap<size_t, size_t> index_;
  size_t position(Budget& budget, const Value& key, size_t hash) const;
};

struct GeneratorObject : Object {
  Values items;
  size_t next = 0;
};

struct NamespaceObject : Object {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct LoopObject : Object {
  Values items;
  size_t index = 0;
  int64_t level = 0;
  Values last_changed;
  bool has_changed = false;
  std::shared_ptr<CallableObject> recurse;  ///< set in a recursive loop
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> keywords;

  /// Arranges the arguments in the order of `names` (Kind::kMissing where absent). Throws when one of the
  /// first `required` is missing, or on unknown or surplus arguments. `what` names the callee.
  Values bind(const std::string& what, std::initializer_list<const char*> names, size_t required) const;
};

struct CallableObject : Object {
  virtual Value call(Interp& interp, const Arguments& arguments) = 0;
  virtual const Value* attribute(std::string_view) const { return nullptr; }
};

/// Limits kept by every operation that makes something new; owned by one rendering.
class Budget {
 public:
  Budget(uint64_t max_steps, size_t max_bytes, int max_depth)
      : steps_left_(max_steps), max_bytes_(max_bytes), max_depth_(max_depth) {}
  void step(uint64_t n = 1) {
    if (steps_left_ < n) fail("the template takes too many steps");
    steps_left_ -= n;
  }
  /// Before making `n` bytes of text: eight of them cost a step, which bounds all memory ever taken.
  void bytes(uint64_t n) {
    if (n > max_bytes_) fail("a string of " + std::to_string(n) + " bytes is over the limit");
    step(n / 8);
  }
  /// Before making a container of `n` elements.
  void elements(uint64_t n) {
    if (n > max_bytes_ / sizeof(Value))
      fail("a list of " + std::to_string(n) + " elements is over the limit");
    step(4 * n);
  }
  void nesting(int depth) const {
    if (depth > max_depth_) fail("values are nested deeper than " + std::to_string(max_depth_));
  }
  int max_depth() const { return max_depth_; }
  size_t max_bytes() const { return max_bytes_; }

 private:
  uint64_t steps_left_;
  size_t max_bytes_;
  int max_depth_;
};

Value make_seq(Budget& budget, SeqKind kind, Values items);
Value make_dict(Budget& budget, std::shared_ptr<DictObject> dict);
Value make_generator(Budget& budget, Values items);
inline Value make_list(Budget& budget, Values items) {
  return make_seq(budget, SeqKind::kList, std::move(items));
}
inline Value make_tuple(Budget& budget, Values items) {
  return make_seq(budget, SeqKind::kTuple, std::move(items));
}
/// A new string, paid for.
Value make_string(Budget& budget, Text text, bool markup = false);

bool truthy(const Value& value);
/// Python's type name, for messages.
std::string type_name(const Value& value);
/// Python's ==. Like less and hash_value it costs steps: shared structure can be exponentially large when
/// unfolded.
bool equal(Budget& budget, const Value& a, const Value& b);
/// a < b as Python orders them; throws for types without an order.
bool less(Budget& budget, const Value& a, const Value& b);
/// A hash that agrees with equal(); throws for unhashable values.
size_t hash_value(Budget& budget, const Value& value);
/// str(value), with the origin of each part.
Text to_text(Budget& budget, const Value& value);
Text repr_text(Budget& budget, const Value& value);
/// A float as Python prints it: the shortest digits that read back the same.
std::string float_repr(double value);
/// What iterating gives: characters, elements, keys. Throws when `value` cannot be iterated. Consumes a
/// generator.
Values iterate(Budget& budget, const Value& value);
bool is_iterable(const Value& value);
bool contains(Budget& budget, const Value& container, const Value& item);
/// len(value); throws for types without a length.
int64_t length(const Value& value);
/// HTML escaping of & < > ' ".
Text escape_html(Budget& budget, const Text& text);

}  // namespace hlwq::jinja
