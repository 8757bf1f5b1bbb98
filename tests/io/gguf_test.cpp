// Reading GGUF: a file of the reference package, and everything a hostile or damaged file may hold.
#include "io/gguf.h"

#include "io/tensor_source.h"
#include "io/test_files.h"

namespace hlwq {
namespace {

constexpr uint32_t kF32 = 0, kQ4_0 = 2, kString = 8, kArray = 9;

GgufContents parse(const std::string& file) { return parse_gguf(as_bytes(file), "f"); }

void refuses(const std::string& part, const std::string& file, ErrorCode code = ErrorCode::kInvalidFile) {
  expect_error(code, part, [&] { parse(file); });
}

TEST(Gguf, ReadsEveryKindOfMetadata) {
  const Json m = open_gguf(golden("quants.gguf")).metadata;
  EXPECT_EQ(m["general.architecture"], "test");
  EXPECT_EQ(m["t.u8"], 200);
  EXPECT_EQ(m["t.i8"], -100);
  EXPECT_EQ(m["t.u16"], 60000);
  EXPECT_EQ(m["t.i16"], -30000);
  EXPECT_EQ(m["t.u32"], 4000000000u);
  EXPECT_EQ(m["t.i32"], -2000000000);
  EXPECT_EQ(m["t.u64"], (1ull << 63) + 1);
  EXPECT_EQ(m["t.i64"], -(1ll << 62));
  EXPECT_EQ(m["t.f32"], static_cast<double>(0.1f));
  EXPECT_EQ(m["t.f64"], 0.1);
  EXPECT_EQ(m["t.bool"], true);
  EXPECT_EQ(m["t.string"], "Grüße, 世界");
  EXPECT_EQ(m["t.strings"], (Json{"a", "", "ccc"}));
  EXPECT_EQ(m["t.ints"], (Json{1, -2, 3}));
  EXPECT_EQ(m["t.floats"], (Json{0.5, 1.5}));
  EXPECT_EQ(m["t.nested"], Json::parse("[[1,2],[3],[4,5,6]]"));
}

TEST(Gguf, EveryTruncationIsAnError) {
  const std::string file = slurp(golden("quants.gguf"));
  const std::string last_tensor_end = file;  // the writer pads the end; cut that first
  const GgufContents whole = parse(file);
  const std::byte* end = nullptr;
  for (const Tensor& t : whole.tensors) end = std::max(end, t.data.data() + t.data.size());
  const auto used = static_cast<size_t>(end - as_bytes(file).data());
  for (size_t n = 0; n < used; n += n < 3000 ? 1 : 97)
    expect_error(
        ErrorCode::kInvalidFile, "f", [&] { parse(file.substr(0, n)); }, "at byte " + std::to_string(n));
  EXPECT_EQ(parse(file.substr(0, used)).tensors.size(), whole.tensors.size());
}

TEST(Gguf, RefusesOtherMagicAndVersions) {
  refuses("not a GGUF", "");
  refuses("not a GGUF", "GGML0000000000000000000000000000");
  GgufBuilder b;
  for (uint32_t v : {0u, 1u, 4u}) {
    b.version = v;
    refuses("version", b.build(0), ErrorCode::kUnsupported);
  }
  b.version = 0x03000000;
  refuses("big-endian", b.build(0), ErrorCode::kUnsupported);
  b.version = 2;
  EXPECT_TRUE(parse(b.build(0)).tensors.empty());
}

TEST(Gguf, RefusesAbsurdCountsBeforeAllocating) {
  for (uint64_t n : {~0ull, 1ull << 60, 1ull << 32, 1000ull}) {
    GgufBuilder b;
    b.tensor_count = n;
    refuses("do not fit", b.build(0));
    b.tensor_count = 0;
    b.pair_count = n;
    refuses("do not fit", b.build(0));
    refuses("do not fit", GgufBuilder().pair("k", kArray, le<uint32_t>(0) + le(n) + "x").build(0));
    refuses("do not fit", GgufBuilder().pair("k", kArray, le<uint32_t>(kString) + le(n)).build(0));
    refuses("do not fit", GgufBuilder().pair("k", kString, le(n) + "abc").build(0));
  }
  refuses("name of", "GGUF" + le(3) + le<uint64_t>(0) + le<uint64_t>(1) + le<uint64_t>(1 << 20) +
                         std::string(2 << 20, 'k'));
}

TEST(Gguf, RefusesBadMetadata) {
  refuses("twice", GgufBuilder().u32("k", 1).u32("k", 2).build(0));
  refuses("unknown value type", GgufBuilder().pair("k", 13, "abcdefgh").build(0));
  refuses("unknown value type", GgufBuilder().pair("k", kArray, le<uint32_t>(13) + le<uint64_t>(0)).build(0));
  refuses("boolean", GgufBuilder().pair("k", 7, "\2").build(0));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += le<uint32_t>(kArray) + le<uint64_t>(1);
  refuses("nested", GgufBuilder().pair("k", kArray, deep).build(0));
  // 17 million empty strings would take half a gigabyte; the file itself need only be 136 MB.
  refuses(
      "metadata values",
      GgufBuilder().pair("k", kArray, le<uint32_t>(0) + le<uint64_t>((1 << 24) + 1)).build((1 << 24) + 1));
}

TEST(Gguf, RefusesBadAlignment) {
  for (uint32_t a : {0u, 3u, 33u, 1u << 21, ~0u})
    refuses("alignment", GgufBuilder().u32("general.alignment", a).tensor("t", {4}, kF32, 0).build(16));
  refuses("alignment",
          GgufBuilder().string("general.alignment", "32\xff").tensor("t", {4}, kF32, 0).build(16));
  const auto good = GgufBuilder().u32("general.alignment", 256).tensor("t", {4}, kF32, 256).build(272, 256);
  EXPECT_EQ(parse(good).tensors.at(0).data.size(), 16u);
}

TEST(Gguf, RefusesBadTensors) {
  refuses("dimensions", GgufBuilder().tensor("t", {}, kF32, 0).build(64));
  refuses("dimensions", GgufBuilder().tensor("t", {1, 1, 1, 1, 1}, kF32, 0).build(64));
  refuses("no elements", GgufBuilder().tensor("t", {4, 0}, kF32, 0).build(64));
  refuses("unknown type", GgufBuilder().tensor("t", {4}, 1000, 0).build(64));
  refuses("unknown type", GgufBuilder().tensor("t", {4}, 4, 0).build(64));
  refuses("IQ4_NL", GgufBuilder().tensor("t", {32}, 20, 0).build(64), ErrorCode::kUnsupported);
  refuses("whole Q4_0 blocks", GgufBuilder().tensor("t", {33}, kQ4_0, 0).build(64));
  refuses("not aligned", GgufBuilder().tensor("t", {4}, kF32, 4).build(64));
  refuses("truncated", GgufBuilder().tensor("t", {17}, kF32, 0).build(64));
  refuses("truncated", GgufBuilder().tensor("t", {4}, kF32, 96).build(64));
  refuses("truncated", GgufBuilder().tensor("t", {4}, kF32, ~0ull - 31).build(64));
  refuses("overflow", GgufBuilder().tensor("t", {1ull << 32, 1ull << 32}, kF32, 0).build(64));
  refuses("overflow", GgufBuilder().tensor("t", {1ull << 62}, kF32, 0).build(64));
  refuses("overlap", GgufBuilder().tensor("a", {16}, kF32, 0).tensor("b", {4}, kF32, 32).build(64));
  refuses("overlap", GgufBuilder().tensor("a", {4}, kF32, 0).tensor("b", {4}, kF32, 0).build(64));
}

TEST(Gguf, RefusesDuplicateNames) {
  TempDir dir;
  const auto path =
      dir.write("m.gguf", GgufBuilder().tensor("a", {4}, kF32, 0).tensor("a", {4}, kF32, 32).build(64));
  expect_error(ErrorCode::kInvalidFile, "twice", [&] { open_gguf(path); });
}

}  // namespace
}  // namespace hlwq
