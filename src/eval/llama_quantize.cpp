#include "eval/llama_quantize.h"

#include <sstream>

#include "eval/program.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> words(const std::string& command) {
  std::istringstream in(command.empty() ? "llama-quantize" : command);
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
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
  if (program_found(argv[0])) return {};
  return argv[0] +
         " (llama.cpp's quantiser) is not installed; put it on the PATH or name it by --llama-quantize";
}

void run_llama_quantize(const std::string& command, const fs::path& source, const fs::path& target,
                        const std::string& type, int threads, const fs::path& log, const Progress& progress) {
  std::vector<std::string> text = words(command);
  for (const std::string& s :
       {std::string("--allow-requantize"), source.string(), target.string(), type, std::to_string(threads)})
    text.push_back(s);
  const int status = run_program(text, log, type, progress);
  std::error_code ec;
  if (status == 0 && fs::exists(target, ec)) return;
  throw Error(ErrorCode::kIo, text[0] + " could not make " + type + " of " + source.string() +
                                  (status == 0 ? " (it wrote nothing)" : "") + ": " + last_line(log));
}

}  // namespace hlwq
