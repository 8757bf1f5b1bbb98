#include "hub/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <numeric>

#include "hlwq/error.h"

namespace hlwq {
namespace {

/// The trailer's head; one uint64_t a chunk follows. For one machine's own use: no fixed byte order.
struct Head {
  char magic[8];
  uint64_t size, chunk, chunks;
  char validator[224];
};
constexpr char kMagic[8] = {'h', 'l', 'w', 'q', 'p', 'a', 'r', '1'};

[[noreturn]] void fail(const std::string& doing, const std::filesystem::path& path) {
  const int reason = errno;
  const bool full = reason == ENOSPC || reason == EDQUOT;
  throw Error(full ? ErrorCode::kNoSpace : ErrorCode::kIo,
              "cannot " + doing + " " + path.string() + ": " + std::strerror(reason) +
                  (full ? "; free some space and run the command again, it goes on where it stopped" : ""));
}

bool get(int fd, uint64_t offset, void* data, size_t size) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = ::pread(fd, bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

PartialFile::PartialFile(const std::filesystem::path& path, uint64_t size, uint64_t chunk)
    : path_(path), size_(size) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("open", path_);
  try {
    if (!resume()) create(chunk);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

PartialFile::~PartialFile() { ::close(fd_); }

uint64_t PartialFile::length(uint64_t i) const { return std::min(chunk_, size_ - begin(i)); }

uint64_t PartialFile::done() const { return std::accumulate(done_.begin(), done_.end(), uint64_t{0}); }

bool PartialFile::resume() {
  struct stat st;
  if (::fstat(fd_, &st) != 0) fail("stat", path_);
  if (size_ > 0 && static_cast<uint64_t>(st.st_size) == size_) {  // killed after finish()
    chunk_ = size_;
    done_ = {size_};
    return true;
  }
  Head head;
  if (!get(fd_, size_, &head, sizeof head) || std::memcmp(head.magic, kMagic, sizeof kMagic) != 0 ||
      head.size != size_ || head.chunk == 0 || head.chunks != (size_ + head.chunk - 1) / head.chunk ||
      static_cast<uint64_t>(st.st_size) != size_ + sizeof head + head.chunks * sizeof(uint64_t))
    return false;
  chunk_ = head.chunk;
  done_.resize(head.chunks);
  if (!get(fd_, size_ + sizeof head, done_.data(), done_.size() * sizeof(uint64_t))) return false;
  for (uint64_t i = 0; i < done_.size(); ++i)
    if (done_[i] > length(i)) return false;
  head.validator[sizeof head.validator - 1] = 0;
  validator_ = head.validator;
  return true;
}

void PartialFile::create(uint64_t chunk) {
  chunk_ = chunk == 0 ? std::max<uint64_t>(size_, 1) : chunk;
  done_.assign((size_ + chunk_ - 1) / chunk_, 0);
  validator_.clear();
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.size = size_;
  head.chunk = chunk_;
  head.chunks = done_.size();
  if (::ftruncate(fd_, 0) != 0) fail("write", path_);
  put(size_ + sizeof head, done_.data(), done_.size() * sizeof(uint64_t));
  put(size_, &head, sizeof head);
}

void PartialFile::restart(uint64_t chunk) { create(chunk); }

void PartialFile::put(uint64_t offset, const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(fd_, bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path_);
    bytes += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
}

void PartialFile::write(uint64_t i, std::string_view bytes) {
  if (bytes.size() > length(i) - done_[i])
    throw Error(ErrorCode::kInvalidFile,
                "the server sends more than it was asked for (" + path_.string() + ")");
  put(begin(i) + done_[i], bytes.data(), bytes.size());
  const uint64_t now = done_[i] + bytes.size();
  put(size_ + sizeof(Head) + i * sizeof now, &now, sizeof now);
  done_[i] = now;
}

std::string PartialFile::validator() const {
  const std::lock_guard lock(mutex_);
  return validator_;
}

void PartialFile::set_validator(const std::string& validator) {
  if (validator.size() >= sizeof Head::validator) return;
  const std::lock_guard lock(mutex_);
  validator_ = validator;
  put(size_ + offsetof(Head, validator), validator_.c_str(), validator_.size() + 1);
}

void PartialFile::finish() {
  if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0) fail("cut", path_);
  if (::fdatasync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail("write", path_);
}

}  // namespace hlwq
