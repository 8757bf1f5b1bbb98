// The tojson filter: Python's json.dumps, as transformers calls it.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace hlwq::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Budget& budget, bool ascii, bool sorted) : budget_(budget), ascii_(ascii), sorted_(sorted) {}
  bool indented = false;
  Text indent;
  Text item_separator{", ", false}, key_separator{": ", false};

  void write(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        put("null");
        break;
      case Kind::kBool:
        put(value.as_bool() ? "true" : "false");
        break;
      case Kind::kInt:
        put(std::to_string(value.as_int()));
        break;
      case Kind::kFloat:
        put(number(value.as_double()));
        break;
      case Kind::kString:
        quote(value.text());
        break;
      case Kind::kSeq:
        if (value.seq().seq_kind > SeqKind::kTuple) unserialisable(value);
        list(value.seq().items);
        break;
      case Kind::kDict:
        dict(value.dict());
        break;
      default:
        unserialisable(value);
    }
  }
  Text take() { return std::move(out_); }

 private:
  Budget& budget_;
  bool ascii_, sorted_;
  Text out_;
  int level_ = 0;

  [[noreturn]] static void unserialisable(const Value& value) {
    fail("object of type " + type_name(value) + " is not JSON serializable");
  }
  void put(std::string_view s, bool untrusted = false) {
    budget_.step(1 + s.size() / 8);
    if (out_.size() + s.size() > budget_.max_bytes()) fail("tojson: the result is too long");
    out_.append(s, untrusted);
  }
  void put(const Text& text) {
    text.for_each_run([&](size_t b, size_t e, bool untrusted) {
      put(std::string_view(text.bytes()).substr(b, e - b), untrusted);
    });
  }
  static std::string number(double f) {
    if (std::isnan(f)) return "NaN";
    if (std::isinf(f)) return f < 0 ? "-Infinity" : "Infinity";
    return float_repr(f);
  }
  void new_line() {
    if (!indented) return;
    put("\n");
    for (int i = 0; i < level_; ++i) put(indent);
  }

  void list(const Values& items) {
    if (items.empty()) return put("[]");
    put("[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) put(item_separator);
      new_line();
      write(items[i]);
    }
    --level_;
    new_line();
    put("]");
  }

  void key(const Value& k) {
    switch (k.kind()) {
      case Kind::kString:
        return quote(k.text());
      case Kind::kNone:
        return put("\"null\"");
      case Kind::kBool:
        return put(k.as_bool() ? "\"true\"" : "\"false\"");
      case Kind::kInt:
        return put("\"" + std::to_string(k.as_int()) + "\"");
      case Kind::kFloat:
        return put("\"" + number(k.as_double()) + "\"");
      default:
        fail("JSON keys must be strings, numbers, booleans or none, not " + type_name(k));
    }
  }

  void dict(const DictObject& d) {
    if (d.items.empty()) return put("{}");
    std::vector<const std::pair<Value, Value>*> items;
    budget_.elements(d.items.size());
    for (const auto& item : d.items) items.push_back(&item);
    if (sorted_)
      std::stable_sort(items.begin(), items.end(),
                       [&](const auto* a, const auto* b) { return less(budget_, a->first, b->first); });
    put("{");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) put(item_separator);
      new_line();
      key(items[i]->first);
      put(key_separator);
      write(items[i]->second);
    }
    --level_;
    new_line();
    put("}");
  }

  void quote(const Text& text) {
    put("\"");
    text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
      std::string run;
      for (size_t i = begin; i < end;) {
        const CodePoint c = decode_at(text.bytes(), i);
        escape(run, std::string_view(text.bytes()).substr(i, c.size), c.value);
        i += c.size;
      }
      put(run, untrusted);
    });
    put("\"");
  }

  static void append_u(std::string& out, unsigned unit) {
    char buffer[16];
    std::snprintf(buffer, sizeof buffer, "\\u%04x", unit);
    out += buffer;
  }

  void escape(std::string& out, std::string_view bytes, int32_t c) const {
    switch (c) {
      case '"':
        out += "\\\"";
        return;
      case '\\':
        out += "\\\\";
        return;
      case '\n':
        out += "\\n";
        return;
      case '\r':
        out += "\\r";
        return;
      case '\t':
        out += "\\t";
        return;
      case '\f':
        out += "\\f";
        return;
      case '\b':
        out += "\\b";
        return;
      default:
        break;
    }
    if (c < 0x20) return append_u(out, static_cast<unsigned>(c));
    if (!ascii_ || (c >= 0x20 && c < 0x7F)) {
      out += bytes;
    } else if (c >= 0x10000) {
      const unsigned v = static_cast<unsigned>(c) - 0x10000;
      append_u(out, 0xD800 + (v >> 10));
      append_u(out, 0xDC00 + (v & 0x3FF));
    } else {
      append_u(out, static_cast<unsigned>(c));
    }
  }
};

}  // namespace

Value to_json(Interp& interp, const Arguments& arguments) {
  const Values a =
      arguments.bind("tojson", {"value", "ensure_ascii", "indent", "separators", "sort_keys"}, 1);
  JsonWriter writer(interp.budget, truthy(a[1]), truthy(a[4]));
  if (!a[2].is_missing() && !a[2].is_none()) {
    writer.indented = true;
    writer.item_separator = Text(",", false);
    if (a[2].is_integral()) {
      if (a[2].as_int() > 1000) fail("tojson: indent is too large");
      writer.indent = Text(std::string(static_cast<size_t>(std::max<int64_t>(0, a[2].as_int())), ' '), false);
    } else if (a[2].is_string()) {
      writer.indent = a[2].text();
    } else {
      fail("tojson: indent must be an integer or a string");
    }
  }
  if (!a[3].is_missing() && !a[3].is_none()) {
    const Values separators = iterate(interp.budget, a[3]);
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string())
      fail("tojson: separators must be two strings");
    writer.item_separator = separators[0].text();
    writer.key_separator = separators[1].text();
  }
  writer.write(a[0]);
  return Value::string(writer.take());
}

}  // namespace hlwq::jinja
