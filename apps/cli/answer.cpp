#include "answer.h"

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "common.h"

namespace hlwq::cli {

void AnswerArgs::declare(Args& args) {
  args.group("Chat template");
  args.option("--thinking-budget", thinking_budget, "N", "Close a thought by force after N tokens");
  args.flag("--hide-thinking", hide_thinking, "Do not show thoughts (pipes never get them)");
}

void AnswerArgs::apply(const Model& model, const ChatOptions& chat, GenerateOptions& options) const {
  if (thinking_budget && *thinking_budget < 0) throw UsageError("--thinking-budget must not be negative");
  options.format = chat_format(model);
  options.expect_calls = chat.tools.is_array() && !chat.tools.empty();
  options.thinking_budget = thinking_budget.value_or(-1);
}

AnswerPrinter::AnswerPrinter(ProgressLine& line, bool hide_thinking)
    : line_(line), show_thinking_(!hide_thinking && stdout_is_terminal()) {
  const char* no_colour = std::getenv("NO_COLOR");
  colour_ = !no_colour || !*no_colour;
}

void AnswerPrinter::attach(GenerateOptions& options) {
  options.on_thinking = [this](const std::string& piece) { thinking(piece); };
  options.on_tool_call = [this](const ToolCall& c) { call(c); };
}

void AnswerPrinter::put(const std::string& text) {
  if (text.empty()) return;
  line_.clear();
  show(text);
  line_open_ = text.back() != '\n';
  any_ = true;
}

void AnswerPrinter::text(const std::string& piece) {
  close_thought();
  put(piece);
}

void AnswerPrinter::thinking(const std::string& piece) {
  if (!show_thinking_) return;
  if (!in_thought_) {
    if (line_open_) put("\n");
    line_.clear();
    std::fputs(colour_ ? "\x1b[2m" : "[thinking] ", stdout);
  }
  in_thought_ = true;
  put(piece);
}

void AnswerPrinter::close_thought() {
  if (!in_thought_) return;
  in_thought_ = false;
  std::fputs(colour_ ? "\x1b[22m" : " [/thinking]", stdout);
  put("\n\n");
}

void AnswerPrinter::call(const ToolCall& call) {
  close_thought();
  if (line_open_) put("\n");
  put("[call] " + call.name + " " + json_line(call.arguments) + "\n");
}

void AnswerPrinter::end(const std::string& note) {
  if (in_thought_) {
    in_thought_ = false;
    std::fputs(colour_ ? "\x1b[22m" : " [/thinking]", stdout);
  }
  line_.clear();
  if (!note.empty() || line_open_ || !any_) put(note + "\n");
}

void warn_about(const GenerateResult& result) {
  for (const std::string& note : result.notes) std::cerr << "hlwq: note: " << printable(note) << "\n";
  if (!result.cut_call.empty())
    std::cerr << "hlwq: note: the answer ends inside a tool call: " << printable(result.cut_call) << "\n";
}

}  // namespace hlwq::cli
