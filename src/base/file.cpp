#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace hlwq {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& doing, const fs::path& path) {
  const int reason = errno;
  const ErrorCode code = reason == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  throw Error(code, doing + " " + path.string() + ": " + std::strerror(reason));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

uint64_t open_regular(const fs::path& path, Descriptor& d) {
  d.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (d.fd < 0) fail("cannot open", path);
  struct stat st;
  if (::fstat(d.fd, &st) != 0) fail("cannot stat", path);
  if (!S_ISREG(st.st_mode)) throw Error(ErrorCode::kInvalidFile, path.string() + " is not a regular file");
  return static_cast<uint64_t>(st.st_size);
}

}  // namespace

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  Descriptor d{-1};
  const uint64_t size = open_regular(path, d);
  if (size > max_bytes)
    throw Error(ErrorCode::kInvalidFile, path.string() + " has " + std::to_string(size) +
                                             " bytes, over the limit of " + std::to_string(max_bytes));
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(d.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read", path);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  Descriptor d{-1};
  size_ = open_regular(path, d);
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, d.fd, 0);
  if (p == MAP_FAILED) fail("cannot map", path);
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop(std::span<const std::byte> part) const {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size()) / page * page;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

AtomicFile::AtomicFile(const fs::path& path)
    : path_(path), temporary_(path.string() + ".tmp-" + std::to_string(::getpid())) {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot create", temporary_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) {
  write_at(size_, data, size);
  size_ += size;
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t size) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(fd_, p, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot write", path_);
    p += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail("cannot flush", path_);
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) {
    ::unlink(temporary_.c_str());
    fail("cannot close", path_);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    ::unlink(temporary_.c_str());
    fail("cannot rename to", path_);
  }
}

AtomicDirectory::AtomicDirectory(const fs::path& path, bool replace) : replace_(replace) {
  std::error_code ignored;
  final_ = fs::absolute(path).lexically_normal();
  if (final_.filename().empty()) final_ = final_.parent_path();
  if (fs::exists(final_, ignored) && !replace && !(fs::is_directory(final_) && fs::is_empty(final_)))
    throw Error(ErrorCode::kInvalidArgument,
                path.string() + " exists and is not empty; choose another directory or say to replace it");
  temporary_ = final_.string() + ".tmp-" + std::to_string(::getpid());
  fs::remove_all(temporary_, ignored);
  std::error_code ec;
  fs::create_directories(temporary_, ec);
  if (ec) throw Error(ErrorCode::kIo, "cannot create " + temporary_.string() + ": " + ec.message());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  std::error_code ec;
  const fs::path old = final_.string() + ".old-" + std::to_string(::getpid());
  const bool had_old = fs::exists(final_);
  if (had_old && !replace_ && !(fs::is_directory(final_) && fs::is_empty(final_)))
    throw Error(ErrorCode::kIo,
                final_.string() + " appeared while it was being written; nothing was replaced");
  if (had_old) {
    fs::rename(final_, old, ec);
    if (ec) throw Error(ErrorCode::kIo, "cannot move aside " + final_.string() + ": " + ec.message());
  }
  fs::rename(temporary_, final_, ec);
  if (ec) {
    const std::string reason = ec.message();
    if (had_old) fs::rename(old, final_, ec);
    throw Error(ErrorCode::kIo, "cannot rename to " + final_.string() + ": " + reason);
  }
  committed_ = true;
  if (had_old) fs::remove_all(old, ec);
}

}  // namespace hlwq
