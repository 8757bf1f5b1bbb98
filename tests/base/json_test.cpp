// JSON keeps its limits whatever the text, and says where it is wrong.
#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hlwq {
namespace {

void refuses(const std::string& part, std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "f.json", limits);
    ADD_FAILURE() << "no error for " << text.substr(0, 60);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidFile);
    EXPECT_THAT(e.what(), testing::HasSubstr("f.json"));
    EXPECT_THAT(e.what(), testing::HasSubstr(part));
  }
}

TEST(ParseJson, ParsesAndKeepsOrderWhereAsked) {
  EXPECT_EQ(parse_json(R"({"b": [1, "x", null], "a": 2.5})", "f")["b"][1], "x");
  EXPECT_EQ(parse_ordered_json(R"({"b": 1, "a": 2})", "f").dump(), R"({"b":1,"a":2})");
  EXPECT_EQ(parse_json(R"({"b": 1, "a": 2})", "f").dump(), R"({"a":2,"b":1})");
}

TEST(ParseJson, RefusesMalformedText) {
  for (const char* text :
       {"", "{", "[1,]", "{\"a\":}", "nul", "\"\xff\"", "1 2", "{'a':1}", "[1e999]", "\"\\", "]", "\""})
    refuses("valid JSON", text);
}

TEST(ParseJson, RefusesDepthBeforeRecursing) {
  JsonLimits limits;
  limits.max_depth = 3;
  EXPECT_EQ(parse_json("[[[1]]]", "f", limits)[0][0][0], 1);
  EXPECT_EQ(parse_json("[[[1]],[[2]],{\"a\":{}}]", "f", limits).size(), 3u);
  EXPECT_EQ(parse_json(R"(["[[[[[[", "\"{{{{"])", "f", limits).size(),
            2u);  // brackets in strings do not count
  refuses("nested deeper than 3", "[[[[1]]]]", limits);
  refuses("nested deeper than 3", R"({"a":{"a":{"a":{}}}})", limits);
  refuses("nested deeper than 64", std::string(10'000'000, '['));
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  refuses("nested deeper than 64", objects);
}

TEST(ParseJson, RefusesSize) {
  JsonLimits limits;
  limits.max_bytes = 10;
  EXPECT_EQ(parse_json("[1,2,3,44]", "f", limits).size(), 4u);
  refuses("over the limit of 10", "[1,2,3,444]", limits);
}

TEST(ReadOrderedJson, NamesAMissingFile) {
  try {
    read_ordered_json("/no/such/file.json");
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNotFound);
    EXPECT_THAT(e.what(), testing::HasSubstr("/no/such/file.json"));
  }
}

}  // namespace
}  // namespace hlwq
