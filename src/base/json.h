// JSON with limits. Json sorts keys (fast lookup in large objects); OrderedJson keeps the file's order
// (configs that we write back, chat messages), but looks keys up linearly: never use it for vocabularies.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "hlwq/error.h"

namespace hlwq {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  size_t max_bytes = 256u << 20;
  int max_depth = 64;
};

/// Parses `text`; `what` names it in errors. Throws Error(kInvalidFile) on malformed, too deep or too large
/// input.
Json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits = {});
OrderedJson parse_ordered_json(std::string_view text, const std::string& what, const JsonLimits& limits = {});

/// Reads and parses a file. Throws Error(kNotFound | kIo | kInvalidFile).
OrderedJson read_ordered_json(const std::filesystem::path& path, const JsonLimits& limits = {});

}  // namespace hlwq
