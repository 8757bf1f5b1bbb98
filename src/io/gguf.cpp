#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "base/checked.h"
#include "base/file.h"
#include "io/tensor_source.h"

namespace hlwq {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie in the file");

constexpr uint64_t kMaxName = 65535;  // the format's limit on keys; names are shorter still
constexpr uint64_t kMaxValues =
    1ull << 24;  // metadata values in all: 60 times a 262k-entry vocabulary's scores
constexpr int kMaxArrayDepth = 8;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDims = 4;

enum class ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

struct GgmlType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  ///< empty: known to exist, not read
};

constexpr GgmlType kTypes[] = {
    {0, "F32", DType::kF32},    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},  {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},  {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},  {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2_K}, {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K}, {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K}, {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},        {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},        {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},         {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},          {23, "IQ4_XS", {}},
    {24, "I8", DType::kI8},     {25, "I16", DType::kI16},
    {26, "I32", DType::kI32},   {27, "I64", DType::kI64},
    {28, "F64", DType::kF64},   {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16}, {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},          {39, "MXFP4", {}},
};

class Parser {
 public:
  Parser(std::span<const std::byte> file, const std::string& what) : file_(file), what_(what) {}

  GgufContents parse() {
    if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) invalid("not a GGUF file");
    at_ = 4;
    const auto version = number<uint32_t>();
    if (version != 2 && version != 3) {
      const bool swapped = version >= 1u << 16;
      throw Error(
          ErrorCode::kUnsupported,
          what_ + (swapped ? ": big-endian GGUF is not read; convert it to little endian"
                           : ": GGUF version " + std::to_string(version) + " is not read, only 2 and 3"));
    }
    const auto tensors = number<uint64_t>(), pairs = number<uint64_t>();
    // The smallest pair is an empty key, a type and one byte; the smallest tensor an empty name, a dimension,
    // type, offset.
    need(tensors, 8 + 4 + 8 + 4 + 8, "tensors");
    need(pairs, 8 + 4 + 1, "metadata pairs");

    GgufContents result;
    result.metadata = Json::object();
    for (uint64_t i = 0; i < pairs; ++i) {
      std::string key = string(kMaxName);
      Json parsed = value(number<uint32_t>(), key, 0);
      if (!result.metadata.emplace(key, std::move(parsed)).second)
        invalid("metadata key " + key + " appears twice");
    }
    const uint64_t align = alignment(result.metadata);
    result.tensors.reserve(tensors);
    std::vector<uint64_t> offsets;
    offsets.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) {
      result.tensors.push_back(tensor_info());
      offsets.push_back(number<uint64_t>());
    }
    place(result.tensors, offsets, align);
    return result;
  }

 private:
  [[noreturn]] void invalid(const std::string& problem) const {
    throw Error(ErrorCode::kInvalidFile, what_ + ": " + problem);
  }

  void need(uint64_t count, uint64_t bytes_each, const char* of) const {
    const uint64_t left = file_.size() - at_;
    if (count > left / bytes_each)
      invalid(std::to_string(count) + " " + of + " do not fit in the " + std::to_string(left) +
              " bytes left of the file");
  }

  template <class T>
  T number() {
    need(1, sizeof(T), "more value");
    T v;
    std::memcpy(&v, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return v;
  }

  std::string string(uint64_t max) {
    const auto length = number<uint64_t>();
    need(length, 1, "characters");
    if (length > max)
      invalid("a name of " + std::to_string(length) + " bytes at byte " + std::to_string(at_ - 8));
    std::string s(reinterpret_cast<const char*>(file_.data()) + at_, length);
    at_ += length;
    return s;
  }

  Json value(uint32_t type, const std::string& key, int depth) {
    if (++values_ > kMaxValues) invalid("more than " + std::to_string(kMaxValues) + " metadata values");
    switch (static_cast<ValueType>(type)) {
      case ValueType::kU8:
        return number<uint8_t>();
      case ValueType::kI8:
        return number<int8_t>();
      case ValueType::kU16:
        return number<uint16_t>();
      case ValueType::kI16:
        return number<int16_t>();
      case ValueType::kU32:
        return number<uint32_t>();
      case ValueType::kI32:
        return number<int32_t>();
      case ValueType::kF32:
        return number<float>();
      case ValueType::kU64:
        return number<uint64_t>();
      case ValueType::kI64:
        return number<int64_t>();
      case ValueType::kF64:
        return number<double>();
      case ValueType::kString:
        return string(file_.size());
      case ValueType::kArray:
        return array(key, depth + 1);
      case ValueType::kBool: {
        const auto b = number<uint8_t>();
        if (b > 1) invalid("metadata key " + key + ": a boolean of value " + std::to_string(b));
        return b == 1;
      }
    }
    invalid("metadata key " + key + ": unknown value type " + std::to_string(type));
  }

  // Bytes that one value takes at least, so that a count can be refused before anything is reserved for it.
  static uint64_t min_bytes(ValueType type) {
    switch (type) {
      case ValueType::kU8:
      case ValueType::kI8:
      case ValueType::kBool:
        return 1;
      case ValueType::kU16:
      case ValueType::kI16:
        return 2;
      case ValueType::kU32:
      case ValueType::kI32:
      case ValueType::kF32:
        return 4;
      case ValueType::kArray:
        return 12;
      default:
        return 8;
    }
  }

  Json array(const std::string& key, int depth) {
    if (depth > kMaxArrayDepth)
      invalid("metadata key " + key + ": arrays nested deeper than " + std::to_string(kMaxArrayDepth));
    const auto type = number<uint32_t>();
    const auto length = number<uint64_t>();
    if (type > static_cast<uint32_t>(ValueType::kF64))
      invalid("metadata key " + key + ": unknown value type " + std::to_string(type));
    need(length, min_bytes(static_cast<ValueType>(type)), "array elements");
    if (length > kMaxValues - values_)
      invalid("more than " + std::to_string(kMaxValues) + " metadata values");
    Json result = Json::array();
    auto& elements = result.get_ref<Json::array_t&>();
    elements.reserve(length);
    for (uint64_t i = 0; i < length; ++i) elements.push_back(value(type, key, depth));
    return result;
  }

  uint64_t alignment(const Json& metadata) const {
    const auto it = metadata.find("general.alignment");
    if (it == metadata.end()) return 32;
    const uint64_t a = it->is_number_unsigned() ? it->get<uint64_t>() : 0;
    if (a > kMaxAlignment || !std::has_single_bit(a))
      invalid("general.alignment is " + it->dump(-1, ' ', false, Json::error_handler_t::replace) +
              "; it must be a power of two up to " + std::to_string(kMaxAlignment));
    return a;
  }

  Tensor tensor_info() {
    Tensor t;
    t.name = string(kMaxName);
    const auto dims = number<uint32_t>();
    if (dims == 0 || dims > kMaxDims)
      invalid("tensor " + t.name + " has " + std::to_string(dims) + " dimensions; 1 to 4 are allowed");
    t.shape.resize(dims);
    for (uint32_t i = dims; i-- > 0;)
      t.shape[i] = number<uint64_t>();  // GGUF lists the innermost dimension first
    if (std::find(t.shape.begin(), t.shape.end(), 0u) != t.shape.end())
      invalid("tensor " + t.name + " has no elements");
    const auto id = number<uint32_t>();
    const auto* type =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const GgmlType& k) { return k.id == id; });
    if (type == std::end(kTypes)) invalid("tensor " + t.name + " has the unknown type " + std::to_string(id));
    if (!type->dtype)
      throw Error(ErrorCode::kUnsupported,
                  what_ + ": tensor " + t.name + " is stored as " + std::string(type->name) +
                      ", which is not read; take a Q4_0..Q8_0, Q2_K..Q6_K, F16, BF16 or F32 file");
    t.dtype = *type->dtype;
    return t;
  }

  void place(std::vector<Tensor>& tensors, const std::vector<uint64_t>& offsets, uint64_t align) const {
    if (tensors.empty()) return;
    const uint64_t start = checked_add(at_, align - 1, what_) / align * align;
    if (start > file_.size()) invalid("it ends before its tensor data; it is truncated: fetch it again");
    const std::span<const std::byte> data = file_.subspan(start);
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& t = tensors[i];
      const DTypeInfo& type = info(t.dtype);
      if (t.cols() % type.block_elements != 0)
        invalid("tensor " + t.name + ": rows of " + std::to_string(t.cols()) + " values are not whole " +
                std::string(type.name) + " blocks of " + std::to_string(type.block_elements));
      const uint64_t elements = checked_elements(t.shape, what_ + ": tensor " + t.name);
      const uint64_t bytes =
          checked_mul(elements / type.block_elements, type.block_bytes, what_ + ": tensor " + t.name);
      if (offsets[i] % align != 0)
        invalid("tensor " + t.name + ": offset " + std::to_string(offsets[i]) + " is not aligned to " +
                std::to_string(align));
      if (offsets[i] > data.size() || bytes > data.size() - offsets[i])
        invalid("tensor " + t.name + " needs " + std::to_string(bytes) + " bytes at offset " +
                std::to_string(offsets[i]) + " of " + std::to_string(data.size()) +
                "; the file is truncated or damaged: fetch it again");
      t.data = data.subspan(offsets[i], bytes);
    }
    refuse_overlaps(tensors);
  }

  void refuse_overlaps(const std::vector<Tensor>& tensors) const {
    std::vector<const Tensor*> order;
    for (const Tensor& t : tensors)
      if (!t.data.empty()) order.push_back(&t);
    std::sort(order.begin(), order.end(),
              [](const Tensor* a, const Tensor* b) { return a->data.data() < b->data.data(); });
    for (size_t i = 1; i < order.size(); ++i)
      if (order[i - 1]->data.data() + order[i - 1]->data.size() > order[i]->data.data())
        invalid("tensors " + order[i - 1]->name + " and " + order[i]->name + " overlap");
  }

  std::span<const std::byte> file_;
  const std::string& what_;
  uint64_t at_ = 0;
  uint64_t values_ = 0;
};

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const std::filesystem::path& path) : file_(path) {}

  Json load() {
    GgufContents contents = parse_gguf(file_.bytes(), file_.path().string());
    tensors_ = std::move(contents.tensors);
    try {
      build_index();
    } catch (const Error& e) {
      throw Error(e.code(), file_.path().string() + ": " + e.what());
    }
    return std::move(contents.metadata);
  }

  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor& tensor) const override { file_.drop(tensor.data); }

 private:
  MappedFile file_;
  std::vector<Tensor> tensors_;
};

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> file, const std::string& what) {
  return Parser(file, what).parse();
}

GgufFile open_gguf(const std::filesystem::path& path) {
  auto source = std::make_unique<GgufSource>(path);
  Json metadata = source->load();
  return {std::move(source), std::move(metadata)};
}

}  // namespace hlwq
