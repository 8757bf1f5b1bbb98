// Files: whole reads with a limit, read-only maps, and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "hlwq/error.h"

namespace hlwq {

/// The whole file as bytes. Throws Error(kNotFound | kIo), or kInvalidFile over max_bytes.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes = 1ull << 32);

/// A read-only, shared memory map of a regular file. Movable; unmapped on destruction.
class MappedFile {
 public:
  /// Throws Error(kNotFound | kIo); an empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Tells the kernel that these bytes will not be needed soon, so that streaming stays small.
  void drop(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Writes to `path.tmp-PID` and renames on commit(); destroyed before commit, nothing is left.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;

  /// Appends. Throws Error(kIo) that names the file and the reason (a full disk, say).
  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes written before, at `offset`.
  void write_at(uint64_t offset, const void* data, size_t size);
  uint64_t size() const { return size_; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

/// A directory built under a temporary name beside `path` and renamed on commit().
/// Destroyed before commit, the temporary directory and its files are removed.
class AtomicDirectory {
 public:
  /// Throws Error(kInvalidArgument) when `path` exists and is not an empty directory, unless `replace`.
  AtomicDirectory(const std::filesystem::path& path, bool replace);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path final_, temporary_;
  bool replace_, committed_ = false;
};

}  // namespace hlwq
