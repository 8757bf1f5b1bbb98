// What the terminal needs: progress, interruption, safe text, numbers and tables.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"

namespace hlwq::cli {

/// Ctrl-C and SIGTERM set interrupted() instead of ending the process. No restart of system calls: a read at
/// a prompt comes back.
void catch_interrupts();
std::atomic<bool>& interrupted();

bool stdout_is_terminal();
bool stderr_is_terminal();

/// Model text as it may be shown on a terminal: control characters but newline and tab come out as \xNN, so
/// that a model cannot send escape sequences. Not for pipes, which get the text as it is.
std::string printable(const std::string& text);
/// Writes to stdout (printable() on a terminal) and flushes.
void show(const std::string& text);

/// A progress line on stderr: a bar with time left on a terminal, a plain line every ten seconds elsewhere.
class ProgressLine {
 public:
  enum class Unit { kBytes, kCount };
  /// Nothing appears before `delay` seconds, so that short work stays quiet.
  explicit ProgressLine(std::string title, Unit unit = Unit::kCount, double delay = 0.5);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;

  /// Reports into this line and stops on interrupted(); must not outlive the line.
  Progress progress();
  void update(uint64_t done, uint64_t total, const std::string& what);
  void clear();  ///< removes the bar

 private:
  using Clock = std::chrono::steady_clock;
  std::string title_;
  Unit unit_;
  double delay_;
  bool terminal_, drawn_ = false;
  Clock::time_point start_ = Clock::now(), last_{};
};

std::string format_bytes(uint64_t bytes);  ///< "1.23 GB", powers of 1000
std::string format_count(uint64_t n);      ///< "1,234,567"
std::string format_params(uint64_t n);     ///< "134.5 M"
std::string format_seconds(double s);      ///< "3.2 s", "4 min 05 s"
std::string fixed(double value, int digits);

/// Columns as wide as their widest cell; the first is left-aligned, the others right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string str() const;
  std::string markdown() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace hlwq::cli
