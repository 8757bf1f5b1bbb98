#include "hub/pull.h"

#include <algorithm>

#include "base/file.h"
#include "hub/cache.h"
#include "hub/download.h"
#include "hub/hub_client.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

constexpr uint64_t kMaxIndex = 256u << 20;

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Every file below a directory, with '/' between.
Names names_below(const fs::path& root) {
  Names names;
  std::error_code ec;
  for (fs::recursive_directory_iterator it(root, ec), end; !ec && it != end; it.increment(ec))
    if (std::error_code ignored; fs::is_regular_file(it->path(), ignored))
      names.push_back(it->path().lexically_relative(root).generic_string());
  std::sort(names.begin(), names.end());
  return names;
}

bool has_config(const Names& names, const std::string& sub) {
  const std::string folder = folder_of(names, sub);
  return contains(names, "config.json") || contains(names, folder + "/config.json");
}

/// The weights, with the index read from where the snapshot is.
Names weights(const Names& names, const Repository& repository, const fs::path& snapshot) {
  std::optional<std::string> index;
  if (const auto name = index_name(names, repository.sub)) index = read_file(snapshot / *name, kMaxIndex);
  return weight_names(names, repository.sub, index, repository.text());
}

class Pull {
 public:
  Pull(const HubSettings& settings, const Repository& repository, const PullOptions& options,
       const Progress& progress)
      : repository_(repository),
        options_(options),
        progress_(progress),
        cache_(settings.cache, repository.id, settings.symlinks),
        hub_(settings, [this] { return progress_.cancelled && *progress_.cancelled; }),
        meter_(progress) {}

  PullResult run() {
    listing_ = hub_.list(repository_);
    for (const Listing::File& f : listing_.files) names_.push_back(f.name);
    snapshot_ = cache_.snapshot(listing_.commit);
    if (!options_.include.empty()) {
      const Names wanted = matching(names_, options_.include);
      if (wanted.empty())
        throw Error(ErrorCode::kNotFound, repository_.text() + " has no file that --include names");
      fetch(wanted);
    } else if (options_.files == FileSet::kAll) {
      fetch(names_);
    } else {
      fetch_model();
    }
    cache_.remember(repository_.revision, listing_.commit);
    result_.path = repository_.sub.empty() ? snapshot_ : snapshot_ / repository_.sub;
    result_.commit = listing_.commit;
    result_.received = meter_.received();
    return std::move(result_);
  }

 private:
  /// Weights last: a snapshot that has them has all.
  void fetch_model() {
    const bool indexed = index_name(names_, repository_.sub).has_value();
    // What cannot be told before the index is here must not keep refusals for later than the first byte.
    if (!indexed) weights(names_, repository_, snapshot_);
    fetch(side_file_names(names_, repository_.sub));
    if (options_.files == FileSet::kModel || !has_config(names_, repository_.sub))
      fetch(weights(names_, repository_, snapshot_));
  }

  void fetch(const Names& names) {
    std::vector<RemoteFile> missing;
    for (const std::string& name : names) {
      const Listing::File& listed = *listing_.find(name);
      std::error_code ec;
      const uint64_t there = fs::file_size(snapshot_ / name, ec);
      if (!ec && there == listed.size.value_or(there)) {
        result_.files.push_back({name, there, false});
        continue;
      }
      if (!ec) fs::remove(snapshot_ / name, ec);
      missing.push_back(hub_.look_up(repository_, listing_.commit, listed));
      meter_.expect(missing.back().size);
    }
    if (missing.empty()) return;
    cache_.prepare();
    for (const RemoteFile& file : missing) fetch(file);
  }

  void fetch(const RemoteFile& file) {
    const FileLock lock(cache_.lock(file.etag), progress_);
    std::error_code ec;
    const fs::path blob = cache_.blob(file.etag);
    const bool there = fs::file_size(blob, ec) == file.size && !ec;
    if (there)
      meter_.skip(file.size);
    else
      download(hub_, repository_.text(), file, blob, options_.connections, meter_, progress_);
    cache_.link(file.etag, listing_.commit, file.name, !there);
    result_.files.push_back({file.name, file.size, !there});
  }

  const Repository& repository_;
  const PullOptions& options_;
  const Progress& progress_;
  HubCache cache_;
  HubClient hub_;
  TransferMeter meter_;
  Listing listing_;
  Names names_;
  fs::path snapshot_;
  PullResult result_;
};

PullResult from_cache(const HubSettings& settings, const Repository& repository, const PullOptions& options) {
  const HubCache cache(settings.cache, repository.id, settings.symlinks);
  const auto path = find_cached(settings, repository, options.files);
  const auto commit = cache.commit(repository.revision);
  if (!path || !commit)
    throw Error(ErrorCode::kNotFound, repository.text() + " is not (wholly) in the cache " +
                                          settings.cache.string() +
                                          ", and HF_HUB_OFFLINE forbids to download it");
  PullResult result;
  result.path = *path;
  result.commit = *commit;
  for (const std::string& name : names_below(cache.snapshot(*commit)))
    result.files.push_back({name, fs::file_size(cache.snapshot(*commit) / name), false});
  return result;
}

}  // namespace

PullResult pull(const HubSettings& settings, const Repository& repository, const PullOptions& options,
                const Progress& progress) {
  if (settings.offline) return from_cache(settings, repository, options);
  return Pull(settings, repository, options, progress).run();
}

std::optional<fs::path> find_cached(const HubSettings& settings, const Repository& repository,
                                    FileSet files) {
  const HubCache cache(settings.cache, repository.id, settings.symlinks);
  const auto commit = cache.commit(repository.revision);
  if (!commit) return std::nullopt;
  const fs::path snapshot = cache.snapshot(*commit);
  const Names names = names_below(snapshot);
  const bool config = has_config(names, repository.sub);
  if (names.empty()) return std::nullopt;
  try {
    if (files != FileSet::kNoWeights || !config) {
      const Names found = weights(names, repository, snapshot);
      if (!config && !found[0].ends_with(".gguf")) return std::nullopt;
    }
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kInvalidArgument) throw;  // several could be meant
    return std::nullopt;
  }
  return repository.sub.empty() ? snapshot : snapshot / repository.sub;
}

}  // namespace hlwq
