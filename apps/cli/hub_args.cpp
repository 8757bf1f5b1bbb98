#include "hub_args.h"

#include <cstdlib>
#include <filesystem>

#include "common.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

std::optional<std::string> environment(const std::string& name) {
  const char* text = std::getenv(name.c_str());
  return text ? std::optional<std::string>(text) : std::nullopt;
}

}  // namespace

HubSettings hub_environment() {
  HubSettings settings = usage([] { return hub_settings(environment); });
  settings.user_agent = "hlwq/" HLWQ_VERSION;
  return settings;
}

bool progress_allowed() {
  const std::string text = environment("HF_HUB_DISABLE_PROGRESS_BARS").value_or("");
  return text != "1" && text != "true" && text != "TRUE" && text != "ON" && text != "on" && text != "YES" &&
         text != "yes";
}

std::string find_model(const std::string& model, FileSet files) {
  std::error_code ec;
  if (std::filesystem::exists(model, ec)) return model;
  const auto repository = usage([&] { return parse_repository(model); });
  if (!repository) return model;  // whoever opens it says that it is not there
  const HubSettings settings = hub_environment();
  if (const auto path = usage([&] { return find_cached(settings, *repository, files); }))
    return path->string();
  if (settings.offline)
    throw Error(ErrorCode::kNotFound, model + " is neither a file or directory nor (wholly) in the cache " +
                                          settings.cache.string() +
                                          ", and HF_HUB_OFFLINE forbids to download it");
  std::fprintf(stderr, "downloading %s from %s into %s\n", printable(model).c_str(),
               settings.endpoint.c_str(), settings.cache.c_str());
  ProgressLine line("downloading", ProgressLine::Unit::kBytes);
  Progress progress = line.progress();
  if (!progress_allowed()) progress.report = nullptr;
  PullOptions options;
  options.files = files;
  try {
    return usage([&] { return pull(settings, *repository, options, progress); }).path.string();
  } catch (const Error& e) {
    throw Error(e.code(), model + " is no file or directory here, and as a repository: " + e.what());
  }
}

std::shared_ptr<const Model> load_model(const std::string& model) {
  auto loaded = Model::load(find_model(model));
  for (const std::string& note : loaded->weights().notes())
    std::fprintf(stderr, "hlwq: note: %s\n", printable(note).c_str());
  return loaded;
}

}  // namespace hlwq::cli
