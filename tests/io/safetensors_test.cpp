// Reading safetensors: files of the reference package, and everything a hostile or damaged file may hold.
#include "io/safetensors.h"

#include "io/tensor_source.h"
#include "io/test_files.h"

namespace hlwq {
namespace {

std::vector<float> decode_all(const Tensor& t) {
  std::vector<float> out(t.elements());
  decode_rows(t, 0, t.rows(), out.data());
  return out;
}

std::vector<Tensor> parse(const std::string& file) { return parse_safetensors(as_bytes(file), "f"); }

void refuses(const std::string& part, const std::string& header, size_t data_bytes,
             ErrorCode code = ErrorCode::kInvalidFile) {
  const std::string file = safetensors_file(header, data_bytes);
  expect_error(
      code, part, [&] { parse(file); }, header.substr(0, 200));
}

std::string entry(const std::string& name, uint64_t begin, uint64_t end, const std::string& dtype = "U8",
                  const std::string& shape = "") {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" +
         (shape.empty() ? std::to_string(end - begin) : shape) + "],\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(Safetensors, ReadsEveryType) {
  const auto source = open_safetensors(golden("dtypes.safetensors"));
  EXPECT_EQ(source->tensors().size(), 18u);
  for (const char* name : {"f64", "f16", "bf16"})
    EXPECT_EQ(decode_all(source->at(name)), decode_all(source->at(std::string(name) + ".f32"))) << name;
  for (const char* type : {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "BOOL"}) {
    std::string lower(type);
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    EXPECT_EQ(info(source->at(lower).dtype).name, type);
  }
  EXPECT_EQ(source->at("i16").shape, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(decode_all(source->at("scalar")), std::vector<float>{2.5f});
  EXPECT_TRUE(source->at("scalar").shape.empty());
  EXPECT_EQ(source->at("empty").rows(), 0u);
  EXPECT_EQ(source->find("absent"), nullptr);
  expect_error(ErrorCode::kNotFound, "absent", [&] { source->at("absent"); });
  source->drop(source->at("f64"));  // only advice: the values stay readable
  EXPECT_EQ(decode_all(source->at("f64")), decode_all(source->at("f64.f32")));
}

TEST(Safetensors, ReadsShards) {
  const auto whole = open_safetensors(golden("dtypes.safetensors"));
  const auto shards = open_safetensors(golden("sharded"));
  ASSERT_EQ(shards->tensors().size(), 4u);
  for (const Tensor& t : shards->tensors()) {
    EXPECT_EQ(decode_all(t), decode_all(whole->at(t.name))) << t.name;
    shards->drop(t);
  }
}

TEST(Safetensors, AcceptsAnEmptyFileOfTensorsAndPaddedHeaders) {
  EXPECT_TRUE(parse(safetensors_file("{}", 0)).empty());
  EXPECT_TRUE(parse(safetensors_file("{}       ", 0)).empty());
  EXPECT_EQ(parse(safetensors_file("{" + entry("b", 2, 5) + "," + entry("a", 0, 2) + "}", 5))[0].name, "a");
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string file = slurp(golden("dtypes.safetensors"));
  for (size_t n = 0; n < file.size(); ++n)
    expect_error(
        ErrorCode::kInvalidFile, "f", [&] { parse(file.substr(0, n)); }, "at byte " + std::to_string(n));
  expect_error(ErrorCode::kInvalidFile, "after the last tensor", [&] { parse(file + "x"); });
}

TEST(Safetensors, RefusesLyingLengths) {
  expect_error(ErrorCode::kInvalidFile, "header", [] { parse(le<uint64_t>(~0ull) + "{}"); });
  expect_error(ErrorCode::kInvalidFile, "header", [] { parse(le<uint64_t>(100'000'001) + "{}"); });
  expect_error(ErrorCode::kInvalidFile, "truncated", [] { parse(le<uint64_t>(3) + "{}"); });
  expect_error(ErrorCode::kInvalidFile, "'{'", [] { parse(le<uint64_t>(0) + "{}"); });
}

TEST(Safetensors, RefusesBadPlacement) {
  refuses("hole or overlap", "{" + entry("a", 0, 2) + "," + entry("b", 3, 4) + "}", 4);
  refuses("hole or overlap", "{" + entry("a", 0, 2) + "," + entry("b", 1, 4) + "}", 4);
  refuses("hole or overlap", "{" + entry("a", 1, 2) + "}", 2);
  refuses("hole or overlap", "{" + entry("a", 0, 4) + "," + entry("b", 0, 4) + "}", 4);
  refuses("hole or overlap", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}})", 4);
  refuses("truncated", "{" + entry("a", 0, 5) + "}", 4);
  refuses("truncated", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", 4);
  refuses("after the last", "{" + entry("a", 0, 3) + "}", 4);
  refuses("shape needs", "{" + entry("a", 0, 4, "F32", "2") + "}", 4);
  refuses("shape needs", "{" + entry("a", 0, 4, "F32", "0") + "}", 4);
  refuses("overflows", "{" + entry("a", 0, 4, "F32", "4294967296,4294967296") + "}", 4);
  refuses("overflows", "{" + entry("a", 0, 4, "F64", "4611686018427387904") + "}", 4);
}

TEST(Safetensors, RefusesBadHeaders) {
  refuses("not valid JSON", R"({"a":)", 0);
  refuses("not valid JSON", "{} {}", 0);
  refuses("not valid JSON", "{\"a\xff\":1}", 0);
  refuses("'{'", " {}", 0);
  refuses("'{'", "[]", 0);
  refuses("number", R"({"a":1})", 0);
  refuses("an array", R"({"a":[]})", 0);
  refuses("needs", R"({"a":{}})", 0);
  refuses("needs", R"({"a":{"dtype":"U8","shape":[0]}})", 0);
  refuses("data_offsets", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[]}})", 0);
  refuses("data_offsets", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}})", 0);
  refuses("unknown", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", 0);
  refuses("repeated", R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0);
  refuses("repeated", R"({"a":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}})", 0);
  refuses("negative", R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", 0);
  refuses("negative", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[-4,0]}})", 0);
  refuses("fraction", R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1);
  refuses("fraction", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1e30]}})", 1);
  refuses("fraction", R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}})", 0);
  refuses("string", R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1);
  refuses("number", R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1);
  refuses("dimensions", "{" + entry("a", 0, 1, "U8", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1") + "}", 1);
  refuses("number", R"({"__metadata__":{"a":1}})", 0);
  refuses("object", R"({"__metadata__":{"a":{}}})", 0);
  refuses("null", R"({"__metadata__":null})", 0);
  refuses("twice", R"({"__metadata__":{"a":"1","a":"2"}})", 0);
  refuses("twice", R"({"__metadata__":{},"__metadata__":{}})", 0);
  refuses("an array", "{\"a\":" + std::string(100000, '['), 0);
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  refuses("", deep, 0);
}

TEST(Safetensors, NamesTypesThatAreNotRead) {
  for (const char* type : {"F8_E4M3", "F8_E5M2", "F4", "C64", "Q4_0"})
    refuses(type, "{" + entry("a", 0, 1, type) + "}", 1, ErrorCode::kUnsupported);
}

TEST(Safetensors, RefusesDuplicateNames) {
  TempDir dir;
  const auto path = dir.write("model.safetensors",
                              safetensors_file("{" + entry("a", 0, 1) + "," + entry("a", 1, 2) + "}", 2));
  expect_error(ErrorCode::kInvalidFile, "twice", [&] { open_safetensors(path); });
}

class IndexTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_.write("one.safetensors", safetensors_file("{" + entry("a", 0, 2) + "}", 2));
    dir_.write("sub/two.safetensors",
               safetensors_file("{" + entry("b", 0, 1) + "," + entry("c", 1, 3) + "}", 3));
  }
  std::unique_ptr<TensorSource> open(const std::string& index) {
    dir_.write("model.safetensors.index.json", index);
    return open_safetensors(dir_.path());
  }
  TempDir dir_;
};

TEST_F(IndexTest, TakesWhatItLists) {
  const auto source = open(R"({"weight_map":{"a":"one.safetensors","c":"sub/two.safetensors"}})");
  EXPECT_EQ(source->tensors().size(), 2u);
  EXPECT_EQ(source->at("c").elements(), 2u);
}

TEST_F(IndexTest, RefusesWhatIsNotThere) {
  expect_error(ErrorCode::kInvalidFile, "tensor b is not in one.safetensors",
               [&] { open(R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})"); });
  expect_error(ErrorCode::kNotFound, "three.safetensors",
               [&] { open(R"({"weight_map":{"a":"three.safetensors"}})"); });
  expect_error(ErrorCode::kInvalidFile, "weight_map", [&] { open("{}"); });
  expect_error(ErrorCode::kInvalidFile, "weight_map", [&] { open("[]"); });
  expect_error(ErrorCode::kInvalidFile, "weight_map", [&] { open(R"({"weight_map":["a"]})"); });
  expect_error(ErrorCode::kInvalidFile, "not a string", [&] { open(R"({"weight_map":{"a":1}})"); });
  expect_error(ErrorCode::kInvalidFile, "nested", [&] { open(std::string(1000, '[')); });
  std::filesystem::remove(dir_.path() / "model.safetensors.index.json");
  expect_error(ErrorCode::kNotFound, "neither", [&] { open_safetensors(dir_.path()); });
}

TEST_F(IndexTest, RefusesToLeaveTheDirectory) {
  for (const char* name :
       {"/etc/passwd", "../one.safetensors", "sub/../one.safetensors", "", "one.safetensors\\u0000"})
    expect_error(
        ErrorCode::kInvalidFile, "outside",
        [&] { open("{\"weight_map\":{\"a\":\"" + std::string(name) + "\"}}"); }, name);
}

}  // namespace
}  // namespace hlwq
