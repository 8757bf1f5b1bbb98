// The pictures of `hlwq bench --chart`, and the files they go to.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/plan.h"
#include "eval/chart.h"
#include "eval/speed.h"

namespace hlwq::cli {

/// A number of tokens as axes show it: "512", "32K", "1M".
std::string short_count(uint64_t tokens);
/// A model's name for titles: the last part of its path.
std::string title_name(const std::string& model);

/// Bytes of weights, image encoder, key/value cache and scratch memory at several contexts, for a cache in
/// BF16 and in codes.
BarChart memory_chart(const std::string& model, const ModelSpec& spec, const ModelFacts& facts);
/// The longest context in some memory, a line for each width of the cache.
Chart context_chart(const std::string& model, const ModelSpec& spec, const ModelFacts& facts);
/// Tokens per second by the tokens that are in the context.
Chart speed_chart(const std::string& model, const std::vector<DepthSpeed>& speeds,
                  const std::string& backend);

/// What --chart names: one .svg or .png file, or a directory of both kinds.
class ChartFiles {
 public:
  /// Throws Error(kUnsupported) for a .png file where nothing draws one.
  explicit ChartFiles(const std::string& path);

  bool is_directory() const { return directory_; }
  /// NAME.svg and NAME.png in the directory, or the one file, whatever its name. Where nothing draws PNG, a
  /// note on stderr says so once and the SVG is written.
  void write(const std::string& name, const std::function<std::string(SvgScheme)>& draw);
  const std::vector<std::string>& written() const { return written_; }

 private:
  std::filesystem::path path_;
  bool directory_ = false, noted_ = false;
  std::vector<std::string> written_;
};

}  // namespace hlwq::cli
