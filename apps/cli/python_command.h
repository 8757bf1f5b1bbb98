// What of hlwq is written in Python, run by the program: the page of `demo`, the tasks of `bench`.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace hlwq::cli {

class PythonPackage {
 public:
  /// Looks for the package hlwq: beside this program, or where the Python that HLWQ_PYTHON_EXE names, else
  /// python3, has it. Throws Error(kNotFound) that says how to install it; `wanted` is what it is needed for,
  /// `install` what pip is to install.
  PythonPackage(const std::string& wanted, const std::string& install);

  /// Becomes `python3 -m hlwq ARGUMENTS`.
  [[noreturn]] void become(const std::vector<std::string>& arguments) const;

  struct Outcome {
    int exit_code = 0;
    std::string output;  ///< what came on standard output; errors go where ours go
  };
  /// Runs `python3 -m hlwq ARGUMENTS` to its end. An interrupt of this program ends it too.
  Outcome run(const std::vector<std::string>& arguments) const;

 private:
  std::vector<std::string> command(const std::vector<std::string>& arguments) const;
  std::string python_;
};

}  // namespace hlwq::cli
