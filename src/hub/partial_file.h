// A file that arrives in pieces, in any order, over any number of runs. Behind the content's place lies a
// trailer that says how much of each chunk is there; it is written after the bytes it speaks of, so that a
// kill at any moment loses at most what was on its way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq {

class PartialFile {
 public:
  /// Goes on with the file at `path` when it is one of this size, else begins anew in chunks of `chunk` bytes
  /// (0: one chunk). Throws Error(kIo | kNoSpace).
  PartialFile(const std::filesystem::path& path, uint64_t size, uint64_t chunk);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;

  uint64_t size() const { return size_; }
  uint64_t chunks() const { return done_.size(); }
  uint64_t begin(uint64_t i) const { return i * chunk_; }
  uint64_t length(uint64_t i) const;
  uint64_t done(uint64_t i) const { return done_[i]; }
  uint64_t done() const;  ///< of all chunks
  const std::filesystem::path& path() const { return path_; }

  /// Appends to chunk i, never past its end. Different chunks may be written by different threads.
  void write(uint64_t i, std::string_view bytes);
  /// The server's name for this version of the content (ETag), empty while unknown.
  std::string validator() const;
  void set_validator(const std::string& validator);
  /// Forgets everything and begins anew.
  void restart(uint64_t chunk);
  /// Cuts the trailer off and writes everything to the disk; for a file that is complete.
  void finish();

 private:
  void create(uint64_t chunk);
  bool resume();
  void put(uint64_t offset, const void* data, size_t size);

  std::filesystem::path path_;
  uint64_t size_, chunk_ = 0;
  std::vector<uint64_t> done_;
  std::string validator_;
  mutable std::mutex mutex_;  // of validator_
  int fd_ = -1;
};

}  // namespace hlwq
