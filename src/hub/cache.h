// The shared Hugging Face cache on disk, as huggingface_hub lays it out:
//   models--OWNER--NAME/blobs/ETAG                 contents
//                      /snapshots/COMMIT/FILE      relative symlinks to them (or the contents themselves)
//                      /refs/REVISION              the commit of a branch or tag
//   .locks/models--OWNER--NAME/ETAG.lock           held (flock) while a content is being written
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/progress.h"

namespace hlwq {

/// An advisory lock on a file, the one that huggingface_hub takes too.
class FileLock {
 public:
  /// Waits for another holder; `progress` is told and can cancel. Throws Error(kIo | kCancelled).
  FileLock(const std::filesystem::path& path, const Progress& progress);
  ~FileLock();
  FileLock(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

class HubCache {
 public:
  HubCache(std::filesystem::path root, const std::string& id, bool symlinks);

  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path lock(const std::string& etag) const;

  /// The commit that a revision stood for when it was last looked up; a commit is itself.
  std::optional<std::string> commit(const std::string& revision) const;
  /// Does nothing when it says so already, so that a read-only cache works.
  void remember(const std::string& revision, const std::string& commit) const;

  /// Makes the directories of a download. Throws Error(kIo).
  void prepare() const;
  /// Puts a content into a snapshot: a relative symlink, or where there are none the content itself: moved
  /// there when it is `fresh`, else copied.
  void link(const std::string& etag, const std::string& commit, const std::string& file, bool fresh) const;

 private:
  std::filesystem::path root_, folder_;
  bool symlinks_;
};

}  // namespace hlwq
