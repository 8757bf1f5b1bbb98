// The filter tables, split by what filters work on.
#pragma once

#include <string_view>
#include <unordered_map>

#include "text/jinja_eval.h"

namespace hlwq::jinja {

/// positional[0] is what stands left of the bar.
using FilterFunction = Value (*)(Interp& interp, const Arguments& arguments);
using Filters = std::unordered_map<std::string_view, FilterFunction>;

const Filters& text_filters();
const Filters& sequence_filters();

/// An integer argument, or `otherwise` when absent or None.
int64_t integer_argument(const Value& value, int64_t otherwise);

}  // namespace hlwq::jinja
