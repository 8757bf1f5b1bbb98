// Other people's programs, run as such.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"

namespace hlwq {

/// Whether `program` can be run: a path, or a name on the PATH.
bool program_found(const std::string& program);

/// Runs a program to its end, its output into the file `log`; returns its exit status as waitpid gives it.
/// `what` is reported meanwhile. Throws Error(kIo) when it cannot be started; kCancelled, after ending it.
int run_program(std::vector<std::string> argv, const std::filesystem::path& log, const std::string& what,
                const Progress& progress);

/// The last line of a program's output; empty when there is none.
std::string last_line(const std::filesystem::path& log);

}  // namespace hlwq
