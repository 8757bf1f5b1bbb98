// SVG pictures into PNG files, by librsvg's program.
#pragma once

#include <filesystem>
#include <string>

#include "base/progress.h"

namespace hlwq {

/// Why there is no PNG here; empty when rsvg-convert is installed.
std::string why_no_png();

/// Draws `svg` at twice its size into the file `png`, which appears whole or not at all. Throws
/// Error(kUnsupported) with why_no_png(), kIo with what the program says, kCancelled.
void write_png(const std::string& svg, const std::filesystem::path& png, const Progress& progress);

}  // namespace hlwq
