// Small files for tests: a directory that cleans up after itself, and builders of (deliberately wrong)
// containers.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>

#include "hlwq/error.h"

namespace hlwq {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(HLWQ_TEST_DATA) / "golden" / "io" / name;
}

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hlwq-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("cannot make a temporary directory");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::span<const std::byte> as_bytes(std::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

/// Little-endian bytes of a number.
template <class T>
std::string le(T value) {
  std::string s(sizeof value, '\0');
  std::memcpy(s.data(), &value, sizeof value);
  return s;
}

/// A safetensors file: length field, header text, data.
inline std::string safetensors_file(const std::string& header, size_t data_bytes) {
  return le<uint64_t>(header.size()) + header + std::string(data_bytes, '\1');
}

/// GGUF pieces; counts are the caller's so that they can lie.
struct GgufBuilder {
  std::string pairs, infos;
  uint64_t pair_count = 0, tensor_count = 0;
  uint32_t version = 3;

  static std::string str(std::string_view s) { return le<uint64_t>(s.size()) + std::string(s); }
  GgufBuilder& pair(std::string_view key, uint32_t type, const std::string& value) {
    pairs += str(key) + le(type) + value;
    ++pair_count;
    return *this;
  }
  GgufBuilder& string(std::string_view key, std::string_view value) { return pair(key, 8, str(value)); }
  GgufBuilder& u32(std::string_view key, uint32_t value) { return pair(key, 4, le(value)); }
  GgufBuilder& f32(std::string_view key, float value) { return pair(key, 6, le(value)); }
  /// dims innermost first, as the format stores them.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    infos += str(name) + le(static_cast<uint32_t>(dims.size()));
    for (uint64_t d : dims) infos += le(d);
    infos += le(type) + le(offset);
    ++tensor_count;
    return *this;
  }
  std::string build(size_t data_bytes, size_t alignment = 32) const {
    std::string s = "GGUF" + le(version) + le(tensor_count) + le(pair_count) + pairs + infos;
    if (tensor_count > 0) s.append((alignment - s.size() % alignment) % alignment, '\0');
    return s + std::string(data_bytes, '\1');
  }
};

/// Runs `work`, which must throw an Error with `code` whose message has `part` in it.
inline void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& work,
                         const std::string& what = "") {
  try {
    work();
    ADD_FAILURE() << what << " no error; expected one with '" << part << "'";
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << what << " " << e.what();
    EXPECT_THAT(std::string(e.what()), testing::HasSubstr(part)) << what;
  }
}

}  // namespace hlwq
