#include "hub/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <vector>

namespace hlwq {

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
  static void check(int ok) {
    if (ok != 1) throw Error(ErrorCode::kUnsupported, "libcrypto cannot compute this hash");
  }
};

Digest::Digest(Kind kind) : state_(std::make_unique<State>()) {
  if (!state_->context) throw Error(ErrorCode::kOutOfMemory, "no memory for a hash");
  State::check(EVP_DigestInit_ex(state_->context, kind == Kind::kSha1 ? EVP_sha1() : EVP_sha256(), nullptr));
}

Digest::~Digest() = default;

void Digest::update(std::string_view bytes) {
  State::check(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()));
}

std::string Digest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw;
  unsigned size = 0;
  State::check(EVP_DigestFinal_ex(state_->context, raw.data(), &size));
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += {kDigits[raw[i] >> 4], kDigits[raw[i] & 15]};
  return text;
}

bool is_content_hash(std::string_view etag) {
  return (etag.size() == 64 || etag.size() == 40) &&
         std::all_of(etag.begin(), etag.end(),
                     [](unsigned char c) { return std::isxdigit(c) && !std::isupper(c); });
}

bool content_matches(const std::filesystem::path& path, const std::string& etag, const Progress& progress,
                     const std::string& what) {
  const bool git = etag.size() == 40;
  const uint64_t size = std::filesystem::file_size(path);
  Digest digest(git ? Digest::Kind::kSha1 : Digest::Kind::kSha256);
  if (git) {
    const std::string head = "blob " + std::to_string(size);
    digest.update({head.c_str(), head.size() + 1});  // with its final NUL
  }
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  uint64_t done = 0;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    digest.update({buffer.data(), static_cast<size_t>(in.gcount())});
    progress.step(done += static_cast<uint64_t>(in.gcount()), size, what);
  }
  if (done != size) throw Error(ErrorCode::kIo, "cannot read " + path.string());
  return digest.hex() == etag;
}

}  // namespace hlwq
