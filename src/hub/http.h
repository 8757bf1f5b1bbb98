// HTTP(S) requests over libcurl. Redirects are followed here, hop by hop, because a token must not travel to
// another host and some answers end at the redirect itself.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hlwq {

struct HttpOptions {
  std::string origin, token;  ///< the token goes with requests to this URL's scheme, host and port alone
  std::string user_agent;
  std::string ca_file;          ///< trusted certificates; empty: the system's
  double answer_timeout = 10;   ///< seconds to connect
  double stall_timeout = 10;    ///< seconds without a byte
  std::function<bool()> abort;  ///< polled during transfers; may be empty
};

struct HttpResponse {
  long status = 0;                             ///< 0: there was no answer, `failure` says why
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;                            ///< unless it went to the sink
  std::string url;                             ///< after redirects
  std::string failure;                         ///< what broke the transfer, also after an answer began
  bool lasting = false;                        ///< with `failure`: trying again will not help
  bool aborted = false;

  bool ok() const { return failure.empty() && status >= 200 && status < 300; }
  std::string header(const std::string& lower_case_name) const;
};

struct HttpRequest {
  std::string url;
  bool head = false;
  bool leave_origin = true;  ///< follow redirects to other hosts too; else their answer is the result
  std::vector<std::pair<std::string, std::string>> headers;
  /// Called once when a 2xx answer's headers are there, before its body. Exceptions pass through.
  std::function<void(const HttpResponse&)> begin;
  std::function<void(std::string_view)> sink;  ///< gets the body of a 2xx answer. Exceptions pass through.
};

/// One connection that is kept between requests; for one thread at a time.
class HttpClient {
 public:
  explicit HttpClient(HttpOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;

  /// Does not throw for what a server or network does; see HttpResponse. Bodies without a sink end at 64 MiB.
  HttpResponse send(const HttpRequest& request);

 private:
  struct Hop;
  HttpResponse hop(const HttpRequest& request, const std::string& url);
  bool trusted(const std::string& url) const;

  HttpOptions options_;
  void* curl_;
};

}  // namespace hlwq
