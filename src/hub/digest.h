// SHA-256 of large files, and the hash by which git names small ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/progress.h"

namespace hlwq {

class Digest {
 public:
  enum class Kind { kSha1, kSha256 };
  explicit Digest(Kind kind);
  ~Digest();
  void update(std::string_view bytes);
  std::string hex();  ///< once, at the end

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Whether an ETag is a hash of the content: 64 hexadecimal digits (SHA-256) or 40 (git's SHA-1 of a blob).
bool is_content_hash(std::string_view etag);

/// Whether the file's content has the hash that `etag` is. `progress` gets bytes, and `what`.
bool content_matches(const std::filesystem::path& path, const std::string& etag, const Progress& progress,
                     const std::string& what);

}  // namespace hlwq
