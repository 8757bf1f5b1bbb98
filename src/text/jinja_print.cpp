// str() and repr() of template values, as Python writes them.
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja_unicode.h"
#include "text/jinja_value.h"

namespace hlwq::jinja {

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string s(buffer, r.ptr);
  const size_t e = s.find('e');
  const int exponent = std::stoi(s.substr(e + 1));
  std::string sign, digits;
  for (char c : s.substr(0, e)) {
    if (c == '-')
      sign = "-";
    else if (c != '.')
      digits += c;
  }
  const int count = static_cast<int>(digits.size());
  // repr() switches to an exponent outside 1e-4 <= |x| < 1e16.
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    std::snprintf(buffer, sizeof buffer, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return out + buffer;
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  Text str(const Value& value) {
    if (value.is_string()) return value.text();
    if (!value.is_undefined()) repr(value);
    return std::move(out_);
  }
  Text repr_of(const Value& value) {
    repr(value);
    return std::move(out_);
  }

 private:
  Budget& budget_;
  Text out_;
  int depth_ = 0;

  void put(std::string_view s, bool untrusted = false) {
    budget_.step(1 + s.size() / 8);
    if (out_.size() + s.size() > budget_.max_bytes()) fail("the printed form of a value is too long");
    out_.append(s, untrusted);
  }

  void repr(const Value& value) {
    // Only namespaces can nest beyond what containers may.
    if (++depth_ > 2 * budget_.max_depth()) fail("value nested too deeply to print");
    switch (value.kind()) {
      case Kind::kMissing:
      case Kind::kUndefined:
        put("Undefined");
        break;
      case Kind::kNone:
        put("None");
        break;
      case Kind::kBool:
        put(value.as_bool() ? "True" : "False");
        break;
      case Kind::kInt:
        put(std::to_string(value.as_int()));
        break;
      case Kind::kFloat:
        put(float_repr(value.as_double()));
        break;
      case Kind::kString:
        if (value.markup()) put("Markup(");
        quote(value.text());
        if (value.markup()) put(")");
        break;
      case Kind::kSeq:
        sequence(value.seq());
        break;
      case Kind::kDict:
        put("{");
        for (size_t i = 0; i < value.dict().items.size(); ++i) {
          if (i > 0) put(", ");
          repr(value.dict().items[i].first);
          put(": ");
          repr(value.dict().items[i].second);
        }
        put("}");
        break;
      case Kind::kNamespace:
        put("<Namespace {");
        for (size_t i = 0; i < value.name_space().attributes.size(); ++i) {
          if (i > 0) put(", ");
          quote(Text(value.name_space().attributes[i].first, false));
          put(": ");
          repr(value.name_space().attributes[i].second);
        }
        put("}>");
        break;
      case Kind::kLoop:
        put("<LoopContext " + std::to_string(value.loop().index + 1) + "/" +
            std::to_string(value.loop().items.size()) + ">");
        break;
      case Kind::kGenerator:
        put("<generator object>");
        break;
      case Kind::kCallable:
        put("<function>");
        break;
    }
    --depth_;
  }

  void sequence(const SeqObject& seq) {
    const char *open = "[", *close = "]";
    switch (seq.seq_kind) {
      case SeqKind::kList:
        break;
      case SeqKind::kTuple:
        open = "(", close = seq.items.size() == 1 ? ",)" : ")";
        break;
      case SeqKind::kRange:
        put("range(" + std::to_string(seq.start) + ", " + std::to_string(seq.stop) +
            (seq.step == 1 ? "" : ", " + std::to_string(seq.step)) + ")");
        return;
      case SeqKind::kKeys:
        open = "dict_keys([", close = "])";
        break;
      case SeqKind::kValues:
        open = "dict_values([", close = "])";
        break;
      case SeqKind::kItems:
        open = "dict_items([", close = "])";
        break;
    }
    put(open);
    for (size_t i = 0; i < seq.items.size(); ++i) {
      if (i > 0) put(", ");
      repr(seq.items[i]);
    }
    put(close);
  }

  void quote(const Text& text) {
    const std::string& s = text.bytes();
    const char mark = s.find('\'') != std::string::npos && s.find('"') == std::string::npos ? '"' : '\'';
    put(std::string_view(&mark, 1));
    text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
      std::string run;
      for (size_t i = begin; i < end;) {
        const CodePoint c = decode_at(s, i);
        escape(run, std::string_view(s).substr(i, c.size), c.value, mark);
        i += c.size;
      }
      put(run, untrusted);
    });
    put(std::string_view(&mark, 1));
  }

  static void escape(std::string& out, std::string_view bytes, int32_t c, char mark) {
    char buffer[16];
    if (c == mark || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x80 ? (c < ' ' || c == 0x7F) : !is_printable(c)) {
      std::snprintf(buffer, sizeof buffer,
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += buffer;
    } else {
      out += bytes;
    }
  }
};

}  // namespace

Text to_text(Budget& budget, const Value& value) { return Printer(budget).str(value); }
Text repr_text(Budget& budget, const Value& value) { return Printer(budget).repr_of(value); }

Text escape_html(Budget& budget, const Text& text) {
  Text out;
  text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
    std::string run;
    for (size_t i = begin; i < end; ++i) {
      switch (text.bytes()[i]) {
        case '&':
          run += "&amp;";
          break;
        case '<':
          run += "&lt;";
          break;
        case '>':
          run += "&gt;";
          break;
        case '\'':
          run += "&#39;";
          break;
        case '"':
          run += "&#34;";
          break;
        default:
          run += text.bytes()[i];
      }
    }
    budget.bytes(out.size() + run.size());
    out.append(run, untrusted);
  });
  return out;
}

}  // namespace hlwq::jinja
