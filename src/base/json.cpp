#include "base/json.h"

#include "base/file.h"

namespace hlwq {
namespace {

// Depth is checked before parsing: nlohmann's destructor and copy recurse on nesting.
void check_limits(std::string_view text, const std::string& what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes)
    throw Error(ErrorCode::kInvalidFile, what + ": JSON of " + std::to_string(text.size()) +
                                             " bytes is over the limit of " +
                                             std::to_string(limits.max_bytes));
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limits.max_depth)
        throw Error(ErrorCode::kInvalidFile,
                    what + ": JSON nested deeper than " + std::to_string(limits.max_depth));
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

template <class J>
J parse(std::string_view text, const std::string& what, const JsonLimits& limits) {
  check_limits(text, what, limits);
  try {
    return J::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::kInvalidFile, what + ": not valid JSON: " + e.what());
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits) {
  return parse<Json>(text, what, limits);
}

OrderedJson parse_ordered_json(std::string_view text, const std::string& what, const JsonLimits& limits) {
  return parse<OrderedJson>(text, what, limits);
}

OrderedJson read_ordered_json(const std::filesystem::path& path, const JsonLimits& limits) {
  return parse_ordered_json(read_file(path, limits.max_bytes), path.string(), limits);
}

}  // namespace hlwq
