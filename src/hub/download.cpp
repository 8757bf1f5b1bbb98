#include "hub/download.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "hub/digest.h"
#include "hub/partial_file.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSmallestChunk = 4u << 20, kLargestChunk = 64u << 20;
constexpr uint64_t kLongCheck = 256u << 20;
constexpr int kAttempts = 6;  // in a row without a byte

/// What was received so far cannot be gone on with.
struct Restart {
  bool whole;  ///< the server knows no ranges
};

/// Four chunks a connection, so that none waits long for the last one.
uint64_t chunk_size(uint64_t size, int connections) {
  if (connections <= 1 || size <= 2 * kSmallestChunk) return 0;
  return std::clamp(size / (4 * static_cast<uint64_t>(connections)), kSmallestChunk, kLargestChunk) >>
         16 << 16;
}

void check_space(const PartialFile& part) {
  struct statvfs disk;
  if (::statvfs(part.path().c_str(), &disk) != 0) return;
  const uint64_t free = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize,
                 needed = part.size() - part.done();
  if (needed > free)
    throw Error(ErrorCode::kNoSpace, "no room for " + part.path().parent_path().string() + ": " +
                                         std::to_string(needed) + " bytes are still to come and " +
                                         std::to_string(free) +
                                         " are free; free some, or choose another disk with HF_HUB_CACHE");
}

class Fetch {
 public:
  Fetch(const HubClient& hub, const std::string& repository, const RemoteFile& file, PartialFile& part,
        TransferMeter& meter)
      : hub_(hub), repository_(repository), file_(file), part_(part), meter_(meter) {}

  void run(int connections) {
    std::vector<std::thread> threads;
    const auto n = std::min<uint64_t>(static_cast<uint64_t>(connections), part_.chunks());
    for (uint64_t i = 1; i < n; ++i) threads.emplace_back([this] { work(); });
    work();
    for (std::thread& t : threads) t.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work() {
    try {
      HttpOptions options = hub_.http_options();
      options.abort = [this] { return stop_ || (hub_.abort() && hub_.abort()()); };
      HttpClient http(options);
      for (uint64_t i; !stop_ && (i = next_++) < part_.chunks();) chunk(http, options.abort, i);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
  }

  void chunk(HttpClient& http, const std::function<bool()>& abort, uint64_t i) {
    Retries retries(kAttempts, abort);
    while (part_.done(i) < part_.length(i)) {
      const uint64_t before = part_.done(i);
      const HttpResponse response = http.send(request(i));
      if (response.aborted) throw Error(ErrorCode::kCancelled, "interrupted");
      if (part_.done(i) > before) retries.reset();
      if (response.ok() && part_.done(i) == part_.length(i)) return;
      if (response.failure.empty() && response.status == 416) throw Restart{false};
      const bool again =
          response.failure.empty() ? response.ok() || temporary(response.status) : !response.lasting;
      if (again && retries.wait(response.header("retry-after"))) continue;
      if (response.ok())
        throw Error(ErrorCode::kNetwork,
                    "the server ends " + file_.name + " of " + repository_ + " too early");
      hub_.refuse(response, repository_, file_.name);
    }
  }

  HttpRequest request(uint64_t i) {
    const uint64_t first = part_.begin(i) + part_.done(i), last = part_.begin(i) + part_.length(i) - 1;
    const bool whole = first == 0 && last + 1 == part_.size();
    HttpRequest r;
    r.url = file_.url;
    if (!whole) {
      r.headers.emplace_back("Range", "bytes=" + std::to_string(first) + "-" + std::to_string(last));
      if (const std::string v = part_.validator(); !v.empty()) r.headers.emplace_back("If-Range", v);
    }
    r.begin = [this, first, whole](const HttpResponse& response) { check(response, first, whole); };
    r.sink = [this, i](std::string_view bytes) {
      part_.write(i, bytes);
      meter_.add(bytes.size(), file_.name);
    };
    return r;
  }

  /// Before any byte is taken: are these the bytes that were asked for, of the same version?
  void check(const HttpResponse& response, uint64_t first, bool whole) {
    const std::string etag = response.header("etag");
    const bool strong = !etag.empty() && !etag.starts_with("W/");
    if (response.status == 206) {
      const std::string want = "bytes " + std::to_string(first) + "-",
                        range = response.header("content-range");
      const std::string total = "/" + std::to_string(part_.size());
      if (!range.starts_with(want) || !(range.ends_with(total) || range.ends_with("/*")))
        throw Restart{false};
    } else if (!whole) {
      throw Restart{part_.validator().empty() || etag == part_.validator()};  // no ranges, or another version
    }
    if (strong && !part_.validator().empty() && etag != part_.validator()) throw Restart{false};
    if (strong && part_.validator().empty()) part_.set_validator(etag);
  }

  const HubClient& hub_;
  const std::string& repository_;
  const RemoteFile& file_;
  PartialFile& part_;
  TransferMeter& meter_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void TransferMeter::expect(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  total_ += bytes;
}

void TransferMeter::skip(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
}

void TransferMeter::add(uint64_t bytes, const std::string& what) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  received_ += bytes;
  progress_.step(done_, std::max(total_, done_), what);
}

void TransferMeter::take_back(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ -= std::min(done_, bytes);
}

void download(const HubClient& hub, const std::string& repository, const RemoteFile& file,
              const fs::path& destination, int connections, TransferMeter& meter, const Progress& progress) {
  const fs::path temporary = destination.string() + ".hlwq.incomplete";
  uint64_t chunk = chunk_size(file.size, connections);
  PartialFile part(temporary, file.size, chunk);
  check_space(part);
  meter.skip(part.done());
  for (int attempt = 0;; ++attempt) {
    std::string why = "its content does not have the hash that the Hub tells";
    try {
      Fetch(hub, repository, file, part, meter).run(connections);
      part.finish();
      // Small files are checked before anybody could look.
      const Progress checking{file.size >= kLongCheck ? progress.report : nullptr, progress.cancelled};
      if (!is_content_hash(file.etag) ||
          content_matches(temporary, file.etag, checking, "checking " + file.name))
        break;
    } catch (const Restart& restart) {
      why = restart.whole ? "the server sends it only as a whole"
                          : "the server sends other bytes than it was asked for";
      if (restart.whole) chunk = 0;
    }
    meter.take_back(part.done());
    part.restart(chunk);
    if (attempt == 2) {
      std::error_code ec;
      fs::remove(temporary, ec);
      throw Error(ErrorCode::kInvalidFile, file.name + " of " + repository + " cannot be downloaded: " + why);
    }
  }
  std::error_code ec;
  fs::rename(temporary, destination, ec);
  if (ec) throw Error(ErrorCode::kIo, "cannot rename " + temporary.string() + ": " + ec.message());
}

}  // namespace hlwq
