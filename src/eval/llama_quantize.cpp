#include "eval/llama_quantize.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "base/file.h"

extern char** environ;

namespace hlwq {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> words(const std::string& command) {
  std::istringstream in(command.empty() ? "llama-quantize" : command);
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
}

bool is_program(const fs::path& path) {
  std::error_code ec;
  return fs::is_regular_file(path, ec) && ::access(path.c_str(), X_OK) == 0;
}

bool on_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return is_program(program);
  const char* path = std::getenv("PATH");
  std::istringstream in(path ? path : "");
  for (std::string dir; std::getline(in, dir, ':');)
    if (is_program(fs::path(dir.empty() ? "." : dir) / program)) return true;
  return false;
}

std::string end_of(const fs::path& log) {
  try {
    std::string text = read_file(log);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text.substr(text.find_last_of('\n') + 1);
  } catch (const Error&) {
    return "";
  }
}

// Waits for the child; ends it when the work is cancelled.
int wait_for(pid_t pid, const std::string& what, const Progress& progress) {
  for (;;) {
    int status = 0;
    const pid_t got = ::waitpid(pid, &status, WNOHANG);
    if (got == pid) return status;
    if (got < 0 && errno != EINTR) return -1;
    try {
      progress.step(0, 1, what);
    } catch (...) {
      ::kill(pid, SIGTERM);
      while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
      }
      throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

const std::vector<std::string>& llama_quantize_types() {
  static const std::vector<std::string> kTypes = {"q2_k",   "q3_k_s", "q3_k_m", "q3_k_l", "q4_0",
                                                  "q4_1",   "q4_k_s", "q4_k_m", "q5_0",   "q5_1",
                                                  "q5_k_s", "q5_k_m", "q6_k",   "q8_0"};
  return kTypes;
}

std::string why_no_llama_quantize(const std::string& command) {
  const std::vector<std::string> argv = words(command);
  if (argv.empty()) return "the command of llama.cpp's quantiser is empty";
  if (on_path(argv[0])) return {};
  return argv[0] +
         " (llama.cpp's quantiser) is not installed; put it on the PATH or name it by --llama-quantize";
}

void run_llama_quantize(const std::string& command, const fs::path& source, const fs::path& target,
                        const std::string& type, int threads, const fs::path& log, const Progress& progress) {
  std::vector<std::string> text = words(command);
  for (const std::string& s :
       {std::string("--allow-requantize"), source.string(), target.string(), type, std::to_string(threads)})
    text.push_back(s);
  std::vector<char*> argv;
  for (std::string& s : text) argv.push_back(s.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
  ::posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t pid = -1;
  const int failed = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed) throw Error(ErrorCode::kIo, "cannot run " + text[0] + ": " + std::strerror(failed));
  const int status = wait_for(pid, type, progress);
  std::error_code ec;
  if (status == 0 && fs::exists(target, ec)) return;
  throw Error(ErrorCode::kIo, text[0] + " could not make " + type + " of " + source.string() +
                                  (status == 0 ? " (it wrote nothing)" : "") + ": " + end_of(log));
}

}  // namespace hlwq
