// What a person types for a repository, and which names from a server may become paths.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hlwq {

/// owner/name[@revision][/sub]
struct Repository {
  std::string id;                 ///< "owner/name"
  std::string revision = "main";  ///< branch, tag, commit, or refs/pr/N
  std::string sub;                ///< folder or file inside, "" for the whole

  std::string text() const;  ///< as it would be typed
};

/// Nothing when `text` is no repository id. A '/' inside a revision is written %2F, but for refs/pr/N and
/// refs/convert/NAME; "hf://" in front is allowed. Throws Error(kInvalidArgument) for an id whose revision or
/// folder could leave its directory.
std::optional<Repository> parse_repository(std::string_view text);

/// Whether a name may be joined to a directory: relative, no empty part, "." or "..", no backslash, drive
/// letter or control character, no part or whole that file systems refuse.
bool safe_relative_path(std::string_view name);

/// 40 hexadecimal digits.
bool is_commit(std::string_view revision);

/// Whether an ETag may be a file name: letters, digits, '-', '_' and '.' only, not starting with a dot.
bool safe_etag(std::string_view etag);

/// For a URL's path: everything but unreserved characters and '/' as %XX.
std::string url_path(std::string_view text);

}  // namespace hlwq
