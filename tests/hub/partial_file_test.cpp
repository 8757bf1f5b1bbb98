#include "hub/partial_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "hlwq/error.h"
#include "hub/digest.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

class PartialFileTest : public testing::Test {
 protected:
  fs::path path_ = fs::path(testing::TempDir()) / "partial-file";
  void SetUp() override { fs::remove(path_); }
};

TEST_F(PartialFileTest, GoesOnWhereItWas) {
  {
    PartialFile part(path_, 10, 4);
    ASSERT_EQ(part.chunks(), 3u);
    EXPECT_EQ(part.length(2), 2u);
    part.write(2, "ij");
    part.write(0, "abc");
    part.set_validator("\"v1\"");
    EXPECT_THROW(part.write(0, "de"), Error);  // more than the chunk
  }
  PartialFile part(path_, 10, 9999);  // the chunks are those of the first run
  EXPECT_EQ(part.validator(), "\"v1\"");
  EXPECT_EQ(part.done(), 5u);
  part.write(0, "d");
  part.write(1, "ef");
  part.write(1, "gh");
  EXPECT_EQ(part.done(), 10u);
  part.finish();
  EXPECT_EQ(read_file(path_), "abcdefghij");
  EXPECT_EQ(PartialFile(path_, 10, 4).done(), 10u);  // killed between finish and rename
}

TEST_F(PartialFileTest, BeginsAnewWhenTheFileIsAnother) {
  { PartialFile(path_, 10, 4).write(0, "abcd"); }
  { EXPECT_EQ(PartialFile(path_, 11, 4).done(), 0u); }
  for (const uint64_t cut : {5u, 12u, 100u, 250u}) {  // inside the content, the trailer's head and its list
    { PartialFile(path_, 10, 4).write(0, "abcd"); }
    fs::resize_file(path_, cut);
    EXPECT_EQ(PartialFile(path_, 10, 4).done(), 0u) << cut;
    fs::remove(path_);
  }
  std::ofstream(path_) << std::string(1000, 'x');
  EXPECT_EQ(PartialFile(path_, 10, 4).done(), 0u);
}

TEST_F(PartialFileTest, HoldsNothing) {
  PartialFile part(path_, 0, 4);
  EXPECT_EQ(part.chunks(), 0u);
  part.finish();
  EXPECT_EQ(read_file(path_), "");
}

TEST_F(PartialFileTest, HashesAreThoseOfShaAndGit) {
  std::ofstream(path_) << "hello\n";
  EXPECT_TRUE(
      content_matches(path_, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", {}, ""));
  EXPECT_TRUE(content_matches(path_, "ce013625030ba8dba906f756967f9e9ca394464a", {}, ""));  // git hash-object
  EXPECT_FALSE(content_matches(path_, "ce013625030ba8dba906f756967f9e9ca394464b", {}, ""));
  EXPECT_FALSE(is_content_hash("\"ce01\""));
  EXPECT_FALSE(is_content_hash(std::string(64, 'G')));
}

}  // namespace
}  // namespace hlwq
