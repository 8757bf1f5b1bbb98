// What the Hub answers about a repository and its files, and what its refusals mean.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "hub/http.h"
#include "hub/repository.h"
#include "hub/settings.h"

namespace hlwq {

/// A repository at one commit.
struct Listing {
  struct File {
    std::string name;
    std::optional<uint64_t> size;
  };
  std::string commit;
  std::vector<File> files;

  const File* find(const std::string& name) const;
};

struct RemoteFile {
  std::string name, url, etag;  ///< etag: SHA-256 of large files, git's SHA-1 of small ones
  uint64_t size = 0;
};

/// Waits longer each time; throws what the last failure was when it has been enough.
class Retries {
 public:
  Retries(int attempts, const std::function<bool()>& abort)
      : left_(attempts - 1), attempts_(attempts), abort_(abort) {}
  /// True after a pause; false when no attempt is left. Throws Error(kCancelled).
  bool wait(const std::string& retry_after = "");
  void reset() { left_ = attempts_ - 1, pause_ = 0.5; }

 private:
  int left_, attempts_;
  double pause_ = 0.5;
  const std::function<bool()>& abort_;
};

/// Statuses that may be gone the next time: 408, 429 and 5xx.
bool temporary(long status);

class HubClient {
 public:
  HubClient(const HubSettings& settings, std::function<bool()> abort);

  /// The files of `repository` at its revision. Throws Error(kNotFound | kDenied | kNetwork | kInvalidFile).
  Listing list(const Repository& repository);
  /// Hash and size of a file, as the cache names it. Throws as list() does.
  RemoteFile look_up(const Repository& repository, const std::string& commit, const Listing::File& file);
  /// A client for one more thread.
  HttpOptions http_options() const { return options_; }
  const std::function<bool()>& abort() const { return options_.abort; }

  /// Throws what a failed answer means; `what` names what was asked for.
  [[noreturn]] void refuse(const HttpResponse& response, const std::string& repository,
                           const std::string& what) const;

 private:
  HttpResponse ask(const HttpRequest& request);

  const HubSettings& settings_;
  HttpOptions options_;
  HttpClient http_;
};

}  // namespace hlwq
