// What is written reads back, is aligned and sharded as promised, and nothing half-made stays behind.
#include "io/safetensors_writer.h"

#include <signal.h>
#include <sys/resource.h>

#include <numeric>

#include "base/json.h"
#include "io/tensor_source.h"
#include "io/test_files.h"

namespace hlwq {
namespace {

std::vector<std::string> files_in(const std::filesystem::path& dir) {
  std::vector<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(dir))
    names.push_back(e.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string bytes_of(const TensorSpec& spec) {
  std::string s(spec.bytes(), '\0');
  for (size_t i = 0; i < s.size(); ++i) s[i] = static_cast<char>(i * 31 + spec.name.size() * 7 + i / 256);
  return s;
}

const std::vector<TensorSpec> kSpecs = {
    {"b", DType::kBF16, {3, 5}}, {"empty", DType::kF32, {0, 4}},  {"a.weight", DType::kF32, {7}},
    {"c", DType::kU8, {1000}},   {"scalar", DType::kF64, {}},     {"quoted \"é\\", DType::kI16, {2, 2, 2}},
    {"flag", DType::kBool, {3}}, {"last empty", DType::kU8, {0}},
};

void write_all(SafetensorsWriter& writer, const std::vector<TensorSpec>& specs, size_t chunk) {
  for (const TensorSpec& s : specs) {
    const std::string bytes = bytes_of(s);
    for (size_t at = 0; at < bytes.size(); at += chunk)
      writer.append(bytes.data() + at, std::min(chunk, bytes.size() - at));
  }
}

void expect_reads_back(const std::filesystem::path& dir, const std::vector<TensorSpec>& specs) {
  const auto source = open_safetensors(dir);
  ASSERT_EQ(source->tensors().size(), specs.size());
  for (const TensorSpec& s : specs) {
    const Tensor& t = source->at(s.name);
    EXPECT_EQ(t.dtype, s.dtype);
    EXPECT_EQ(t.shape, s.shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(t.data.data()), t.data.size()), bytes_of(s))
        << s.name;
  }
}

uint64_t header_bytes(const std::string& file) {
  uint64_t n;
  std::memcpy(&n, file.data(), 8);
  return n;
}

TEST(SafetensorsWriter, OneFileReadsBack) {
  TempDir dir;
  SafetensorsWriter writer(dir.path(), kSpecs, {{"format", "pt"}});
  EXPECT_EQ(writer.total_bytes(), 30u + 28 + 1000 + 8 + 16 + 3);
  write_all(writer, kSpecs, 13);
  writer.finish();
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"model.safetensors"});
  expect_reads_back(dir.path(), kSpecs);
  const std::string file = slurp(dir.path() / "model.safetensors");
  EXPECT_EQ((8 + header_bytes(file)) % 64, 0u);
  EXPECT_EQ(Json::parse(file.substr(8, header_bytes(file)))["__metadata__"], (Json{{"format", "pt"}}));
}

TEST(SafetensorsWriter, EveryShardLimitReadsBack) {
  for (uint64_t limit : {0u, 1u, 29u, 30u, 58u, 59u, 1000u, 1058u, 1084u, 1085u}) {
    TempDir dir;
    SafetensorsWriter writer(dir.path(), kSpecs, {}, limit);
    write_all(writer, kSpecs, 1 << 20);
    writer.finish();
    expect_reads_back(dir.path(), kSpecs);
    const auto names = files_in(dir.path());
    EXPECT_EQ(names.size() == 1, limit >= writer.total_bytes()) << limit;
    for (const std::string& name : names) {
      if (!name.ends_with(".safetensors")) continue;
      const std::string file = slurp(dir.path() / name);
      const uint64_t data = file.size() - 8 - header_bytes(file);
      const Json header = Json::parse(file.substr(8, header_bytes(file)));
      const auto full = std::count_if(header.begin(), header.end(), [](const Json& t) {
        return t["data_offsets"][0] != t["data_offsets"][1];
      });
      EXPECT_TRUE(data <= limit || full == 1) << name << " at limit " << limit;
      EXPECT_EQ((8 + header_bytes(file)) % 64, 0u);
    }
  }
}

TEST(SafetensorsWriter, IndexNamesEveryTensor) {
  TempDir dir;
  SafetensorsWriter writer(dir.path(), kSpecs, {}, 100);
  write_all(writer, kSpecs, 64);
  writer.finish();
  const Json index = Json::parse(slurp(dir.path() / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], writer.total_bytes());
  EXPECT_EQ(index["weight_map"].size(), kSpecs.size());
  EXPECT_EQ(index["weight_map"]["b"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["last empty"], "model-00003-of-00003.safetensors");
}

TEST(SafetensorsWriter, NoTensorsIsAFileWithoutTensors) {
  TempDir dir;
  SafetensorsWriter writer(dir.path(), {}, {});
  writer.finish();
  EXPECT_TRUE(open_safetensors(dir.path())->tensors().empty());
}

TEST(SafetensorsWriter, NothingIsLeftWithoutFinish) {
  TempDir dir;
  {
    SafetensorsWriter writer(dir.path(), kSpecs, {}, 40);
    write_all(writer, kSpecs, 64);
  }
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(SafetensorsWriter, RefusesWrongUse) {
  TempDir dir;
  const auto wrong = ErrorCode::kInvalidArgument;
  const auto construct = [&](const TensorSpec& spec) {
    SafetensorsWriter(dir.path(), {{"x", DType::kU8, {1}}, spec}, {});
  };
  expect_error(wrong, "twice", [&] { construct({"x", DType::kU8, {1}}); });
  expect_error(wrong, "Q4_K", [&] { construct({"q", DType::kQ4_K, {256}}); });
  expect_error(wrong, "called", [&] { construct({"", DType::kU8, {1}}); });
  expect_error(wrong, "called", [&] { construct({"__metadata__", DType::kU8, {1}}); });
  expect_error(wrong, "UTF-8", [&] { construct({"\xff", DType::kU8, {1}}); });
  expect_error(ErrorCode::kInvalidFile, "overflows", [&] { construct({"y", DType::kF64, {1ull << 61}}); });
  {
    SafetensorsWriter writer(dir.path(), {{"x", DType::kU8, {4}}}, {});
    expect_error(wrong, "room", [&] { writer.append("12345", 5); });
    writer.append("123", 3);
    expect_error(wrong, "incomplete", [&] { writer.finish(); });
    expect_error(wrong, "room", [&] { writer.append("45", 2); });
    writer.append("4", 1);
    expect_error(wrong, "after the last", [&] { writer.append("5", 1); });
    writer.finish();
    expect_error(wrong, "twice", [&] { writer.finish(); });
  }
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"model.safetensors"});
}

// A file size limit makes write() fail as a full disk does, part way and with an errno.
TEST(SafetensorsWriter, AFailedWriteNamesTheFileAndLeavesNothing) {
  TempDir dir;
  struct rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small = {4096, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    SafetensorsWriter writer(dir.path(), {{"x", DType::kU8, {1 << 16}}}, {});
    const std::string block(1 << 16, 'x');
    expect_error(ErrorCode::kIo, "model.safetensors", [&] { writer.append(block.data(), block.size()); });
  }
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  EXPECT_TRUE(files_in(dir.path()).empty());
}

TEST(SafetensorsWriter, AMissingDirectoryIsAnError) {
  TempDir dir;
  expect_error(ErrorCode::kNotFound, "no-such",
               [&] { SafetensorsWriter(dir.path() / "no-such", kSpecs, {}); });
}

}  // namespace
}  // namespace hlwq
