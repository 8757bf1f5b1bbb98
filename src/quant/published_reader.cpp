#include "quant/published_reader.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/checked.h"
#include "quant/published_layout.h"

namespace hlwq {
namespace {

constexpr std::string_view kDotCodes = ".codes", kDotNorms = ".norms", kBareCodes = "__codes";

enum class Packing { kBytes, kHalfBlocks, kLsbFirst, kMsbFirst };

[[noreturn]] void invalid(const std::string& what) { throw Error(ErrorCode::kInvalidFile, what); }
[[noreturn]] void unsupported(const std::string& what) { throw Error(ErrorCode::kUnsupported, what); }

std::string joined(std::string_view prefix, std::string_view end) {
  return std::string(prefix) + std::string(end);
}

uint64_t block_bytes(Packing packing, const HlwqFormat& f) {
  if (packing == Packing::kBytes) return static_cast<uint64_t>(f.block);
  return packing == Packing::kHalfBlocks ? static_cast<uint64_t>(f.block) / 2 : f.block_bytes();
}

void unpack(Packing packing, const HlwqFormat& f, const uint8_t* in, uint8_t* codes) {
  const int bits = f.bits, block = f.block, half = block / 2;
  switch (packing) {
    case Packing::kBytes:
      std::copy_n(in, block, codes);
      return;
    case Packing::kHalfBlocks:
      for (int i = 0; i < half; ++i) {
        codes[i] = in[i] & 15;
        codes[half + i] = in[i] >> 4;
      }
      return;
    case Packing::kLsbFirst:  // eight codes fill `bits` bytes
      for (int i = 0; i < block; i += 8, in += bits) {
        uint64_t group = 0;
        for (int k = 0; k < bits; ++k) group |= uint64_t{in[k]} << (8 * k);
        for (int j = 0; j < 8; ++j) codes[i + j] = group >> (bits * j) & ((1u << bits) - 1);
      }
      return;
    case Packing::kMsbFirst:
      read_published_stream(bits, in, codes);
      return;
  }
}

class Reader {
 public:
  Reader(const ModelSource& source, const OrderedJson& config) : tensors_(*source.tensors), config_(config) {}

  std::optional<PublishedMatrix> read(const Tensor& t) {
    const auto ends = [&](std::string_view end) { return t.name.ends_with(end); };
    const auto prefix = [&](std::string_view end) { return t.name.substr(0, t.name.size() - end.size()); };
    if (ends(kPublishedPacked)) return packed(t, prefix(kPublishedPacked));
    if (ends(kBareCodes)) return bare(t, prefix(kBareCodes));
    if (ends(kDotCodes)) return dotted(t, prefix(kDotCodes));
    return std::nullopt;
  }

 private:
  const Tensor& part(const std::string& name, const Tensor& of) {
    if (const Tensor* t = tensors_.find(name)) return *t;
    invalid(of.name + " holds codes, but " + name + " is missing");
  }

  /// X.codes, X.norms, X.ct_scaled or X.ct: the width is the table's, the packing follows from the sizes.
  PublishedMatrix dotted(const Tensor& codes, const std::string& prefix) {
    if (!tensors_.find(prefix + ".norms") && tensors_.find(prefix + ".scales"))
      unsupported(codes.name +
                  " comes with scales, not norms: an EOQ checkpoint, whose codes mean something else. "
                  "Quantize its base model: hlwq quantize BASE -o DIR");
    PublishedMatrix m;
    m.name = prefix + ".weight";
    m.norms = &part(joined(prefix, kDotNorms), codes);
    const Tensor* table = tensors_.find(prefix + ".ct_scaled");
    const bool scaled = table != nullptr;
    if (!scaled) table = &part(prefix + ".ct", codes);
    m.parts = {codes.name, m.norms->name, table->name};
    if (table->dtype != DType::kF32 || table->shape.size() != 1)
      invalid(table->name + " must be F32 of one dimension");
    const uint64_t levels = table->shape[0];
    if (levels < 4 || levels > 256 || !std::has_single_bit(levels))
      unsupported(table->name + " has " + std::to_string(levels) +
                  " levels; 4 to 256, a power of two, are read");
    const OrderedJson entry = layer(prefix);
    m.format = {std::countr_zero(levels), 1,
                whole(entry, "block_size", whole(config_, "block_size", kPublishedBlock))};
    if (!valid(m.format)) unsupported(codes.name + ": blocks of " + std::to_string(m.format.block));
    m.table.resize(levels);
    std::memcpy(m.table.data(), table->data.data(), table->data.size());
    // Stored divided by sqrt(block); one rounding to float, as the division was.
    if (scaled)
      for (float& v : m.table)
        v = static_cast<float>(static_cast<double>(v) * std::sqrt(static_cast<double>(m.format.block)));

    const uint64_t blocks = norms_of(m, codes);
    const bool byte_codes = codes.dtype == DType::kI8;
    const uint64_t bytes = blocks ? codes.shape.back() / blocks : 0;
    Packing packing = Packing::kBytes;
    if (!byte_codes && bytes != static_cast<uint64_t>(m.format.block)) {
      if (m.format.bits <= 4)
        packing = Packing::kHalfBlocks;
      else if (m.format.bits == 5)
        packing = Packing::kLsbFirst;
    }
    m.cols = blocks * static_cast<uint64_t>(m.format.block);
    set_columns(m, whole(entry, "in_features", 0), codes.name);
    repack(m, codes, packing, blocks);
    return m;
  }

  /// X__codes, X__norms: nothing tells the width but the codes; half of them lie above the middle.
  PublishedMatrix bare(const Tensor& codes, const std::string& prefix) {
    PublishedMatrix m;
    m.name = published_weight_name(prefix);
    m.norms = &part(joined(prefix, kPublishedNorms), codes);
    m.parts = {codes.name, m.norms->name};
    const uint64_t blocks = norms_of(m, codes);
    const auto* first = reinterpret_cast<const uint8_t*>(codes.data.data());
    const int highest = codes.data.empty() ? 0 : *std::max_element(first, first + codes.data.size());
    m.format = {byte_width(codes.name, highest), 1, kPublishedBlock};
    m.cols = blocks * kPublishedBlock;
    m.cols_known = false;
    repack(m, codes, Packing::kBytes, blocks);
    return m;
  }

  PublishedMatrix packed(const Tensor& codes, const std::string& prefix) {
    const Tensor& meta = part(joined(prefix, kPublishedMeta), codes);
    PublishedMatrix m;
    m.name = published_weight_name(prefix);
    m.norms = &part(joined(prefix, kPublishedNorms), codes);
    m.parts = {codes.name, m.norms->name, meta.name};
    if (meta.dtype != DType::kI64 || meta.shape.size() != 1 || (meta.shape[0] != 4 && meta.shape[0] != 5))
      invalid(meta.name + " must be I64 of 4 or 5 values: rows, blocks, block size, codes, columns");
    int64_t values[5];
    std::memcpy(values, meta.data.data(), meta.data.size());
    for (uint64_t i = 0; i < meta.shape[0]; ++i)
      if (values[i] <= 0) invalid(meta.name + ": value " + std::to_string(i) + " is not positive");
    m.rows = static_cast<uint64_t>(values[0]);
    const auto blocks = static_cast<uint64_t>(values[1]);
    if (values[2] != kPublishedBlock)
      unsupported(meta.name + ": blocks of " + std::to_string(values[2]) + ", only 128 is known");
    m.cols = checked_mul(blocks, kPublishedBlock, meta.name);
    const uint64_t total = checked_mul(m.rows, m.cols, meta.name);
    if (static_cast<uint64_t>(values[3]) != total)
      invalid(meta.name + ": " + std::to_string(values[3]) + " codes for " + std::to_string(m.rows) +
              " rows of " + std::to_string(m.cols));
    m.cols_known = meta.shape[0] == 5;
    if (m.cols_known) set_columns(m, static_cast<uint64_t>(values[4]), meta.name);
    check_norms(m, blocks);
    if (codes.dtype != DType::kU8) invalid(codes.name + " must be U8");
    const uint64_t bytes = codes.data.size(), groups = total / 8, bits = bytes / groups;
    if (bytes % groups != 0 || bits > 8 || !published_bits(static_cast<int>(bits)))
      unsupported(codes.name + ": " + std::to_string(bytes) + " bytes for " + std::to_string(total) +
                  " codes are no width of 2 to 6 or 8 bits");
    m.format = {static_cast<int>(bits), 1, kPublishedBlock};
    if (bits == 8) {
      const auto* first = reinterpret_cast<const uint8_t*>(codes.data.data());
      const int highest = *std::max_element(first, first + bytes);
      // All-zero codes are a matrix of zeros as well; these keep 8 bits.
      if (highest == 1 || highest == 2) byte_width(codes.name, highest);
    }
    repack(m, codes, Packing::kMsbFirst, blocks);
    return m;
  }

  /// Throws for 1 and 1.58 bits, which no table of ours can hold.
  static int byte_width(const std::string& name, int highest) {
    if (highest <= 2)
      unsupported(
          name + " has " + (highest < 2 ? "1" : "1.58") +
          " bits a code, which is not read; take the PQ2 or a wider folder, or quantize the base model");
    return std::bit_width(static_cast<unsigned>(highest));
  }

  OrderedJson layer(const std::string& prefix) const {
    const auto layers = config_.find("layers");
    if (layers == config_.end() || !layers->is_object()) return OrderedJson::object();
    const auto it = layers->find(prefix);
    return it == layers->end() || !it->is_object() ? OrderedJson::object() : *it;
  }

  /// A positive integer of a config, or `otherwise` where there is none.
  template <class T>
  static T whole(const OrderedJson& object, const char* key, T otherwise) {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return otherwise;
    if (!it->is_number_unsigned() || it->get<uint64_t>() == 0 || it->get<uint64_t>() > INT32_MAX)
      invalid(std::string("\"") + key + "\" of the published config must be a positive integer");
    return static_cast<T>(it->get<uint64_t>());
  }

  static void set_columns(PublishedMatrix& m, uint64_t cols, const std::string& name) {
    m.cols_known = cols != 0;
    if (!m.cols_known) return;
    if (cols > m.cols || m.cols - cols >= static_cast<uint64_t>(m.format.block))
      invalid(name + ": " + std::to_string(cols) + " columns in blocks for " + std::to_string(m.cols));
    m.cols = cols;
  }

  /// Rows and blocks a row from codes and norms of two dimensions.
  static uint64_t norms_of(PublishedMatrix& m, const Tensor& codes) {
    if ((codes.dtype != DType::kI8 && codes.dtype != DType::kU8) || codes.shape.size() != 2)
      invalid(codes.name + " must be I8 or U8 of two dimensions");
    m.rows = codes.shape[0];
    if (m.norms->shape.size() != 2) invalid(m.norms->name + " must have two dimensions: rows, blocks");
    const uint64_t blocks = m.norms->shape[1];
    if (blocks == 0 || blocks > 1u << 30 || m.rows == 0) invalid(m.norms->name + " has no blocks");
    check_norms(m, blocks);
    return blocks;
  }

  static void check_norms(const PublishedMatrix& m, uint64_t blocks) {
    if (m.norms->dtype != DType::kF16 || m.norms->shape != std::vector<uint64_t>{m.rows, blocks})
      invalid(m.norms->name + " must be F16 [" + std::to_string(m.rows) + ", " + std::to_string(blocks) +
              "], the norms of that many blocks");
  }

  void repack(PublishedMatrix& m, const Tensor& codes, Packing packing, uint64_t blocks) {
    const uint64_t total = checked_mul(m.rows, blocks, codes.name), in_bytes = block_bytes(packing, m.format);
    if (codes.data.size() != checked_mul(total, in_bytes, codes.name))
      invalid(codes.name + ": " + std::to_string(codes.data.size()) + " bytes for " + std::to_string(total) +
              " blocks of " + std::to_string(m.format.block) + " codes of " + std::to_string(m.format.bits) +
              " bits");
    m.codes.resize(checked_mul(total, m.format.block_bytes(), codes.name));
    m.counts.assign(size_t{1} << m.format.bits, 0);
    const auto* in = reinterpret_cast<const uint8_t*>(codes.data.data());
    uint8_t natural[512];
    for (uint64_t b = 0; b < total; ++b, in += in_bytes) {
      unpack(packing, m.format, in, natural);
      for (int i = 0; i < m.format.block; ++i) {
        if (natural[i] >= m.counts.size())
          invalid(codes.name + ": the code " + std::to_string(natural[i]) + " in a matrix of " +
                  std::to_string(m.format.bits) + " bits");
        ++m.counts[natural[i]];
        natural[i] = stored_code(natural[i], m.format.bits);
      }
      pack_block(m.format, natural, m.codes.data() + b * m.format.block_bytes());
    }
    tensors_.drop(codes);
  }

  const TensorSource& tensors_;
  const OrderedJson& config_;
};

}  // namespace

bool is_published(const ModelSource& source) {
  if (!source.tensors) return false;
  for (const Tensor& t : source.tensors->tensors())
    for (const std::string_view end : {kPublishedPacked, kBareCodes, kDotCodes})
      if (t.name.ends_with(end)) return true;
  return false;
}

OrderedJson published_config(const ModelSource& source) {
  for (const char* file : {"hlwq_config.json", "polar_config.json"}) {
    std::error_code ec;
    if (source.path.empty() || !std::filesystem::is_regular_file(source.path / file, ec)) continue;
    OrderedJson config = read_ordered_json(source.path / file, {.max_bytes = 64u << 20, .max_depth = 16});
    if (!config.is_object()) invalid((source.path / file).string() + ": not a JSON object");
    return config;
  }
  return OrderedJson::object();
}

void read_published(const ModelSource& source, const OrderedJson& config,
                    const std::function<void(PublishedMatrix&&)>& add) {
  Reader reader(source, config);
  for (const Tensor& t : source.tensors->tensors())
    if (auto matrix = reader.read(t)) add(std::move(*matrix));
}

}  // namespace hlwq
