#include "hub/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hlwq/error.h"

namespace hlwq {
namespace {

using testing::ElementsAre;
using Names = std::vector<std::string>;

Names chosen(const Names& names, const std::string& sub = "") {
  return weight_names(names, sub, std::nullopt, "o/n");
}

ErrorCode refused(const Names& names, const std::string& sub = "") {
  try {
    chosen(names, sub);
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "not refused";
  return {};
}

TEST(Selection, TakesTheModelItself) {
  EXPECT_THAT(chosen({"model.safetensors", "onnx/model.onnx", "pytorch_model.bin", "x.gguf"}),
              ElementsAre("model.safetensors"));
  EXPECT_THAT(chosen({"model.safetensors", "consolidated.safetensors"}), ElementsAre("model.safetensors"));
  EXPECT_THAT(chosen({"a/model.safetensors", "b/model.safetensors"}, "b"),
              ElementsAre("b/model.safetensors"));
  EXPECT_THAT(chosen({"m-Q4-00001-of-00002.gguf", "m-Q4-00002-of-00002.gguf", "mmproj.gguf"}),
              ElementsAre("m-Q4-00001-of-00002.gguf", "m-Q4-00002-of-00002.gguf"));
  EXPECT_THAT(chosen({"a.gguf", "b.gguf"}, "b.gguf"), ElementsAre("b.gguf"));
}

TEST(Selection, TakesTheShardsOfTheIndex) {
  const Names names{"s1.safetensors", "s2.safetensors", "other.safetensors", "model.safetensors.index.json"};
  const std::string index =
      R"({"weight_map": {"b": "s2.safetensors", "a": "s1.safetensors", "c": "s2.safetensors"}})";
  EXPECT_THAT(weight_names(names, "", index, "o/n"), ElementsAre("s1.safetensors", "s2.safetensors"));
  for (const char* bad :
       {R"({"weight_map": {"a": "../../x"}})", R"({"weight_map": {"a": "s3.safetensors"}})", R"({})", "["})
    EXPECT_THROW(weight_names(names, "", std::string(bad), "o/n"), Error) << bad;
}

TEST(Selection, TakesPublishedCodesAndWhatStayedBesideThem) {
  const Names two{"config.json", "bf16.safetensors", "PQ3/codes.safetensors", "PQ5/codes.safetensors"};
  EXPECT_EQ(refused(two), ErrorCode::kInvalidArgument);
  EXPECT_THAT(chosen(two, "PQ5"), ElementsAre("PQ5/codes.safetensors", "bf16.safetensors"));
  EXPECT_THAT(side_file_names(two, "PQ5"), ElementsAre("config.json"));
  EXPECT_THAT(chosen({"bf16.safetensors", "PQ5/codes.safetensors"}),
              ElementsAre("PQ5/codes.safetensors", "bf16.safetensors"));
  EXPECT_EQ(refused({"PQ5/codes.safetensors"}, "PQ5"), ErrorCode::kNotFound);
}

TEST(Selection, SaysWhyThereIsNothingToTake) {
  EXPECT_EQ(refused({"a.gguf", "b.gguf"}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused({"model_int4.pt", "config.json"}), ErrorCode::kUnsupported);
  EXPECT_EQ(refused({"config.json"}), ErrorCode::kNotFound);
  EXPECT_EQ(refused({"model.safetensors"}, "sub"), ErrorCode::kNotFound);
  EXPECT_EQ(refused({"config.json"}, "config.json"), ErrorCode::kInvalidArgument);
}

TEST(Selection, SideFilesAreThoseOfTheFolder) {
  EXPECT_THAT(side_file_names({"config.json", "tokenizer.model", "chat_template.jinja", "README.md",
                               "x/config.json", "LICENSE"},
                              ""),
              ElementsAre("config.json", "tokenizer.model", "chat_template.jinja", "LICENSE"));
  EXPECT_THAT(matching({"a.json", "b/c.json", "d.txt"}, {"*.json"}), ElementsAre("a.json", "b/c.json"));
}

}  // namespace
}  // namespace hlwq
