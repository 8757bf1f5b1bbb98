#include "terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace hlwq::cli {
namespace {

std::atomic<bool> g_interrupted{false};  // a signal handler has nowhere else to write

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// The last `width` bytes of `text`, which is ASCII (tensor names, fixed phrases).
std::string tail(const std::string& text, size_t width) {
  return text.size() <= width ? text : text.substr(text.size() - width);
}

/// Characters of UTF-8 text; wide ones count as one.
size_t text_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_interrupted = true; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

std::atomic<bool>& interrupted() { return g_interrupted; }

bool stdout_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

std::string printable(const std::string& text) {
  std::string out;
  const auto escape = [&](unsigned char c) {
    char hex[8];
    std::snprintf(hex, sizeof hex, "\\x%02x", c);
    out += hex;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      escape(c);
    } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080..U+009F: terminals obey some of them
      escape(next);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

void show(const std::string& text) {
  static const bool terminal = stdout_is_terminal();
  const std::string& out = terminal ? printable(text) : text;
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fflush(stdout);
}

ProgressLine::ProgressLine(std::string title, Unit unit, double delay)
    : title_(std::move(title)), unit_(unit), delay_(delay), terminal_(stderr_is_terminal()) {}

Progress ProgressLine::progress() {
  Progress p;
  p.cancelled = &interrupted();
  p.report = [this](uint64_t done, uint64_t total, const std::string& what) { update(done, total, what); };
  return p;
}

void ProgressLine::update(uint64_t done, uint64_t total, const std::string& what) {
  const auto now = Clock::now();
  const double elapsed = seconds(now - start_);
  const double interval = terminal_ ? 0.1 : 10;
  if (elapsed < (terminal_ ? delay_ : interval) ||
      (last_ != Clock::time_point{} && seconds(now - last_) < interval))
    return;
  last_ = now;
  const double fraction = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const auto amount = [&](uint64_t n) { return unit_ == Unit::kBytes ? format_bytes(n) : format_count(n); };
  std::string status = amount(done) + " of " + amount(total);
  if (fraction > 0.005) status += ", " + format_seconds(elapsed / fraction * (1 - fraction)) + " left";
  if (!terminal_) {
    std::fprintf(stderr, "%s: %.0f %% (%s) %s\n", title_.c_str(), 100 * fraction, status.c_str(),
                 what.c_str());
    return;
  }
  constexpr size_t kBar = 20;
  const auto full = std::min(kBar, static_cast<size_t>(fraction * kBar));
  std::string line = title_ + " [" + std::string(full, '#') + std::string(kBar - full, '.') + "] " +
                     fixed(100 * fraction, 0) + " % " + status;
  const size_t width = terminal_width() - 1;
  if (line.size() + 4 < width) line += "  " + tail(what, width - line.size() - 2);
  line.resize(std::min(line.size(), width));
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  drawn_ = true;
}

void ProgressLine::clear() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
  drawn_ = false;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string format_bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  if (bytes < 1000) return std::to_string(bytes) + " B";
  double v = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  while (v >= 999.5 && unit + 1 < std::size(kUnits)) v /= 1000, ++unit;
  return fixed(v, v < 9.995 ? 2 : v < 99.95 ? 1 : 0) + " " + kUnits[unit];
}

std::string format_count(uint64_t n) {
  std::string text = std::to_string(n);
  for (auto i = static_cast<ptrdiff_t>(text.size()) - 3; i > 0; i -= 3)
    text.insert(static_cast<size_t>(i), ",");
  return text;
}

std::string format_params(uint64_t n) {
  const auto v = static_cast<double>(n);
  if (v >= 1e9) return fixed(v / 1e9, 2) + " B";
  if (v >= 1e6) return fixed(v / 1e6, 1) + " M";
  if (v >= 1e3) return fixed(v / 1e3, 1) + " k";
  return std::to_string(n);
}

std::string format_seconds(double s) {
  if (s < 60) return fixed(s, s < 10 ? 1 : 0) + " s";
  const auto whole = static_cast<uint64_t>(s + 0.5);
  char text[64];
  if (whole < 3600)
    std::snprintf(text, sizeof text, "%d min %02d s", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
  else
    std::snprintf(text, sizeof text, "%llu h %02d min", static_cast<unsigned long long>(whole / 3600),
                  static_cast<int>(whole % 3600 / 60));
  return text;
}

std::string Table::str() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c >= widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], text_width(row[c]));
    }
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string fill(widths[c] - text_width(rows_[r][c]), ' ');
      line += c == 0 ? rows_[r][c] + fill : "  " + fill + rows_[r][c];
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    if (r == 0) {
      size_t total = 0;
      for (size_t w : widths) total += w + 2;
      out += std::string(total - 2, '-') + "\n";
    }
  }
  return out;
}

std::string Table::markdown() const {
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    out += "|";
    for (std::string cell : rows_[r]) {
      for (size_t i = 0; (i = cell.find('|', i)) != std::string::npos; i += 2) cell.insert(i, "\\");
      out += " " + cell + " |";
    }
    out += "\n";
    if (r > 0) continue;
    out += "|---|";
    for (size_t c = 1; c < rows_[0].size(); ++c) out += "--:|";
    out += "\n";
  }
  return out;
}

}  // namespace hlwq::cli
