// What run and chat share about answers: options for thoughts, and an answer shown while it streams.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "args.h"
#include "engine/chat.h"
#include "engine/generate.h"
#include "terminal.h"

namespace hlwq::cli {

/// --thinking-budget and --hide-thinking.
struct AnswerArgs {
  std::optional<int64_t> thinking_budget;
  bool hide_thinking = false;
  void declare(Args& args);
  /// Sets the options that make `model`'s answers to a chat come apart into text, thoughts and calls.
  void apply(const Model& model, const ChatOptions& chat, GenerateOptions& options) const;
};

/// Shows an answer on stdout: on a terminal thoughts are dimmed (bracketed where NO_COLOR is set), elsewhere
/// they are left out; a call is one line.
class AnswerPrinter {
 public:
  /// line: cleared before anything appears.
  AnswerPrinter(ProgressLine& line, bool hide_thinking);
  /// Routes thoughts and calls of a generation here; must outlive it.
  void attach(GenerateOptions& options);
  void text(const std::string& piece);
  /// Ends the line, if one is open; `note` (" [stopped]") goes to its end.
  void end(const std::string& note = "");

 private:
  void thinking(const std::string& piece);
  void call(const ToolCall& call);
  void close_thought();
  void put(const std::string& text);

  ProgressLine& line_;
  bool show_thinking_, colour_;
  bool in_thought_ = false;
  bool line_open_ = false;  // something stands on the current line
  bool any_ = false;
};

/// Says on stderr why text that looks like a call is none, and what was cut.
void warn_about(const GenerateResult& result);

}  // namespace hlwq::cli
