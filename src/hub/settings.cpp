#include "hub/settings.h"

#include <algorithm>
#include <cstdlib>

#include "base/file.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

std::string value(const Environment& environment, const std::string& name) {
  return environment(name).value_or("");
}

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? c - 32 : c; });
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

bool name_character(char c) {
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// "~" in front, $NAME and ${NAME}; unknown names stay.
std::string expanded(const std::string& text, const Environment& environment) {
  std::string out;
  size_t i = 0;
  if (text == "~" || text.starts_with("~/")) {
    out = value(environment, "HOME");
    i = 1;
  }
  while (i < text.size()) {
    const bool braces = text.compare(i, 2, "${") == 0;
    const size_t begin = i + (braces ? 2 : 1);
    size_t end = begin;
    while (text[i] == '$' && end < text.size() && name_character(text[end])) ++end;
    const bool closed = !braces || (end < text.size() && text[end] == '}');
    const auto known =
        text[i] == '$' && end > begin && closed ? environment(text.substr(begin, end - begin)) : std::nullopt;
    if (known) {
      out += *known;
      i = end + braces;
    } else {
      out += text[i++];
    }
  }
  return out;
}

fs::path path_of(const Environment& environment, std::initializer_list<const char*> names,
                 const fs::path& otherwise) {
  for (const char* name : names)
    if (const std::string text = value(environment, name); !text.empty()) return expanded(text, environment);
  return otherwise;
}

double seconds(const Environment& environment, const char* name, double otherwise) {
  const std::string text = value(environment, name);
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == 0 && number > 0 && number < 86400 ? number : otherwise;
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == text.npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::string find_token(const Environment& environment, const fs::path& home) {
  if (is_true(value(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return "";
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
    if (const std::string token = trimmed(value(environment, name)); !token.empty()) return token;
  const fs::path file = path_of(environment, {"HF_TOKEN_PATH"}, home / "token");
  std::error_code ec;
  return fs::is_regular_file(file, ec) ? trimmed(read_file(file, 1 << 16)) : "";
}

}  // namespace

HubSettings hub_settings(const Environment& environment) {
  HubSettings s;
  const fs::path user_cache = path_of(environment, {"XDG_CACHE_HOME"}, expanded("~/.cache", environment));
  const fs::path home = path_of(environment, {"HF_HOME"}, user_cache / "huggingface");
  s.cache = path_of(environment, {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}, home / "hub");
  if (const std::string endpoint = trimmed(value(environment, "HF_ENDPOINT")); !endpoint.empty())
    s.endpoint = endpoint;
  while (s.endpoint.ends_with('/')) s.endpoint.pop_back();
  if (!s.endpoint.starts_with("https://") && !s.endpoint.starts_with("http://"))
    throw Error(ErrorCode::kInvalidArgument, "HF_ENDPOINT is '" + s.endpoint + "', not an http(s) URL");
  s.token = find_token(environment, home);
  for (const char c : s.token)
    if (c <= 0x20 || c == 0x7f)
      throw Error(ErrorCode::kInvalidArgument,
                  "the Hugging Face token has characters that no token has; set HF_TOKEN or log in anew");
  s.offline =
      is_true(value(environment, "HF_HUB_OFFLINE")) || is_true(value(environment, "TRANSFORMERS_OFFLINE"));
  s.symlinks = !is_true(value(environment, "HF_HUB_DISABLE_SYMLINKS"));
  s.answer_timeout = seconds(environment, "HF_HUB_ETAG_TIMEOUT", s.answer_timeout);
  s.download_timeout = seconds(environment, "HF_HUB_DOWNLOAD_TIMEOUT", s.download_timeout);
  s.ca_file = path_of(environment, {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}, {});
  return s;
}

}  // namespace hlwq
