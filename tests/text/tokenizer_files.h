// Test data of the tokenizer: compressed assets and goldens.
#pragma once

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace hlwq::test {

/// What a shell command writes to its standard output; throws when it fails.
inline std::string command_output(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) throw std::runtime_error("cannot run: " + command);
  std::string out;
  std::vector<char> buffer(1 << 16);
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) out.append(buffer.data(), n);
  if (::pclose(pipe) != 0) throw std::runtime_error("failed: " + command);
  return out;
}

inline std::string read_xz(const std::string& path) { return command_output("xz -dc '" + path + "'"); }

/// tokenizer.json of "gemma3", "qwen3", "llama3" or "gemma4-nano".
inline std::string tokenizer_json(const std::string& name) {
  const std::string assets = HLWQ_ASSETS;
  if (name == "gemma4-nano")
    return command_output("tar -xJOf '" + assets + "/gemma4-nano.tar.xz' gemma4-nano/tokenizer.json");
  return read_xz(assets + "/tokenizers/" + name + "/tokenizer.json.xz");
}

inline std::string golden_path(const std::string& file) {
  return std::string(HLWQ_TEST_DATA) + "/golden/tokenizer/" + file;
}

}  // namespace hlwq::test
