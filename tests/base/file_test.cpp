// Files appear whole or not at all; maps and reads keep their limits.
#include "base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

namespace hlwq {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "hlwq-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& e : fs::directory_iterator(dir_)) all.push_back(e.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  void put(const fs::path& name, std::string_view text) const { std::ofstream(dir_ / name) << text; }

  template <class Work>
  static ErrorCode code_of(Work&& work) {
    try {
      work();
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::kCancelled;
  }

  fs::path dir_;
};

using Names = std::vector<std::string>;

TEST_F(FileTest, ReadFileReadsWithinItsLimit) {
  put("a", "hello");
  EXPECT_EQ(read_file(dir_ / "a"), "hello");
  EXPECT_EQ(read_file(dir_ / "a", 5), "hello");
  EXPECT_EQ(code_of([&] { read_file(dir_ / "a", 4); }), ErrorCode::kInvalidFile);
  EXPECT_EQ(code_of([&] { read_file(dir_ / "b"); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { read_file(dir_); }), ErrorCode::kInvalidFile);
}

TEST_F(FileTest, MappedFileShowsTheBytes) {
  const std::string text(100000, 'x');
  put("a", text);
  put("empty", "");
  MappedFile a(dir_ / "a");
  MappedFile moved(std::move(a));
  EXPECT_TRUE(a.bytes().empty());
  ASSERT_EQ(moved.bytes().size(), text.size());
  EXPECT_EQ(std::memcmp(moved.bytes().data(), text.data(), text.size()), 0);
  moved.drop(moved.bytes());
  moved.drop(moved.bytes().subspan(5, 10));  // less than a page: nothing to drop
  EXPECT_EQ(std::memcmp(moved.bytes().data(), text.data(), text.size()), 0);
  EXPECT_TRUE(MappedFile(dir_ / "empty").bytes().empty());
  EXPECT_EQ(code_of([&] { MappedFile(dir_ / "absent"); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { MappedFile map(dir_); }), ErrorCode::kInvalidFile);
}

TEST_F(FileTest, AtomicFileAppearsOnCommit) {
  put("a", "old");
  {
    AtomicFile file(dir_ / "a");
    file.write("hello world");
    EXPECT_EQ(file.size(), 11u);
    file.write_at(0, "J", 1);
    EXPECT_EQ(file.size(), 11u);
    EXPECT_EQ(read_file(dir_ / "a"), "old");
    file.commit();
  }
  EXPECT_EQ(read_file(dir_ / "a"), "Jello world");
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(FileTest, AtomicFileLeavesNothingOnAnException) {
  put("a", "old");
  EXPECT_THROW(
      {
        AtomicFile file(dir_ / "a");
        file.write("half");
        throw std::runtime_error("stop");
      },
      std::runtime_error);
  EXPECT_EQ(names(), Names{"a"});
  EXPECT_EQ(read_file(dir_ / "a"), "old");
  EXPECT_EQ(code_of([&] { AtomicFile(dir_ / "no" / "b"); }), ErrorCode::kNotFound);
  fs::create_directory(dir_ / "d");
  put("d/x", "");
  EXPECT_EQ(code_of([&] { AtomicFile(dir_ / "d").commit(); }), ErrorCode::kIo);  // cannot replace a directory
  EXPECT_EQ(names(), (Names{"a", "d"}));
}

TEST_F(FileTest, AtomicDirectoryAppearsOnCommit) {
  AtomicDirectory made(dir_ / "out", false);
  std::ofstream(made.path() / "f") << "x";
  EXPECT_FALSE(fs::exists(dir_ / "out"));
  made.commit();
  EXPECT_EQ(names(), Names{"out"});
  EXPECT_EQ(read_file(dir_ / "out" / "f"), "x");
}

TEST_F(FileTest, AtomicDirectoryLeavesNothingOnAnException) {
  EXPECT_THROW(
      {
        AtomicDirectory made(dir_ / "out", false);
        fs::create_directory(made.path() / "sub");
        std::ofstream(made.path() / "sub" / "f") << "x";
        throw std::runtime_error("stop");
      },
      std::runtime_error);
  EXPECT_TRUE(names().empty());
}

TEST_F(FileTest, AtomicDirectoryDoesNotReplaceWhatAppearedMeanwhile) {
  AtomicDirectory made(dir_ / "out", false);
  std::filesystem::create_directory(dir_ / "out");
  std::ofstream(dir_ / "out" / "precious") << "x";
  EXPECT_EQ(code_of([&] { made.commit(); }), ErrorCode::kIo);
  EXPECT_TRUE(std::filesystem::exists(dir_ / "out" / "precious"));
}

TEST_F(FileTest, AtomicDirectoryReplacesOnlyWhenAsked) {
  fs::create_directory(dir_ / "out");
  put("out/old", "old");
  EXPECT_EQ(code_of([&] { AtomicDirectory(dir_ / "out", false); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(read_file(dir_ / "out" / "old"), "old");
  {
    AtomicDirectory abandoned(dir_ / "out", true);
    EXPECT_EQ(read_file(dir_ / "out" / "old"), "old");
  }
  EXPECT_EQ(read_file(dir_ / "out" / "old"), "old");
  {
    AtomicDirectory made(dir_ / "out/", true);
    std::ofstream(made.path() / "new") << "new";
    made.commit();
  }
  EXPECT_EQ(names(), Names{"out"});
  EXPECT_FALSE(fs::exists(dir_ / "out" / "old"));
  EXPECT_EQ(read_file(dir_ / "out" / "new"), "new");
  fs::create_directory(dir_ / "empty");
  AtomicDirectory(dir_ / "empty", false).commit();
  EXPECT_EQ(names(), (Names{"empty", "out"}));
}

}  // namespace
}  // namespace hlwq
