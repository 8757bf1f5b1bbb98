#include "eval/svg_png.h"

#include <unistd.h>

#include "base/file.h"
#include "eval/program.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProgram = "rsvg-convert";

/// A file that goes away again.
struct Temporary {
  fs::path path;
  ~Temporary() {
    std::error_code ec;
    fs::remove(path, ec);
  }
};

}  // namespace

std::string why_no_png() {
  if (program_found(kProgram)) return {};
  return std::string(kProgram) +
         " is not installed, which draws PNG files (Debian: apt-get install librsvg2-bin); SVG needs nothing";
}

void write_png(const std::string& svg, const fs::path& png, const Progress& progress) {
  if (const std::string why = why_no_png(); !why.empty()) throw Error(ErrorCode::kUnsupported, why);
  const std::string stem = png.string() + ".tmp-" + std::to_string(::getpid());
  const Temporary source{stem + ".svg"}, log{stem + ".log"}, drawn{stem + ".png"};
  {
    AtomicFile file(source.path);
    file.write(svg);
    file.commit();
  }
  const int status = run_program(
      {kProgram, "--zoom", "2", "--format", "png", "--output", drawn.path.string(), source.path.string()},
      log.path, png.filename().string(), progress);
  std::error_code ec;
  if (status != 0 || !fs::exists(drawn.path, ec))
    throw Error(ErrorCode::kIo,
                std::string(kProgram) + " could not draw " + png.string() + ": " + last_line(log.path));
  fs::rename(drawn.path, png, ec);
  if (ec) throw Error(ErrorCode::kIo, "cannot write " + png.string() + ": " + ec.message());
}

}  // namespace hlwq
