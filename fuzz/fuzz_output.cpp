// Input: how a model's output is cut, and the output. The first byte chooses the format and whether its
// markers are tokens; in what follows a byte from 0x80 to 0x84 stands for one of the five markers, 0xFF for
// a cut. Whatever the cuts, joined texts and calls must be the same as without any.
#include <string>
#include <vector>

#include "fuzz_input.h"
#include "text/output_parser.h"

namespace {

using hlwq::CallSyntax;
using hlwq::OutputEvent;
using hlwq::OutputFormat;

OutputFormat format(uint8_t choice) {
  OutputFormat f;
  const int32_t first = choice & 1 ? 10 : -1;
  const auto id = [&](int32_t n) { return first < 0 ? -1 : first + n; };
  switch (choice / 2 % 3) {
    case 0:
      f.name = "gemma4";
      f.calls = CallSyntax::kGemma4;
      f.think_open = {"<|channel>", id(0)};
      f.think_close = {"<channel|>", id(1)};
      f.call_open = {"<|tool_call>", id(2)};
      f.call_close = {"<tool_call|>", id(3)};
      f.quote = {"<|\"|>", id(4)};
      f.think_name = "thought\n";
      break;
    case 1:
      f.name = "hermes";
      f.calls = CallSyntax::kJson;
      f.think_open = {"<think>", id(0)};
      f.think_close = {"</think>", id(1)};
      f.call_open = {"<tool_call>", id(2)};
      f.call_close = {"</tool_call>", id(3)};
      break;
    default:
      f.name = "llama3";
      f.calls = CallSyntax::kLlama3;
      f.call_open = {"<|python_tag|>", id(0)};
  }
  return f;
}

/// Adjacent texts of one kind joined.
std::string summary(const std::vector<OutputEvent>& events) {
  std::string out;
  int last = -1;
  for (const OutputEvent& e : events) {
    const int kind = static_cast<int>(e.kind);
    const bool joins = kind == last && e.kind != OutputEvent::Kind::kToolCall && e.note.empty();
    if (!joins) out += "\n" + std::to_string(kind) + e.note + e.name + (e.complete ? "=" : "?");
    out += e.text;
    if (e.kind == OutputEvent::Kind::kToolCall) out += e.arguments.dump();  // throws unless it is UTF-8
    last = e.note.empty() ? kind : -1;
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const OutputFormat f = format(data[0]);
  const std::vector<const hlwq::Marker*> markers = {&f.think_open, &f.think_close, &f.call_open,
                                                    &f.call_close, &f.quote};
  const auto run = [&](bool cuts) {
    hlwq::OutputParser parser(f, true);
    std::vector<OutputEvent> events;
    std::string text;
    const auto flush = [&] {
      parser.push(text, false, events);
      text.clear();
    };
    for (size_t i = 1; i < size; ++i) {
      const uint8_t byte = data[i];
      if (byte == 0xFF) {
        if (cuts) flush();
      } else if (byte < 0x80 || byte > 0x84) {
        text += static_cast<char>(byte);
      } else if (const hlwq::Marker& m = *markers[byte - 0x80]; m.id < 0) {
        text += m.text;
      } else {
        flush();
        parser.push(m.text, true, events);
      }
    }
    flush();
    parser.finish(events);
    return summary(events);
  };
  if (run(true) != run(false)) __builtin_trap();
  return 0;
}
