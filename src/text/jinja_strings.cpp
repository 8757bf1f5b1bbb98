#include "text/jinja_strings.h"

#include <algorithm>

#include "text/jinja_unicode.h"

namespace hlwq::jinja {
namespace {

bool among(const std::string& chars, int32_t c) {
  for (size_t i = 0; i < chars.size();) {
    const CodePoint p = decode_at(chars, i);
    if (p.value == c) return true;
    i += p.size;
  }
  return false;
}

// What splitlines treats as a line end, besides \r\n.
bool is_line_end(int32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

size_t previous(const std::string& s, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && (static_cast<unsigned char>(s[begin]) & 0xC0) == 0x80) --begin;
  return begin + decode_at(s, begin).size == end ? begin : end - 1;
}

Values split_space(const Text& text, int64_t limit) {
  const std::string& s = text.bytes();
  Values parts;
  size_t i = leading_space(s);
  while (i < s.size()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(Value::string(text.substr(i, s.size())));
      break;
    }
    size_t end = i;
    while (end < s.size()) {
      const CodePoint c = decode_at(s, end);
      if (is_space(c.value)) break;
      end += c.size;
    }
    parts.push_back(Value::string(text.substr(i, end)));
    i = end + leading_space(std::string_view(s).substr(end));
  }
  return parts;
}

Values rsplit_space(const Text& text, int64_t limit) {
  const std::string& s = text.bytes();
  Values parts;
  size_t end = s.size() - trailing_space(s);
  while (end > 0) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(Value::string(text.substr(0, end)));
      break;
    }
    size_t begin = end;
    while (begin > 0) {
      const size_t p = previous(s, begin);
      if (is_space(decode_at(s, p).value)) break;
      begin = p;
    }
    parts.push_back(Value::string(text.substr(begin, end)));
    end = begin - trailing_space(std::string_view(s).substr(0, begin));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

Text strip(const Text& text, const std::optional<std::string>& chars, bool left, bool right) {
  const std::string& s = text.bytes();
  size_t begin = 0, end = s.size();
  const auto drop = [&](int32_t c) { return chars ? among(*chars, c) : is_space(c); };
  while (left && begin < end) {
    const CodePoint c = decode_at(s, begin);
    if (!drop(c.value)) break;
    begin += c.size;
  }
  while (right && end > begin) {
    const size_t p = previous(s, end);
    if (!drop(decode_at(s, p).value)) break;
    end = p;
  }
  return text.substr(begin, end);
}

Values split(Budget& budget, const Text& text, const std::optional<std::string>& separator, int64_t limit,
             bool from_right) {
  budget.bytes(text.size());
  Values parts;
  if (!separator) {
    parts = from_right ? rsplit_space(text, limit) : split_space(text, limit);
  } else {
    if (separator->empty()) fail("empty separator");
    const std::string& s = text.bytes();
    if (from_right) {
      size_t end = s.size();
      while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
        const size_t p =
            end < separator->size() ? std::string::npos : s.rfind(*separator, end - separator->size());
        if (p == std::string::npos) break;
        parts.push_back(Value::string(text.substr(p + separator->size(), end)));
        end = p;
      }
      parts.push_back(Value::string(text.substr(0, end)));
      std::reverse(parts.begin(), parts.end());
    } else {
      size_t begin = 0;
      while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
        const size_t p = s.find(*separator, begin);
        if (p == std::string::npos) break;
        parts.push_back(Value::string(text.substr(begin, p)));
        begin = p + separator->size();
      }
      parts.push_back(Value::string(text.substr(begin, s.size())));
    }
  }
  return parts;
}

Values split_lines(Budget& budget, const Text& text, bool keep_ends) {
  budget.bytes(text.size());
  const std::string& s = text.bytes();
  Values lines;
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = decode_at(s, i);
    size_t next = i + c.size;
    if (is_line_end(c.value)) {
      if (c.value == '\r' && next < s.size() && s[next] == '\n') ++next;
      lines.push_back(Value::string(text.substr(begin, keep_ends ? next : i)));
      begin = next;
    }
    i = next;
  }
  if (begin < s.size()) lines.push_back(Value::string(text.substr(begin, s.size())));
  return lines;
}

Text replace(Budget& budget, const Text& text, const Text& from, const Text& to, int64_t limit) {
  const std::string& s = text.bytes();
  budget.step(s.size() / 8);
  Text out;
  const auto put = [&](const Text& what, size_t begin, size_t end) {
    budget.bytes(out.size() + (end - begin));
    out.append_range(what, begin, end);
  };
  size_t begin = 0;
  int64_t done = 0;
  if (from.empty()) {
    // Between all characters, and at both ends.
    while (limit < 0 || done < limit) {
      budget.step(2);
      if (out.size() + to.size() + s.size() > budget.max_bytes())
        fail("the replacement makes too long a string");
      out.append(to);
      ++done;
      if (begin >= s.size()) break;
      const size_t n = decode_at(s, begin).size;
      out.append_range(text, begin, begin + n);
      begin += n;
    }
    out.append_range(text, begin, s.size());
    budget.bytes(out.size());
    return out;
  }
  while (limit < 0 || done < limit) {
    const size_t p = s.find(from.bytes(), begin);
    if (p == std::string::npos) break;
    if (out.size() + (p - begin) + to.size() > budget.max_bytes())
      fail("the replacement makes too long a string");
    budget.step(2 + to.size() / 8);
    out.append_range(text, begin, p);
    out.append(to);
    begin = p + from.size();
    ++done;
  }
  put(text, begin, s.size());
  return out;
}

Text change_case(Budget& budget, const Text& text, Case how) {
  const std::string& s = text.bytes();
  budget.bytes(3 * s.size());
  Text out;
  bool word_start = true, first = true;
  text.for_each_run([&](size_t begin, size_t end, bool untrusted) {
    std::string run;
    for (size_t i = begin; i < end;) {
      const CodePoint c = decode_at(s, i);
      const bool cased = is_upper(c.value) || is_lower(c.value) || is_title(c.value);
      bool upper = how == Case::kUpper, title = false;
      if (how == Case::kSwap) upper = is_lower(c.value);
      if (how == Case::kCapitalize) title = first;
      if (how == Case::kTitle) title = cased && word_start;
      // A sigma that ends a word has its own form.
      if (c.value == 0x3A3 && !upper && !title) {
        const size_t next = i + c.size;
        const bool letter_before = i > 0 && is_alpha(decode_at(s, previous(s, i)).value);
        const bool letter_after = next < s.size() && is_alpha(decode_at(s, next).value);
        append_utf8(run, letter_before && !letter_after ? 0x3C2 : 0x3C3);
      } else if (upper) {
        append_upper(run, c.value);
      } else if (title) {
        append_title(run, c.value);
      } else {
        append_lower(run, c.value);
      }
      word_start = !cased;
      first = false;
      i += c.size;
    }
    out.append(run, untrusted);
  });
  return out;
}

Text join(Budget& budget, const Text& separator, const std::vector<Text>& parts) {
  uint64_t total = 0;
  for (const Text& part : parts) total += part.size() + separator.size();
  budget.bytes(total);
  Text out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out.append(separator);
    out.append(parts[i]);
  }
  return out;
}

Text pad(Budget& budget, const Text& text, int64_t width, const std::string& fill, char align) {
  const auto count = static_cast<int64_t>(count_code_points(text.bytes()));
  if (width <= count) return text;
  const int64_t missing = width - count;
  budget.bytes(static_cast<uint64_t>(missing));
  budget.bytes(text.size() + static_cast<uint64_t>(missing) * fill.size());
  int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  // str.center puts the odd space on the left when the width is odd.
  if (align == 'c') left = missing / 2 + (missing & width & 1);
  std::string before, after;
  for (int64_t i = 0; i < left; ++i) before += fill;
  for (int64_t i = left; i < missing; ++i) after += fill;
  Text out;
  out.append(before, false);
  out.append(text);
  out.append(after, false);
  return out;
}

}  // namespace hlwq::jinja
