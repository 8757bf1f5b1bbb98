// Renders templates for the differential tests: a JSON object a line on standard input
// ({"template": ..., "variables": {...}}), its answer a line on standard output
// ({"output": ...} or {"error": ..., "code": ...}).
#include <iostream>
#include <string>

#include "base/json.h"
#include "text/chat_template.h"

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    hlwq::OrderedJson answer;
    try {
      const hlwq::OrderedJson request = hlwq::parse_ordered_json(line, "request");
      const hlwq::ChatTemplate tmpl(request.at("template").get_ref<const std::string&>());
      const hlwq::OrderedJson& variables = request.at("variables");
      answer["output"] = tmpl.render(variables);
      // The pieces must say the same, whatever they say about trust.
      std::string joined;
      for (const auto& piece : tmpl.render_pieces(variables)) joined += piece.text;
      if (joined != answer["output"])
        answer = {{"error", "the pieces differ from the text"}, {"code", "bug"}};
    } catch (const hlwq::Error& e) {
      answer = {{"error", e.what()},
                {"code", e.code() == hlwq::ErrorCode::kInvalidArgument ? "raised" : "failed"}};
    } catch (const std::exception& e) {
      answer = {{"error", e.what()}, {"code", "bug"}};
    }
    std::cout << answer.dump(-1, ' ', false, hlwq::OrderedJson::error_handler_t::replace) << std::endl;
  }
}
