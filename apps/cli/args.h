// Command lines: what a command declares, and parsing. The only place that knows CLI11 is args.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace hlwq::cli {

/// Exit codes of every command.
constexpr int kDone = 0, kFailed = 1, kWrongUse = 2;

/// The command was used wrongly: one line to stderr, exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Declares the arguments of one command. Targets keep their value when the option is absent. `names` is as
/// in
/// "-n,--max-tokens"; `meta` is how help names the value.
class Args {
 public:
  explicit Args(CLI::App& app) : app_(app) {}

  void group(const std::string& title) { group_ = title; }  ///< heading of what is declared from here on
  void positional(const std::string& name, std::string& target, const std::string& help);
  void flag(const std::string& names, bool& target, const std::string& help);
  void option(const std::string& names, std::string& target, const std::string& meta,
              const std::string& help);
  void option(const std::string& names, std::optional<std::string>& target, const std::string& meta,
              const std::string& help);
  void option(const std::string& names, std::optional<int64_t>& target, const std::string& meta,
              const std::string& help);
  void option(const std::string& names, std::optional<float>& target, const std::string& meta,
              const std::string& help);
  /// Its value may be left out, and is `bare` then.
  void optional(const std::string& names, std::optional<std::string>& target, const std::string& bare,
                const std::string& meta, const std::string& help);
  /// May be given several times.
  void option(const std::string& names, std::vector<std::string>& target, const std::string& meta,
              const std::string& help);
  /// A whole number from `min` up.
  void number(const std::string& names, int64_t& target, int64_t min, const std::string& meta,
              const std::string& help);
  /// One of `choices`.
  void choice(const std::string& names, std::string& target, const std::vector<std::string>& choices,
              const std::string& help);
  /// Everything after the command's name, --help included, goes to `target`: for another program's parser.
  void rest(std::vector<std::string>& target);

 private:
  CLI::App& app_;
  std::string group_ = "Options";
};

/// One command of the program; one file each.
class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;
  virtual std::string summary() const = 0;
  virtual std::string examples() const = 0;  ///< lines shown at the end of --help
  virtual void declare(Args& args) = 0;
  virtual int run() = 0;  ///< exit code
};

/// Parses argv. Returns the command to run, or null with `exit_code` set when help, the version or an error
/// was printed.
Command* parse_command_line(int argc, char** argv, const std::vector<std::unique_ptr<Command>>& commands,
                            int& exit_code);

std::unique_ptr<Command> make_quantize();
std::unique_ptr<Command> make_export();
std::unique_ptr<Command> make_run();
std::unique_ptr<Command> make_chat();
std::unique_ptr<Command> make_info();
std::unique_ptr<Command> make_bench();
std::unique_ptr<Command> make_demo();
std::unique_ptr<Command> make_tokenize();
std::unique_ptr<Command> make_template();
std::unique_ptr<Command> make_pull();

}  // namespace hlwq::cli
