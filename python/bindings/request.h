// What the Python layer passes as JSON: typed access, in which null and absent mean the default.
#pragma once

#include <concepts>
#include <limits>
#include <string>

#include "base/json.h"

namespace hlwq::python {

class Fields {
 public:
  explicit Fields(const OrderedJson& object) : object_(object) {}

  /// Null where the key is absent or null.
  const OrderedJson* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  /// Leaves `value` alone where there is nothing. Throws Error(kInvalidArgument) for another type, and for an
  /// integer out of range.
  template <typename T>
  void read(const char* key, T& value) const {
    const OrderedJson* found = find(key);
    if (!found) return;
    if constexpr (std::integral<T> && !std::same_as<T, bool>) {
      const bool fits = found->is_number_unsigned() ? found->template get<uint64_t>() <=
                                                          static_cast<uint64_t>(std::numeric_limits<T>::max())
                        : found->is_number_integer() ? std::in_range<T>(found->template get<int64_t>())
                                                     : false;
      if (!fits) refuse(key, *found);
    }
    try {
      value = found->template get<T>();
    } catch (const OrderedJson::exception&) {
      refuse(key, *found);
    }
  }

 private:
  [[noreturn]] static void refuse(const char* key, const OrderedJson& value) {
    throw Error(
        ErrorCode::kInvalidArgument,
        std::string(key) + " cannot be " + value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
  }

  const OrderedJson& object_;
};

/// JSON text; bytes that are not UTF-8 become U+FFFD.
inline std::string dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace hlwq::python
