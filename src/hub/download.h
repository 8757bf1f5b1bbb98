// One content from a server into the cache: resumed, in parallel ranges, checked.
#pragma once

#include <filesystem>
#include <mutex>
#include <string>

#include "base/progress.h"
#include "hub/hub_client.h"

namespace hlwq {

/// Bytes of all files of a pull together; for several threads.
class TransferMeter {
 public:
  explicit TransferMeter(const Progress& progress) : progress_(progress) {}
  void expect(uint64_t bytes);  ///< so many more will be needed
  void skip(uint64_t bytes);    ///< so many of them were there before
  /// Throws Error(kCancelled).
  void add(uint64_t bytes, const std::string& what);
  void take_back(uint64_t bytes);  ///< they must be fetched again
  uint64_t received() const { return received_; }

 private:
  const Progress& progress_;
  std::mutex mutex_;
  uint64_t total_ = 0, done_ = 0, received_ = 0;
};

/// Fetches `file` to `destination` over up to `connections` connections. What is there of it in
/// `destination`.hlwq.incomplete is not fetched again. Retries what may pass; throws Error: kNetwork,
/// kDenied, kNotFound, kNoSpace, kIo, kCancelled, and kInvalidFile when the content is not what its hash
/// says. The caller holds the file's lock.
void download(const HubClient& hub, const std::string& repository, const RemoteFile& file,
              const std::filesystem::path& destination, int connections, TransferMeter& meter,
              const Progress& progress);

}  // namespace hlwq
