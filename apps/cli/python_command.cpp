#include "python_command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "hlwq/error.h"
#include "terminal.h"

extern char** environ;

namespace hlwq::cli {
namespace {

namespace fs = std::filesystem;

std::vector<char*> pointers(std::vector<std::string>& text) {
  std::vector<char*> argv;
  for (std::string& s : text) argv.push_back(s.data());
  argv.push_back(nullptr);
  return argv;
}

/// Where the package lies when it came with this program; empty when it did not.
fs::path package_beside() {
  std::error_code ec;
  const fs::path directory = fs::read_symlink("/proc/self/exe", ec).parent_path();
  if (ec) return {};
  // A build tree has build/hlwq and build/python/hlwq/, an installed package hlwq/bin/hlwq.
  for (const fs::path& place : {directory / "python", directory.parent_path().parent_path()})
    if (fs::exists(place / "hlwq/__init__.py", ec)) return place;
  return {};
}

/// So that the Python that is started finds it, before one that is installed elsewhere.
void put_first_on_python_path(const fs::path& place) {
  const char* old = std::getenv("PYTHONPATH");
  const std::string path = place.string() + (old && *old ? ":" + std::string(old) : "");
  ::setenv("PYTHONPATH", path.c_str(), 1);
}

int exit_code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

/// Runs a program; `captured` says which of its streams is read, the other stays ours. Throws Error(kIo) when
/// it cannot be started, Error(kCancelled), after ending it, when this program is interrupted.
PythonPackage::Outcome run_captured(std::vector<std::string> command, int captured) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw Error(ErrorCode::kIo, std::string("cannot make a pipe: ") + std::strerror(errno));
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], captured);
  pid_t pid = -1;
  const std::vector<char*> argv = pointers(command);
  const int failed = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (failed) {
    ::close(ends[0]);
    throw Error(ErrorCode::kIo, "cannot run " + command[0] + ": " + std::strerror(failed));
  }
  PythonPackage::Outcome outcome;
  char buffer[1 << 14];
  for (;;) {
    const ssize_t n = ::read(ends[0], buffer, sizeof buffer);
    if (n > 0) outcome.output.append(buffer, static_cast<size_t>(n));
    if (n == 0 || (n < 0 && errno != EINTR)) break;
    if (interrupted()) ::kill(pid, SIGTERM);
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR)
    if (interrupted()) ::kill(pid, SIGTERM);
  if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
  outcome.exit_code = exit_code_of(status);
  return outcome;
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.find_last_of('\n') + 1);
}

}  // namespace

PythonPackage::PythonPackage(const std::string& wanted, const std::string& install) {
  const char* named = std::getenv("HLWQ_PYTHON_EXE");
  python_ = named && *named ? named : "python3";
  if (const fs::path place = package_beside(); !place.empty()) put_first_on_python_path(place);
  std::string reason;
  try {
    const Outcome probe = run_captured({python_, "-c", "import hlwq"}, STDERR_FILENO);
    if (probe.exit_code == 0) return;
    reason = last_line(probe.output);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kCancelled) throw;
    reason = e.what();
  }
  throw Error(ErrorCode::kNotFound, wanted + " needs the Python package hlwq, which " + python_ +
                                        " does not have (" + reason + "): pip install " + install +
                                        " in hlwq's source directory, or name the Python that has it in "
                                        "HLWQ_PYTHON_EXE");
}

std::vector<std::string> PythonPackage::command(const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = {python_, "-m", "hlwq"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

void PythonPackage::become(const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = command(arguments);
  const std::vector<char*> argv = pointers(all);
  ::execvp(argv[0], argv.data());
  throw Error(ErrorCode::kIo, "cannot run " + python_ + ": " + std::strerror(errno));
}

PythonPackage::Outcome PythonPackage::run(const std::vector<std::string>& arguments) const {
  return run_captured(command(arguments), STDOUT_FILENO);
}

}  // namespace hlwq::cli
