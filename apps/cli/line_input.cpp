#include "line_input.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "terminal.h"

namespace hlwq::cli {

// A terminal in line mode hands over at most this many bytes a line and drops the rest.
constexpr size_t kTerminalLine = 4095;
constexpr int kPasteMs = 30;  // pasted lines follow each other faster than anyone types
// A signal may come just before a read, or to another thread: then nothing wakes the read.
constexpr int kSignalMs = 100;

LineInput::LineInput() : terminal_(::isatty(STDIN_FILENO) == 1 && stdout_is_terminal()) {}

LineInput::Event LineInput::read(const std::string& prompt, std::string& text) {
  if (terminal_) show(prompt);
  text.clear();
  Event event = read_line(text);
  if (!terminal_ || event != Event::kLine) return event;
  for (;;) {
    const bool continued = !text.empty() && text.back() == '\\';
    if (!continued && !more_is_waiting()) return event;
    if (continued) text.pop_back();
    if (continued && !more_is_waiting()) show("... ");
    std::string line;
    event = read_line(line);
    if (event == Event::kInterrupted) return event;
    text += "\n" + line;
    if (event == Event::kEnd) return Event::kLine;
  }
}

LineInput::Event LineInput::read_line(std::string& line) {
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (terminal_ && line.size() + 1 >= kTerminalLine)
        std::fprintf(stderr,
                     "hlwq: note: the terminal cuts lines at %zu bytes; send longer text with run -f\n",
                     kTerminalLine);
      return Event::kLine;
    }
    pollfd in{STDIN_FILENO, POLLIN, 0};
    while (!interrupted()) {
      const int ready = ::poll(&in, 1, kSignalMs);
      if (ready > 0 || (ready < 0 && errno != EINTR)) break;
    }
    if (interrupted()) {
      buffer_.clear();
      return Event::kInterrupted;
    }
    char part[1 << 13];
    const ssize_t n = ::read(STDIN_FILENO, part, sizeof part);
    if (n > 0) {
      buffer_.append(part, static_cast<size_t>(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    line = std::move(buffer_);
    buffer_.clear();
    return line.empty() ? Event::kEnd : Event::kLine;
  }
}

bool LineInput::more_is_waiting() const {
  if (!buffer_.empty()) return true;
  pollfd in{STDIN_FILENO, POLLIN, 0};
  return ::poll(&in, 1, kPasteMs) == 1 && (in.revents & POLLIN);
}

}  // namespace hlwq::cli
