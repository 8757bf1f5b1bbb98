#include "hub/hub_client.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/json.h"

namespace hlwq {
namespace {

constexpr uint64_t kMaxFile = 1ull << 44;  // 16 TiB: beyond is no model but a mistake

std::string without_quotes(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return etag;
}

std::optional<uint64_t> number(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != text.npos)
    return std::nullopt;
  return std::stoull(text);
}

}  // namespace

const Listing::File* Listing::find(const std::string& name) const {
  const auto it = std::find_if(files.begin(), files.end(), [&](const File& f) { return f.name == name; });
  return it == files.end() ? nullptr : &*it;
}

bool Retries::wait(const std::string& retry_after) {
  if (left_-- <= 0) return false;
  double pause = pause_;
  if (const auto asked = number(retry_after))
    pause = std::clamp<double>(static_cast<double>(*asked), pause, 60);
  pause_ = std::min(pause_ * 2, 8.0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(pause);
  while (std::chrono::steady_clock::now() < end) {
    if (abort_ && abort_()) throw Error(ErrorCode::kCancelled, "interrupted");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

bool temporary(long status) { return status == 408 || status == 429 || status >= 500; }

HubClient::HubClient(const HubSettings& settings, std::function<bool()> abort)
    : settings_(settings),
      options_{settings.endpoint,         settings.token,          settings.user_agent,
               settings.ca_file.string(), settings.answer_timeout, settings.download_timeout,
               std::move(abort)},
      http_(options_) {}

HttpResponse HubClient::ask(const HttpRequest& request) {
  Retries retries(3, options_.abort);
  for (;;) {
    HttpResponse response = http_.send(request);
    if (response.aborted) throw Error(ErrorCode::kCancelled, "interrupted");
    const bool again = response.failure.empty() ? temporary(response.status) : !response.lasting;
    if (!again || !retries.wait(response.header("retry-after"))) return response;
  }
}

Listing HubClient::list(const Repository& repository) {
  std::string revision = url_path(repository.revision);
  for (size_t i; (i = revision.find('/')) != revision.npos;) revision.replace(i, 1, "%2F");
  HttpRequest request;
  request.url =
      settings_.endpoint + "/api/models/" + url_path(repository.id) + "/revision/" + revision + "?blobs=true";
  const HttpResponse response = ask(request);
  if (!response.ok()) refuse(response, repository.text(), "revision " + repository.revision);

  const std::string what = "the answer of " + settings_.endpoint + " about " + repository.id;
  const Json json = parse_json(response.body, what, {.max_bytes = 64u << 20, .max_depth = 32});
  const auto bad = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidFile, what + ": " + why + "; is HF_ENDPOINT a Hugging Face Hub?");
  };
  Listing listing;
  if (!json.is_object() || !json.contains("sha") || !json["sha"].is_string()) bad("no commit");
  listing.commit = json["sha"].get<std::string>();
  if (!is_commit(listing.commit)) bad("'" + listing.commit + "' is no commit");
  if (!json.contains("siblings") || !json["siblings"].is_array()) bad("no list of files");
  for (const Json& entry : json["siblings"]) {
    if (!entry.is_object() || !entry.contains("rfilename") || !entry["rfilename"].is_string())
      bad("a file without a name");
    Listing::File file;
    file.name = entry["rfilename"].get<std::string>();
    if (!safe_relative_path(file.name))
      bad("the repository has a file whose name would leave its directory ('" + file.name + "')");
    if (const auto size = entry.find("size"); size != entry.end() && size->is_number_unsigned())
      file.size = size->get<uint64_t>();
    listing.files.push_back(std::move(file));
  }
  return listing;
}

RemoteFile HubClient::look_up(const Repository& repository, const std::string& commit,
                              const Listing::File& file) {
  RemoteFile remote;
  remote.name = file.name;
  remote.url =
      settings_.endpoint + "/" + url_path(repository.id) + "/resolve/" + commit + "/" + url_path(file.name);
  HttpRequest request;
  request.url = remote.url;
  request.head = true;
  request.leave_origin = false;  // the Hub's own answer has the hash, the storage behind it does not
  const HttpResponse response = ask(request);
  const bool redirect = response.failure.empty() && response.status >= 300 && response.status < 400;
  if (!response.ok() && !redirect) refuse(response, repository.text(), file.name);

  const auto bad = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidFile, file.name + " of " + repository.text() + ": " + why);
  };
  if (const std::string told = response.header("x-repo-commit"); !told.empty() && told != commit)
    bad("the server answers for the commit " + told + ", not " + commit);
  std::string etag = response.header("x-linked-etag");
  if (etag.empty()) etag = response.header("etag");
  remote.etag = without_quotes(etag);
  if (!safe_etag(remote.etag))
    bad("the server names no hash (ETag '" + etag + "'); is HF_ENDPOINT a Hugging Face Hub?");
  std::optional<uint64_t> size = number(response.header("x-linked-size"));
  if (!size && !redirect) size = number(response.header("content-length"));
  if (!size) size = file.size;
  if (!size || *size > kMaxFile) bad("the server does not say how long it is");
  if (file.size && *file.size != *size)
    bad("the list of files says " + std::to_string(*file.size) + " bytes, the file's own answer " +
        std::to_string(*size));
  remote.size = *size;
  return remote;
}

void HubClient::refuse(const HttpResponse& response, const std::string& repository,
                       const std::string& what) const {
  const std::string& host = settings_.endpoint;
  if (!response.failure.empty())
    throw Error(ErrorCode::kNetwork, "cannot reach " + host + " for " + what + " of " + repository + ": " +
                                         response.failure +
                                         "; check the connection (HF_HUB_OFFLINE=1 works from the cache)");
  const std::string code = response.header("x-error-code"), message = response.header("x-error-message");
  const bool token = !settings_.token.empty();
  if (code == "RevisionNotFound")
    throw Error(ErrorCode::kNotFound, repository + " has no such revision at " + host);
  if (code == "EntryNotFound") throw Error(ErrorCode::kNotFound, repository + " has no file " + what);
  if (code == "GatedRepo" || response.status == 403)
    throw Error(
        ErrorCode::kDenied,
        repository + (code == "GatedRepo" ? " is gated: accept its terms at " : " may not be read: see ") +
            host + "/" + repository.substr(0, repository.find('@')) +
            (token ? " with the account of your token" : ", then set HF_TOKEN to a token of that account") +
            (message.empty() ? "" : " (the server says: " + message + ")"));
  if (response.status == 401 && token)
    throw Error(ErrorCode::kDenied,
                host + " does not accept the token for " + repository +
                    ", or there is no such repository; make a new token and set HF_TOKEN");
  if (response.status == 401)  // the Hub's answer for what is private and for what does not exist
    throw Error(ErrorCode::kDenied, host + " shows no repository " + repository +
                                        " without a token: check the name, or set HF_TOKEN if it is private");
  if (response.status == 404)
    throw Error(ErrorCode::kNotFound, "there is no " + what + " of " + repository + " at " + host +
                                          "; check the spelling (private repositories need HF_TOKEN)");
  throw Error(temporary(response.status) ? ErrorCode::kNetwork : ErrorCode::kInvalidFile,
              host + " answers " + std::to_string(response.status) + " for " + what + " of " + repository +
                  (message.empty() ? "" : ": " + message) +
                  (response.status == 429 ? "; it is asked too often, try again later" : ""));
}

}  // namespace hlwq
