// Repositories to directories: from the shared cache, or downloaded into it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "hub/repository.h"
#include "hub/selection.h"
#include "hub/settings.h"

namespace hlwq {

struct PullOptions {
  FileSet files = FileSet::kModel;
  std::vector<std::string> include;  ///< shell patterns: these files and no others
  int connections = 8;               ///< at a time, for a large file
};

struct PullResult {
  struct File {
    std::string name;
    uint64_t size = 0;
    bool fetched = false;  ///< now, at least in part
  };
  std::filesystem::path path;  ///< of the model: the snapshot, or what `sub` names in it
  std::string commit;
  std::vector<File> files;
  uint64_t received = 0;  ///< bytes over the network
};

/// Downloads what is missing. Progress gets bytes of all files. Throws Error: kNotFound, kDenied, kNetwork,
/// kNoSpace, kIo, kInvalidFile, kInvalidArgument, kUnsupported, kCancelled; offline kNotFound for what is not
/// in the cache.
PullResult pull(const HubSettings& settings, const Repository& repository, const PullOptions& options,
                const Progress& progress);

/// Where the cache has the model whole (or its config, for kNoWeights). Makes no connection.
std::optional<std::filesystem::path> find_cached(const HubSettings& settings, const Repository& repository,
                                                 FileSet files);

}  // namespace hlwq
