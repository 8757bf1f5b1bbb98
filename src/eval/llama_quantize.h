// llama.cpp's own quantiser, run as a program.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"

namespace hlwq {

/// The types that it is asked for, lower case: "q4_k_m".
const std::vector<std::string>& llama_quantize_types();

/// Why `command` (empty: llama-quantize) can't be run; empty when its program is there.
std::string why_no_llama_quantize(const std::string& command);

/// Runs `command --allow-requantize SOURCE TARGET TYPE THREADS`. Its output goes to `log`. Throws Error(kIo)
/// with the output's end when it fails; kCancelled, after ending it.
void run_llama_quantize(const std::string& command, const std::filesystem::path& source,
                        const std::filesystem::path& target, const std::string& type, int threads,
                        const std::filesystem::path& log, const Progress& progress);

}  // namespace hlwq
