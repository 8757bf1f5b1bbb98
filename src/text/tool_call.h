// What a model writes between the markers of a tool call, turned into a name and JSON arguments.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/output_format.h"

namespace hlwq {

/// The inside of a call as it arrived.
struct CallBody {
  std::string text;            ///< quote markers included, as they are spelt
  std::vector<size_t> quotes;  ///< where in `text` the quote markers start, ascending
};

struct ParsedCall {
  std::string name;
  OrderedJson arguments = OrderedJson::object();
  std::string error;  ///< why it is no call; empty: it is one
};

/// Never throws for what the model wrote. Limits: 1 MiB, 32 levels, 4,096 members an object.
ParsedCall parse_call(CallSyntax syntax, const CallBody& body, std::string_view quote);

/// The name as far as it can be told from the beginning of a call; may be empty.
std::string call_name(CallSyntax syntax, const CallBody& body);

}  // namespace hlwq
