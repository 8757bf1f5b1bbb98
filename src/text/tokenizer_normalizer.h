// The normalizers of tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"

namespace hlwq::tok {

/// Immutable; shared between threads.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Rewrites valid UTF-8. `marks` (may be null) has one byte a byte of text and is kept in step: a byte is
  /// marked when it comes from a marked one.
  virtual void apply(std::string& text, std::vector<uint8_t>* marks) const = 0;
};

/// Null for JSON null. Throws Error(kUnsupported) naming an unknown type, Error(kInvalidFile) for bad fields.
std::unique_ptr<Normalizer> make_normalizer(const Json& spec, const std::string& what);

/// Fields of a component, with errors that name it.
const Json& component_field(const Json& spec, const char* name, const std::string& what);
std::string component_string(const Json& spec, const char* name, const std::string& what);
bool component_bool(const Json& spec, const char* name, bool fallback, const std::string& what);
std::string component_type(const Json& spec, const std::string& what);

}  // namespace hlwq::tok
