#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>

#include "hlwq/error.h"

namespace hlwq {
namespace {

constexpr size_t kMaxBody = 64u << 20, kMaxErrorBody = 64u << 10, kMaxHeaders = 1u << 20;
constexpr int kMaxRedirects = 10;

struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlDeleter>;

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string copy = text;
  curl_free(text);
  return copy;
}

/// "https://host:443", in lower case; empty for what is no URL.
std::string origin_of(const std::string& text) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) return "";
  std::string origin = url_part(url.get(), CURLUPART_SCHEME) + "://" + url_part(url.get(), CURLUPART_HOST) +
                       ":" + url_part(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
  std::transform(origin.begin(), origin.end(), origin.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return origin;
}

/// `location` as seen from `base`; empty when that makes no URL.
std::string resolved(const std::string& base, const std::string& location) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK)
    return "";
  return url_part(url.get(), CURLUPART_URL);
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/// A certificate that does not fit or a URL that is none: the same tomorrow.
bool lasts(CURLcode code) {
  return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
         code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_OUT_OF_MEMORY ||
         code == CURLE_COULDNT_RESOLVE_PROXY;
}

template <typename Value>
void set(CURL* curl, CURLoption option, Value value) {
  if (curl_easy_setopt(curl, option, value) != CURLE_OK)
    throw Error(ErrorCode::kUnsupported,
                "libcurl refuses an option that this build needs; 7.85 or newer is wanted");
}

}  // namespace

/// What libcurl's callbacks see of one request. No exception may pass through C, so they wait here.
struct HttpClient::Hop {
  using Clock = std::chrono::steady_clock;
  const HttpRequest& request;
  const HttpOptions& options;
  CURL* curl;
  HttpResponse response = {};
  size_t header_bytes = 0;
  bool began = false, too_long = false, stalled = false;
  curl_off_t moved = 0;
  Clock::time_point last_moved = Clock::now();
  std::exception_ptr thrown = nullptr;

  static size_t on_header(char* data, size_t, size_t size, void* self) {
    Hop& hop = *static_cast<Hop*>(self);
    if ((hop.header_bytes += size) > kMaxHeaders) return 0;
    const std::string_view line(data, size);
    if (line.starts_with("HTTP/")) hop.response.headers.clear();  // of an interim or proxy answer
    const size_t colon = line.find(':');
    if (colon == line.npos) return size;
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    std::string_view text = line.substr(colon + 1);
    const size_t first = text.find_first_not_of(" \t\r\n");
    hop.response.headers[name] =
        first == text.npos ? ""
                           : std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
    return size;
  }

  static size_t on_body(char* data, size_t, size_t size, void* self) {
    Hop& hop = *static_cast<Hop*>(self);
    try {
      curl_easy_getinfo(hop.curl, CURLINFO_RESPONSE_CODE, &hop.response.status);
      const bool good = hop.response.status >= 200 && hop.response.status < 300;
      if (good) hop.begin();
      if (good && hop.request.sink) {
        hop.request.sink({data, size});
        return size;
      }
      const size_t limit = good ? kMaxBody : kMaxErrorBody;
      if (hop.response.body.size() + size > limit) {
        hop.too_long = good;
        return good ? 0 : size;
      }
      hop.response.body.append(data, size);
      return size;
    } catch (...) {
      hop.thrown = std::current_exception();
      return 0;
    }
  }

  /// At least once a second. libcurl's own low-speed limit averages over seconds and sees a stall late.
  static int on_progress(void* self, curl_off_t, curl_off_t received, curl_off_t, curl_off_t sent) {
    Hop& hop = *static_cast<Hop*>(self);
    try {
      if (hop.options.abort && hop.options.abort()) hop.response.aborted = true;
    } catch (...) {
      hop.thrown = std::current_exception();
      return 1;
    }
    const auto now = Clock::now();
    if (const curl_off_t moved = received + sent; moved != hop.moved) {
      hop.moved = moved;
      hop.last_moved = now;
    }
    hop.stalled = std::chrono::duration<double>(now - hop.last_moved).count() > hop.options.stall_timeout;
    return hop.response.aborted || hop.stalled;
  }

  void begin() {
    if (began) return;
    began = true;
    if (request.begin) request.begin(response);
  }
};

std::string HttpResponse::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

HttpClient::HttpClient(HttpOptions options) : options_(std::move(options)) {
  // Counted by libcurl, and safe in any thread since 7.84.
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    throw Error(ErrorCode::kNetwork, "libcurl cannot be initialised");
  curl_ = curl_easy_init();
  if (!curl_) {
    curl_global_cleanup();
    throw Error(ErrorCode::kOutOfMemory, "no memory for a connection");
  }
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(curl_);
  curl_global_cleanup();
}

bool HttpClient::trusted(const std::string& url) const {
  const std::string origin = origin_of(url);
  return !origin.empty() && origin == origin_of(options_.origin);
}

HttpResponse HttpClient::send(const HttpRequest& request) {
  std::string url = request.url;
  for (int redirects = 0;; ++redirects) {
    HttpResponse response = hop(request, url);
    response.url = url;
    if (!response.failure.empty() || !is_redirect(response.status)) return response;
    const std::string next = resolved(url, response.header("location"));
    const bool web =
        next.starts_with("https://") || (next.starts_with("http://") && url.starts_with("http://"));
    if (next.empty() || !web || redirects == kMaxRedirects) {
      response.failure =
          redirects == kMaxRedirects ? "more than 10 redirects" : "a redirect to no (secure) web address";
      response.lasting = true;
      return response;
    }
    if (!request.leave_origin && !trusted(next)) return response;
    url = next;
  }
}

HttpResponse HttpClient::hop(const HttpRequest& request, const std::string& url) {
  CURL* curl = curl_;
  curl_easy_reset(curl);  // keeps connections
  Hop state{.request = request, .options = options_, .curl = curl};
  std::array<char, CURL_ERROR_SIZE> message{};

  curl_slist* list = nullptr;
  const auto add = [&list](const std::string& line) {
    curl_slist* longer = curl_slist_append(list, line.c_str());
    if (!longer) throw Error(ErrorCode::kOutOfMemory, "no memory for a request");
    list = longer;
  };
  struct ListGuard {
    curl_slist*& list;
    ~ListGuard() { curl_slist_free_all(list); }
  } guard{list};
  for (const auto& [name, text] : request.headers) add(name + ": " + text);
  add("Accept-Encoding: identity");  // sizes and ranges are those of the file
  if (!options_.token.empty() && trusted(url)) add("Authorization: Bearer " + options_.token);

  set(curl, CURLOPT_URL, url.c_str());
  set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  set(curl, CURLOPT_FOLLOWLOCATION, 0L);
  set(curl, CURLOPT_NOSIGNAL, 1L);
  set(curl, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set(curl, CURLOPT_HTTPHEADER, list);
  set(curl, CURLOPT_USERAGENT, options_.user_agent.c_str());
  set(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.answer_timeout * 1000));
  set(curl, CURLOPT_BUFFERSIZE, 256L << 10);
  set(curl, CURLOPT_ERRORBUFFER, message.data());
  set(curl, CURLOPT_HEADERFUNCTION, &Hop::on_header);
  set(curl, CURLOPT_HEADERDATA, &state);
  set(curl, CURLOPT_WRITEFUNCTION, &Hop::on_body);
  set(curl, CURLOPT_WRITEDATA, &state);
  set(curl, CURLOPT_NOPROGRESS, 0L);
  set(curl, CURLOPT_XFERINFOFUNCTION, &Hop::on_progress);
  set(curl, CURLOPT_XFERINFODATA, &state);
  if (request.head) set(curl, CURLOPT_NOBODY, 1L);
  if (!options_.ca_file.empty()) set(curl, CURLOPT_CAINFO, options_.ca_file.c_str());

  const CURLcode code = curl_easy_perform(curl);
  if (state.thrown) std::rethrow_exception(state.thrown);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &state.response.status);
  if (code != CURLE_OK) {
    state.response.failure = state.too_long ? "an answer of more than 64 MiB"
                             : state.stalled
                                 ? "no byte came for too long"
                                 : std::string(message[0] ? message.data() : curl_easy_strerror(code));
    state.response.lasting = state.too_long || lasts(code);
  } else if (state.response.ok()) {
    state.begin();  // an empty body
  }
  return std::move(state.response);
}

}  // namespace hlwq
