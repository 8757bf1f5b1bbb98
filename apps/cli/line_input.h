// Lines typed by a person (or piped in), with pasted blocks kept together.
#pragma once

#include <string>

namespace hlwq::cli {

class LineInput {
 public:
  enum class Event { kLine, kEnd, kInterrupted };

  LineInput();
  /// Shows `prompt` (only on a terminal) and reads the next message. On a terminal, lines that arrive
  /// together (a paste) and lines that end in a backslash are one message; from a pipe, each line is one.
  Event read(const std::string& prompt, std::string& text);
  bool is_terminal() const { return terminal_; }

 private:
  Event read_line(std::string& line);
  bool more_is_waiting() const;

  bool terminal_;
  std::string buffer_;  // read, not yet returned
};

}  // namespace hlwq::cli
