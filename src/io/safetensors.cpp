#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "io/tensor_source.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxDims = 16;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidFile, message); }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i)
    if (info(static_cast<DType>(i)).name == name) return static_cast<DType>(i);
  return std::nullopt;
}

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_shape = false;
};

// Reads the header's JSON event by event: a tree would hide duplicate keys and cost many times the header's
// size. The grammar is fixed ({name: {dtype, shape, data_offsets}, "__metadata__": {string: string}}), so
// nesting is bounded.
class HeaderReader {
 public:
  explicit HeaderReader(const std::string& what) : what_(what) {}

  std::vector<Entry> entries;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) { return unexpected("a fraction"); }
  bool binary(Json::binary_t&) { return unexpected("binary data"); }

  bool number_unsigned(uint64_t value) {
    if (state_ != State::kShape && state_ != State::kOffsets) return unexpected("a number");
    std::vector<uint64_t>& list = state_ == State::kShape ? entries.back().shape : entries.back().offsets;
    if (list.size() >= kMaxDims) invalid(where() + ": more than " + std::to_string(kMaxDims) + " dimensions");
    list.push_back(value);
    return true;
  }

  bool string(std::string& value) {
    if (state_ == State::kMetadata) return true;
    if (state_ != State::kDType) return unexpected("a string");
    entries.back().dtype = std::move(value);
    state_ = State::kTensor;
    return true;
  }

  bool start_object(size_t) {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kMetadataStart:
        state_ = State::kMetadata;
        return true;
      case State::kTensorStart:
        state_ = State::kTensor;
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool key(std::string& name) {
    if (state_ == State::kMetadata) {
      if (!metadata_keys_.insert(name).second)
        invalid(what_ + ": __metadata__ has the key " + name + " twice");
      return true;
    }
    if (state_ == State::kTop) {
      if (name == "__metadata__") {
        if (std::exchange(seen_metadata_, true)) invalid(what_ + ": __metadata__ appears twice");
        state_ = State::kMetadataStart;
      } else {
        entries.push_back({});
        entries.back().name = std::move(name);
        state_ = State::kTensorStart;
      }
      return true;
    }
    Entry& e = entries.back();
    if (name == "dtype" && e.dtype.empty())
      state_ = State::kDType;
    else if (name == "shape" && !e.has_shape)
      state_ = State::kShapeStart;
    else if (name == "data_offsets" && e.offsets.empty())
      state_ = State::kOffsetsStart;
    else
      invalid(where() + ": unknown or repeated key " + name);
    return true;
  }

  bool end_object() {
    if (state_ == State::kTensor) {
      const Entry& e = entries.back();
      if (e.dtype.empty() || !e.has_shape || e.offsets.size() != 2)
        invalid(where() + ": needs dtype, shape and two data_offsets");
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (state_ == State::kShapeStart) {
      state_ = State::kShape;
      entries.back().has_shape = true;
      return true;
    }
    if (state_ != State::kOffsetsStart) return unexpected("an array");
    state_ = State::kOffsets;
    return true;
  }

  bool end_array() {
    if (state_ == State::kOffsets && entries.back().offsets.size() != 2)
      invalid(where() + ": needs two data_offsets");
    state_ = State::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) {
    invalid(what_ + ": the header is not valid JSON at byte " + std::to_string(position) + ": " + e.what());
  }

 private:
  enum class State {
    kStart,
    kTop,
    kEnd,
    kMetadataStart,
    kMetadata,
    kTensorStart,
    kTensor,
    kDType,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
  };

  std::string where() const { return entries.empty() ? what_ : what_ + ": tensor " + entries.back().name; }
  bool unexpected(const std::string& thing) {
    invalid(where() + ": " + thing + " is not allowed here in the header");
  }

  const std::string& what_;
  State state_ = State::kStart;
  bool seen_metadata_ = false;
  std::set<std::string> metadata_keys_;
};

// data_offsets in order must tile the data exactly: that excludes holes, overlaps and bytes beyond the file
// at once.
std::vector<Tensor> place(std::vector<Entry> entries, std::span<const std::byte> data,
                          const std::string& what) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  std::vector<Tensor> tensors;
  tensors.reserve(entries.size());
  uint64_t position = 0;
  for (Entry& e : entries) {
    const std::string where = what + ": tensor " + e.name;
    const auto dtype = dtype_from_name(e.dtype);
    if (!dtype)
      throw Error(ErrorCode::kUnsupported,
                  where + " has the element type " + e.dtype +
                      ", which is not read; convert the model to BF16, F16 or F32 first");
    if (e.offsets[0] != position || e.offsets[1] < position)
      invalid(where + ": data_offsets [" + std::to_string(e.offsets[0]) + ", " +
              std::to_string(e.offsets[1]) + "] leave a hole or overlap; " + std::to_string(position) +
              " was expected");
    if (e.offsets[1] > data.size())
      invalid(where + " ends at byte " + std::to_string(e.offsets[1]) +
              " of the data, but the file has only " + std::to_string(data.size()) +
              "; it is truncated: fetch it again");
    const uint64_t bytes = checked_mul(checked_elements(e.shape, where), info(*dtype).block_bytes, where);
    if (bytes != e.offsets[1] - position)
      invalid(where + ": its shape needs " + std::to_string(bytes) + " bytes, its data_offsets give " +
              std::to_string(e.offsets[1] - position));
    Tensor t;
    t.name = std::move(e.name);
    t.dtype = *dtype;
    t.shape = std::move(e.shape);
    t.data = data.subspan(position, bytes);
    tensors.push_back(std::move(t));
    position = e.offsets[1];
  }
  if (position != data.size())
    invalid(what + ": " + std::to_string(data.size() - position) +
            " bytes after the last tensor belong to none");
  return tensors;
}

class SafetensorsSource : public TensorSource {
 public:
  void add_file(const fs::path& path) {
    files_.push_back(std::make_unique<MappedFile>(path));
    for (Tensor& t : parse_safetensors(files_.back()->bytes(), path.string()))
      tensors_.push_back(std::move(t));
  }

  /// The shards that the index names, and of each the tensors that the index places there.
  void add_index(const fs::path& index_path) {
    const Json index = parse_json(read_file(index_path, kMaxSafetensorsHeader), index_path.string());
    const auto map = index.find("weight_map");
    if (!index.is_object() || map == index.end() || !map->is_object())
      invalid(index_path.string() + ": no weight_map object in it");
    std::set<std::string> shards;
    for (const auto& [name, shard] : map->items()) {
      if (!shard.is_string()) invalid(index_path.string() + ": the shard of " + name + " is not a string");
      shards.insert(shard.get<std::string>());
    }
    for (const std::string& shard : shards) add_shard(index_path, *map, shard);
    if (tensors_.size() != map->size()) report_missing(index_path, *map);
  }

  void index_names(const std::string& what) {
    try {
      build_index();
    } catch (const Error& e) {
      throw Error(e.code(), what + ": " + e.what());
    }
  }

  const std::vector<Tensor>& tensors() const override { return tensors_; }

  void drop(const Tensor& tensor) const override {
    for (const auto& file : files_) {
      const auto all = file->bytes();
      if (std::less_equal<>()(all.data(), tensor.data.data()) &&
          std::less_equal<>()(tensor.data.data() + tensor.data.size(), all.data() + all.size()))
        return file->drop(tensor.data);
    }
  }

 private:
  void add_shard(const fs::path& index_path, const Json& map, const std::string& shard) {
    const fs::path relative(shard);
    bool plain = !shard.empty() && relative.is_relative() && shard.find('\0') == std::string::npos;
    for (const fs::path& part : relative) plain = plain && part != "..";
    if (!plain)
      invalid(index_path.string() + ": a shard name leads outside the model's directory: '" + shard + "'");
    const fs::path path = index_path.parent_path() / relative;
    if (!fs::exists(path))
      throw Error(ErrorCode::kNotFound, path.string() + " is missing, though " +
                                            index_path.filename().string() +
                                            " names it; fetch the model again");
    files_.push_back(std::make_unique<MappedFile>(path));
    for (Tensor& t : parse_safetensors(files_.back()->bytes(), path.string())) {
      const auto it = map.find(t.name);
      if (it != map.end() && it->get_ref<const std::string&>() == shard) tensors_.push_back(std::move(t));
    }
  }

  [[noreturn]] void report_missing(const fs::path& index_path, const Json& map) {
    std::set<std::string_view> present;
    for (const Tensor& t : tensors_) present.insert(t.name);
    for (const auto& [name, shard] : map.items())
      if (!present.contains(name))
        invalid(index_path.string() + ": tensor " + name + " is not in " + shard.get<std::string>());
    invalid(index_path.string() + ": a shard stores a tensor twice");
  }

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<Tensor> tensors_;
};

}  // namespace

std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, const std::string& what) {
  if (file.size() < 8) invalid(what + ": too short for a safetensors file; it is truncated");
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<uint8_t>(file[i]);
  if (header_bytes > kMaxSafetensorsHeader)
    invalid(what + ": header of " + std::to_string(header_bytes) + " bytes; not a safetensors file");
  if (header_bytes > file.size() - 8)
    invalid(what + ": header of " + std::to_string(header_bytes) + " bytes in a file of " +
            std::to_string(file.size()) + "; it is truncated: fetch it again");
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  if (header.empty() || header.front() != '{') invalid(what + ": the header does not begin with '{'");
  HeaderReader reader(what);
  Json::sax_parse(header.begin(), header.end(), &reader);
  return place(std::move(reader.entries), file.subspan(8 + header_bytes), what);
}

std::unique_ptr<TensorSource> open_safetensors(const fs::path& path) {
  auto source = std::make_unique<SafetensorsSource>();
  if (!fs::is_directory(path)) {
    source->add_file(path);
  } else if (fs::exists(path / "model.safetensors")) {
    source->add_file(path / "model.safetensors");
  } else if (fs::exists(path / "model.safetensors.index.json")) {
    source->add_index(path / "model.safetensors.index.json");
  } else {
    throw Error(ErrorCode::kNotFound,
                path.string() + ": neither model.safetensors nor model.safetensors.index.json is there");
  }
  source->index_names(path.string());
  return source;
}

}  // namespace hlwq
