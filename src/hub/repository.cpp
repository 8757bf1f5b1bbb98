#include "hub/repository.h"

#include <algorithm>
#include <cstdint>

#include "hlwq/error.h"

namespace hlwq {
namespace {

constexpr size_t kMaxPath = 1024, kMaxPart = 255, kMaxId = 96;

bool alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool hexadecimal(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/// The Hub's own rule for the two parts of an id.
bool id_part(std::string_view part) {
  if (part.empty() || part.find("--") != part.npos || part.find("..") != part.npos) return false;
  for (const char end : {part.front(), part.back()})
    if (end == '-' || end == '.') return false;
  return std::all_of(part.begin(), part.end(),
                     [](char c) { return alphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hexadecimal(text[i + 1]) && hexadecimal(text[i + 2])) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// Where the revision that `text` begins with ends.
size_t revision_end(std::string_view text) {
  size_t end = text.find('/');
  if (text.starts_with("refs/pr/") || text.starts_with("refs/convert/"))
    end = text.find('/', text.find('/', 5) + 1);
  return end;
}

}  // namespace

std::string Repository::text() const {
  std::string all = id;
  if (revision != "main") all += "@" + revision;
  return sub.empty() ? all : all + "/" + sub;
}

std::optional<Repository> parse_repository(std::string_view text) {
  const std::string typed(text);
  if (text.starts_with("hf://")) text.remove_prefix(5);
  while (text.ends_with('/')) text.remove_suffix(1);
  const size_t slash = text.find('/');
  if (slash == text.npos) return std::nullopt;
  const size_t end = std::min(text.find_first_of("@/", slash + 1), text.size());
  Repository r;
  r.id = text.substr(0, end);
  if (r.id.size() > kMaxId || r.id.ends_with(".git") || !id_part(text.substr(0, slash)) ||
      !id_part(text.substr(slash + 1, end - slash - 1)))
    return std::nullopt;
  std::string_view rest = text.substr(end);
  if (rest.starts_with('@')) {
    rest.remove_prefix(1);
    const size_t stop = std::min(revision_end(rest), rest.size());
    r.revision = percent_decoded(rest.substr(0, stop));
    rest.remove_prefix(stop);
  }
  if (rest.starts_with('/')) rest.remove_prefix(1);
  r.sub = rest;
  if (!safe_relative_path(r.revision) || (!r.sub.empty() && !safe_relative_path(r.sub)))
    throw Error(ErrorCode::kInvalidArgument,
                "'" + typed + "': want owner/name[@revision][/folder or file], without empty parts or '..'");
  return r;
}

bool safe_relative_path(std::string_view name) {
  if (name.empty() || name.size() > kMaxPath || (name.size() > 1 && name[1] == ':')) return false;
  for (const char c : name)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > kMaxPart) return false;
    begin = end + 1;
  }
  return true;
}

bool is_commit(std::string_view revision) {
  return revision.size() == 40 && std::all_of(revision.begin(), revision.end(), hexadecimal);
}

bool safe_etag(std::string_view etag) {
  // Room for the endings of locks and partial files.
  return !etag.empty() && etag.size() <= 200 && etag[0] != '.' &&
         std::all_of(etag.begin(), etag.end(),
                     [](char c) { return alphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

std::string url_path(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (alphanumeric(c) || c == '-' || c == '_' || c == '.' || c == '~' || c == '/') {
      out += c;
    } else {
      const auto byte = static_cast<uint8_t>(c);
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

}  // namespace hlwq
