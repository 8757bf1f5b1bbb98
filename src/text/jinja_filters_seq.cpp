// Filters on sequences and dictionaries.
#include <algorithm>

#include "text/jinja_filters.h"
#include "text/jinja_strings.h"

namespace hlwq::jinja {
namespace {

// "a.b.0" or 3: the path that map(attribute=...), sort(attribute=...) and friends follow.
Value follow(Interp& interp, Value value, const Value& path, const Value& otherwise = Value::missing()) {
  if (path.is_missing() || path.is_none()) return value;
  Values steps;
  if (path.is_string()) {
    for (const Value& part : split(interp.budget, path.text(), ".", -1, false)) {
      const std::string& s = part.bytes();
      const bool digits = !s.empty() && s.size() < 10 &&
                          std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
      steps.push_back(digits ? Value::integer(std::stoll(s)) : part);
    }
  } else {
    steps.push_back(path);
  }
  for (const Value& step : steps) {
    value = interp.item(value, step);
    if (value.is_undefined() && !otherwise.is_missing() && !otherwise.is_none()) value = otherwise;
  }
  return value;
}

// Sort keys ignore case unless told otherwise.
Value fold(Interp& interp, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  return Value::string(change_case(interp.budget, value.text(), Case::kLower));
}

struct Keyed {
  Values keys;
  Value value;
};

bool keys_less(Budget& budget, const Values& a, const Values& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (!equal(budget, a[i], b[i])) return less(budget, a[i], b[i]);
  return false;
}

// A comparison that throws, or an order that is none (NaN), must not break std::sort: merge sort only ever
// misplaces elements.
void stable_order(Budget& budget, std::vector<Keyed>& items, bool reverse) {
  // Reversed twice, so that equal elements keep their order, as Python does.
  if (reverse) std::reverse(items.begin(), items.end());
  for (size_t width = 1; width < items.size(); width *= 2) {
    std::vector<Keyed> merged;
    merged.reserve(items.size());
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size()),
                   end = std::min(begin + 2 * width, items.size());
      size_t i = begin, j = middle;
      while (i < middle || j < end) {
        const bool right = i == middle || (j < end && keys_less(budget, items[j].keys, items[i].keys));
        merged.push_back(std::move(items[right ? j++ : i++]));
      }
    }
    items = std::move(merged);
  }
  if (reverse) std::reverse(items.begin(), items.end());
}

Value filter_sort(Interp& interp, const Arguments& args) {
  const Values a = args.bind("sort", {"value", "reverse", "case_sensitive", "attribute"}, 1);
  Values paths{a[3]};
  if (a[3].is_string()) paths = split(interp.budget, a[3].text(), ",", -1, false);
  std::vector<Keyed> items;
  for (const Value& v : iterate(interp.budget, a[0])) {
    Keyed keyed{{}, v};
    for (const Value& path : paths) keyed.keys.push_back(fold(interp, follow(interp, v, path), truthy(a[2])));
    items.push_back(std::move(keyed));
  }
  stable_order(interp.budget, items, truthy(a[1]));
  Values out;
  for (Keyed& k : items) out.push_back(std::move(k.value));
  return make_list(interp.budget, std::move(out));
}

Value filter_dictsort(Interp& interp, const Arguments& args) {
  const Values a = args.bind("dictsort", {"value", "case_sensitive", "by", "reverse"}, 1);
  const std::string by = a[2].is_missing() ? "key" : a[2].is_string() ? a[2].bytes() : "";
  if (by != "key" && by != "value") fail("dictsort: by must be 'key' or 'value'");
  if (!a[0].is_dict()) fail("dictsort needs a dictionary, not " + type_name(a[0]));
  std::vector<Keyed> items;
  for (const auto& [key, value] : a[0].dict().items)
    items.push_back(
        {{fold(interp, by == "key" ? key : value, truthy(a[1]))}, make_tuple(interp.budget, {key, value})});
  stable_order(interp.budget, items, truthy(a[3]));
  Values out;
  for (Keyed& k : items) out.push_back(std::move(k.value));
  return make_list(interp.budget, std::move(out));
}

template <bool kMax>
Value filter_extreme(Interp& interp, const Arguments& args) {
  const Values a = args.bind(kMax ? "max" : "min", {"value", "case_sensitive", "attribute"}, 1);
  const Values items = iterate(interp.budget, a[0]);
  if (items.empty()) return Value::undefined("the sequence was empty");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    Value key = fold(interp, follow(interp, items[i], a[2]), truthy(a[1]));
    if (i == 0 || (kMax ? less(interp.budget, best_key, key) : less(interp.budget, key, best_key))) {
      best = i;
      best_key = std::move(key);
    }
  }
  return items[best];
}

Value filter_unique(Interp& interp, const Arguments& args) {
  const Values a = args.bind("unique", {"value", "case_sensitive", "attribute"}, 1);
  DictObject seen;
  Values out;
  for (const Value& v : iterate(interp.budget, a[0])) {
    const Value key = fold(interp, follow(interp, v, a[2]), truthy(a[1]));
    if (seen.find(interp.budget, key) != nullptr) continue;
    seen.set(interp.budget, key, Value::none());
    out.push_back(v);
  }
  return make_generator(interp.budget, std::move(out));
}

Value filter_groupby(Interp& interp, const Arguments& args) {
  const Values a = args.bind("groupby", {"value", "attribute", "default", "case_sensitive"}, 2);
  std::vector<Keyed> items;
  for (const Value& v : iterate(interp.budget, a[0]))
    items.push_back({{fold(interp, follow(interp, v, a[1], a[2]), truthy(a[3]))}, v});
  stable_order(interp.budget, items, false);
  Values groups;
  for (size_t i = 0; i < items.size();) {
    Values members;
    size_t j = i;
    for (; j < items.size() && equal(interp.budget, items[j].keys[0], items[i].keys[0]); ++j)
      members.push_back(items[j].value);
    // The group is named as its first member spells it.
    const Value name = follow(interp, items[i].value, a[1], a[2]);
    auto group = std::make_shared<SeqObject>();
    group->seq_kind = SeqKind::kTuple;
    group->group = true;
    group->items = {name, make_list(interp.budget, std::move(members))};
    group->depth = 1 + std::max(group->items[0].depth(), group->items[1].depth());
    interp.budget.nesting(group->depth);
    groups.push_back(Value::object(Kind::kSeq, std::move(group)));
    // NaN equals nothing, itself included.
    i = std::max(j, i + 1);
  }
  return make_list(interp.budget, std::move(groups));
}

Value filter_map(Interp& interp, const Arguments& args) {
  if (args.positional.empty()) fail("map needs a sequence");
  Values out;
  // What is empty or none counts as an empty sequence.
  if (!truthy(args.positional[0])) return make_generator(interp.budget, {});
  if (args.positional.size() == 1) {
    Value path = Value::missing(), otherwise = Value::missing();
    for (const auto& [name, value] : args.keywords) {
      if (name == "attribute")
        path = value;
      else if (name == "default")
        otherwise = value;
      else
        fail("map has no argument '" + name + "'");
    }
    if (path.is_missing()) fail("map needs a filter's name or attribute=...");
    for (const Value& v : iterate(interp.budget, args.positional[0]))
      out.push_back(follow(interp, v, path, otherwise));
  } else {
    if (!args.positional[1].is_string()) fail("map needs a filter's name");
    Arguments inner;
    inner.positional.assign(args.positional.begin() + 1, args.positional.end());
    inner.keywords = args.keywords;
    for (const Value& v : iterate(interp.budget, args.positional[0])) {
      inner.positional[0] = v;
      out.push_back(interp.filter(args.positional[1].bytes(), inner));
    }
  }
  return make_generator(interp.budget, std::move(out));
}

template <bool kKeep, bool kAttribute>
Value filter_select(Interp& interp, const Arguments& args) {
  constexpr size_t kFirst = kAttribute ? 2 : 1;  // where the test's name stands
  if (args.positional.size() < kFirst) fail("selectattr needs an attribute");
  Values out;
  if (!truthy(args.positional[0])) return make_generator(interp.budget, {});
  for (const Value& v : iterate(interp.budget, args.positional[0])) {
    const Value subject = kAttribute ? follow(interp, v, args.positional[1]) : v;
    bool passes;
    if (args.positional.size() <= kFirst) {
      passes = truthy(subject);
    } else {
      if (!args.positional[kFirst].is_string()) fail("select needs a test's name");
      Arguments inner;
      inner.positional.assign(args.positional.begin() + kFirst, args.positional.end());
      inner.positional[0] = subject;
      inner.keywords = args.keywords;
      passes = interp.test(args.positional[kFirst].bytes(), inner);
    }
    if (passes == kKeep) out.push_back(v);
  }
  return make_generator(interp.budget, std::move(out));
}

Value filter_join(Interp& interp, const Arguments& args) {
  const Values a = args.bind("join", {"value", "d", "attribute"}, 1);
  std::vector<Text> parts;
  uint64_t total = 0;
  for (const Value& v : iterate(interp.budget, a[0])) {
    parts.push_back(to_text(interp.budget, follow(interp, v, a[2])));
    total += parts.back().size();
    interp.budget.bytes(total);
  }
  const Text separator = a[1].is_missing() ? Text() : to_text(interp.budget, a[1]);
  return make_string(interp.budget, join(interp.budget, separator, parts));
}

Value filter_length(Interp&, const Arguments& args) {
  return Value::integer(length(args.bind("length", {"value"}, 1)[0]));
}

Value filter_first(Interp& interp, const Arguments& args) {
  const Value v = args.bind("first", {"seq"}, 1)[0];
  if (v.is(Kind::kGenerator)) {
    GeneratorObject& g = v.generator();
    return g.next < g.items.size() ? g.items[g.next++] : Value::undefined("the sequence was empty");
  }
  const Values items = iterate(interp.budget, v);
  return items.empty() ? Value::undefined("the sequence was empty") : items.front();
}

Value filter_last(Interp& interp, const Arguments& args) {
  const Value v = args.bind("last", {"seq"}, 1)[0];
  if (v.is(Kind::kGenerator)) fail("a generator has no last item: use |list first");
  const Values items = iterate(interp.budget, v);
  return items.empty() ? Value::undefined("the sequence was empty") : items.back();
}

Value filter_list(Interp& interp, const Arguments& args) {
  return make_list(interp.budget, iterate(interp.budget, args.bind("list", {"value"}, 1)[0]));
}

Value filter_items(Interp& interp, const Arguments& args) {
  const Value v = args.bind("items", {"value"}, 1)[0];
  Values out;
  if (!v.is_undefined()) {
    if (!v.is_dict()) fail("items needs a dictionary, not " + type_name(v));
    for (const auto& [key, value] : v.dict().items) out.push_back(make_tuple(interp.budget, {key, value}));
  }
  return make_generator(interp.budget, std::move(out));
}

Value filter_reverse(Interp& interp, const Arguments& args) {
  const Value v = args.bind("reverse", {"value"}, 1)[0];
  if (v.is_string()) return slice(interp.budget, v, Value::none(), Value::none(), Value::integer(-1));
  Values items = iterate(interp.budget, v);
  std::reverse(items.begin(), items.end());
  return make_generator(interp.budget, std::move(items));
}

Value filter_sum(Interp& interp, const Arguments& args) {
  const Values a = args.bind("sum", {"iterable", "attribute", "start"}, 1);
  Value total = a[2].is_missing() ? Value::integer(0) : a[2];
  if (total.is_string()) fail("sum cannot add strings: use join");
  for (const Value& v : iterate(interp.budget, a[0]))
    total = arithmetic(interp, Operator::kAdd, total, follow(interp, v, a[1]));
  return total;
}

Value filter_batch(Interp& interp, const Arguments& args) {
  const Values a = args.bind("batch", {"value", "linecount", "fill_with"}, 2);
  const int64_t count = integer_argument(a[1], 0);
  Values rows, row;
  for (const Value& v : iterate(interp.budget, a[0])) {
    if (static_cast<int64_t>(row.size()) == count) {
      rows.push_back(make_list(interp.budget, std::move(row)));
      row = {};
    }
    row.push_back(v);
  }
  if (!row.empty()) {
    if (!a[2].is_missing() && !a[2].is_none() && count > static_cast<int64_t>(row.size())) {
      interp.budget.elements(static_cast<uint64_t>(count));
      row.resize(static_cast<size_t>(count), a[2]);
    }
    rows.push_back(make_list(interp.budget, std::move(row)));
  }
  return make_generator(interp.budget, std::move(rows));
}

Value filter_slice(Interp& interp, const Arguments& args) {
  const Values a = args.bind("slice", {"value", "slices", "fill_with"}, 2);
  const Values items = iterate(interp.budget, a[0]);
  const int64_t slices = integer_argument(a[1], 0), count = static_cast<int64_t>(items.size());
  if (slices == 0) fail("integer division or modulo by zero");
  if (slices > 0) interp.budget.elements(static_cast<uint64_t>(slices));
  Values out;
  int64_t offset = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t size = count / slices + (i < count % slices ? 1 : 0);
    Values part(items.begin() + offset, items.begin() + offset + size);
    offset += size;
    if (!a[2].is_missing() && !a[2].is_none() && i >= count % slices) part.push_back(a[2]);
    out.push_back(make_list(interp.budget, std::move(part)));
  }
  return make_generator(interp.budget, std::move(out));
}

// Attributes only, never keys.
Value filter_attr(Interp& interp, const Arguments& args) {
  const Values a = args.bind("attr", {"obj", "name"}, 2);
  const std::string name = to_text(interp.budget, a[1]).bytes();
  if (a[0].is_dict() && find_method(a[0], name) == nullptr)
    return Value::undefined("dict object has no attribute '" + name + "'");
  return interp.attribute(a[0], name);
}

}  // namespace

const Filters& sequence_filters() {
  static const Filters filters = {
      {"sort", filter_sort},
      {"dictsort", filter_dictsort},
      {"max", filter_extreme<true>},
      {"min", filter_extreme<false>},
      {"unique", filter_unique},
      {"groupby", filter_groupby},
      {"map", filter_map},
      {"select", filter_select<true, false>},
      {"reject", filter_select<false, false>},
      {"selectattr", filter_select<true, true>},
      {"rejectattr", filter_select<false, true>},
      {"join", filter_join},
      {"length", filter_length},
      {"count", filter_length},
      {"first", filter_first},
      {"last", filter_last},
      {"list", filter_list},
      {"items", filter_items},
      {"reverse", filter_reverse},
      {"sum", filter_sum},
      {"batch", filter_batch},
      {"slice", filter_slice},
      {"attr", filter_attr},
  };
  return filters;
}

}  // namespace hlwq::jinja
