#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/file.h"
#include "hub/repository.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

std::string folder_name(const std::string& id) {
  std::string name = "models--" + id;
  name.replace(name.find('/'), 1, "--");
  return name;
}

void make_directory(const fs::path& path) {
  std::error_code ec;
  fs::create_directories(path, ec);
  if (ec)
    throw Error(ec == std::errc::no_space_on_device ? ErrorCode::kNoSpace : ErrorCode::kIo,
                "cannot make the directory " + path.string() + ": " + ec.message() +
                    "; HF_HUB_CACHE chooses another place for the cache");
}

}  // namespace

FileLock::FileLock(const fs::path& path, const Progress& progress) {
  for (;;) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) throw Error(ErrorCode::kIo, "cannot open " + path.string() + ": " + std::strerror(errno));
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR)
        return;  // no locks here: like huggingface_hub, go on without
      try {
        progress.step(0, 0, "waiting for another download of the same file");
      } catch (...) {
        ::close(fd_);
        throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    struct stat st;
    if (::fstat(fd_, &st) == 0 && st.st_nlink > 0) return;
    ::close(fd_);  // the last holder removed the file: lock the one that is there now
  }
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

HubCache::HubCache(fs::path root, const std::string& id, bool symlinks)
    : root_(std::move(root)), folder_(root_ / folder_name(id)), symlinks_(symlinks) {}

fs::path HubCache::lock(const std::string& etag) const {
  return root_ / ".locks" / folder_.filename() / (etag + ".lock");
}

std::optional<std::string> HubCache::commit(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const fs::path file = folder_ / "refs" / revision;
  std::error_code ec;
  if (!fs::is_regular_file(file, ec)) return std::nullopt;
  std::string text = read_file(file, 4096);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  if (!is_commit(text)) return std::nullopt;
  return text;
}

void HubCache::remember(const std::string& revision, const std::string& id) const {
  if (revision == id || commit(revision) == id) return;
  const fs::path file = folder_ / "refs" / revision;
  make_directory(file.parent_path());
  AtomicFile out(file);
  out.write(id);
  out.commit();
}

void HubCache::prepare() const {
  make_directory(folder_ / "blobs");
  make_directory(folder_ / "snapshots");
  make_directory(root_ / ".locks" / folder_.filename());
  // Tells backup programs to leave the cache out (bford.info/cachedir).
  const fs::path tag = root_ / "CACHEDIR.TAG";
  if (std::error_code ec; fs::exists(tag, ec)) return;
  AtomicFile out(tag);
  out.write(
      "Signature: 8a477f597d28d172789f06886806bc55\n# Hugging Face cache: models can be downloaded again.\n");
  out.commit();
}

void HubCache::link(const std::string& etag, const std::string& commit, const std::string& file,
                    bool fresh) const {
  const fs::path pointer = snapshot(commit) / file;
  if (std::error_code ec; fs::exists(pointer, ec)) return;
  make_directory(pointer.parent_path());
  // Under another name first: what appears in a snapshot is whole, and a dangling link is replaced.
  const fs::path temporary = pointer.string() + ".tmp-" + std::to_string(::getpid());
  std::error_code ec;
  fs::remove(temporary, ec);
  ec = std::make_error_code(std::errc::operation_not_supported);
  if (symlinks_) fs::create_symlink(blob(etag).lexically_relative(pointer.parent_path()), temporary, ec);
  if (ec && fresh) {
    fs::rename(blob(etag), temporary, ec);
  } else if (ec) {
    ec.clear();
    fs::copy_file(blob(etag), temporary, ec);
  }
  if (!ec) fs::rename(temporary, pointer, ec);
  if (ec) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw Error(ec == std::errc::no_space_on_device ? ErrorCode::kNoSpace : ErrorCode::kIo,
                "cannot put " + pointer.string() + " into the cache: " + ec.message());
  }
}

}  // namespace hlwq
