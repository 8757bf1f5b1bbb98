#include "hub/repository.h"

#include <gtest/gtest.h>

#include "hlwq/error.h"

namespace hlwq {
namespace {

TEST(Repository, ReadsIdRevisionAndFolder) {
  const auto parts = [](const char* text) {
    const auto r = parse_repository(text);
    return r ? r->id + "|" + r->revision + "|" + r->sub : "none";
  };
  EXPECT_EQ(parts("google/gemma-4-31B-it"), "google/gemma-4-31B-it|main|");
  EXPECT_EQ(parts("hf://o/n/"), "o/n|main|");
  EXPECT_EQ(parts("o/n@v1.0"), "o/n|v1.0|");
  EXPECT_EQ(parts("o/n/sub/file.gguf"), "o/n|main|sub/file.gguf");
  EXPECT_EQ(parts("o/n@refs/pr/12/PQ5"), "o/n|refs/pr/12|PQ5");
  EXPECT_EQ(parts("o/n@feature%2Fx/PQ5"), "o/n|feature/x|PQ5");
  for (const char* none : {"", "model", "./o/n", "/o/n", "../n", "o", "o/", "o/..", "o--x/n", "o/-n",
                           "o/n.git", "a b/c", "https://huggingface.co/o/n", "~/models", "C:\\o\\n"})
    EXPECT_EQ(parts(none), "none") << none;
}

TEST(Repository, RefusesWhatLeavesItsFolder) {
  for (const char* text :
       {"o/n@../x", "o/n@", "o/n@a%2F..%2Fb", "o/n/../x", "o/n/a//b", "o/n/a\\b", "o/n@a%00b"})
    EXPECT_THROW(parse_repository(text), Error) << text;
}

TEST(Repository, NamesThatMayBecomePaths) {
  for (const char* good : {"a", "a/b.json", "...", "a/..b", ".gitattributes", "Ünï/x y"})
    EXPECT_TRUE(safe_relative_path(good));
  for (const std::string& bad :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string("."),
        std::string("a/./b"), std::string("../a"), std::string("a\\b"), std::string("C:x"),
        std::string("a\0b", 3), std::string("a\nb"), std::string(300, 'x'), std::string(2000, '/')})
    EXPECT_FALSE(safe_relative_path(bad)) << bad;
  EXPECT_TRUE(safe_etag("0a-1_2.x"));
  for (const char* bad : {"", ".x", "a/b", "a\"b", "..", "W/\"x\""}) EXPECT_FALSE(safe_etag(bad));
}

TEST(Repository, UrlPathsAreEscaped) { EXPECT_EQ(url_path("a b/ü?#%"), "a%20b/%C3%BC%3F%23%25"); }

}  // namespace
}  // namespace hlwq
