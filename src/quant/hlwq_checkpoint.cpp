#include "quant/hlwq_checkpoint.h"

#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "quant/published_layout.h"

namespace hlwq {
namespace {

[[noreturn]] void invalid(const std::string& what) { throw Error(ErrorCode::kInvalidFile, what); }

const OrderedJson* quantization_config(const ModelSource& source) {
  if (!source.config.is_object()) return nullptr;
  const auto it = source.config.find("quantization_config");
  return it != source.config.end() && it->is_object() ? &*it : nullptr;
}

std::string text(const OrderedJson& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

bool says_hlwq(const ModelSource& source) {
  const OrderedJson* config = quantization_config(source);
  return config && text(*config, "quant_method") == "hlwq";
}

int small_integer(const OrderedJson& object, const char* key, const std::string& what) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer())
    invalid(what + ": \"" + key + "\" is missing or no integer");
  const auto value = it->get<int64_t>();
  if (value < 0 || value > 1024) invalid(what + ": \"" + key + "\" is out of range");
  return static_cast<int>(value);
}

HlwqFormat read_format(const OrderedJson& entry, const std::string& what) {
  const HlwqFormat f{small_integer(entry, "bits", what), small_integer(entry, "lags", what),
                     small_integer(entry, "block", what)};
  if (!valid(f))
    invalid(what +
            ": bits must be 2 to 8, lags 1 to 3 (1 above 6 bits) and the block 32, 64, 128, 256 or 512");
  return f;
}

std::vector<uint64_t> read_shape(const OrderedJson& entry, const std::string& what) {
  const auto it = entry.find("shape");
  if (it == entry.end() || !it->is_array() || it->size() < 2 || it->size() > 3)
    invalid(what + ": \"shape\" must have two or three dimensions");
  std::vector<uint64_t> shape;
  for (const OrderedJson& d : *it) {
    if (!d.is_number_unsigned() || d.get<uint64_t>() == 0)
      invalid(what + ": \"shape\" must hold positive integers");
    shape.push_back(d.get<uint64_t>());
  }
  checked_elements(shape, what);
  return shape;
}

void expect(const Tensor& t, DType dtype, const std::vector<uint64_t>& shape) {
  if (t.dtype == dtype && t.shape == shape) return;
  std::string want, have;
  for (const uint64_t d : shape) want += (want.empty() ? "" : ", ") + std::to_string(d);
  for (const uint64_t d : t.shape) have += (have.empty() ? "" : ", ") + std::to_string(d);
  invalid(t.name + " is " + std::string(info(t.dtype).name) + " [" + have + "], expected " +
          std::string(info(dtype).name) + " [" + want + "]");
}

const Tensor& part(const TensorSource& tensors, const std::string& name, const std::string& of) {
  if (const Tensor* t = tensors.find(name)) return *t;
  invalid(of + " is listed as quantized, but " + name + " is missing");
}

/// Rows times the padded row, both ways of counting it, free of overflow.
void check_sizes(const HlwqFormat& format, uint64_t rows, uint64_t cols, const std::string& name) {
  if (cols > (1ull << 40)) invalid(name + ": " + std::to_string(cols) + " columns");
  checked_mul(rows, checked_mul(format.row_blocks(cols), format.block_bytes(), name), name);
}

}  // namespace

bool HlwqCheckpoint::is_hlwq(const ModelSource& source) {
  if (says_hlwq(source)) return true;
  if (!source.tensors) return false;
  for (const Tensor& t : source.tensors->tensors())
    if (t.name.ends_with(kPublishedPacked)) return true;
  return false;
}

HlwqCheckpoint::HlwqCheckpoint(const ModelSource& source) {
  if (!source.tensors) throw Error(ErrorCode::kNotFound, source.path.string() + " holds no weights");
  if (says_hlwq(source)) {
    read_native(source);
  } else {
    read_published(source);
  }
}

std::optional<StoredMatrix> HlwqCheckpoint::find(const std::string& name) const {
  const auto it = matrices_.find(name);
  if (it == matrices_.end()) return std::nullopt;
  return it->second;
}

const Codebook& HlwqCheckpoint::codebook(int bits, int lags) const {
  const auto it = codebooks_.find({bits, lags});
  if (it == codebooks_.end())
    throw Error(ErrorCode::kNotFound, "the checkpoint has no codebook " + codebook_name(bits, lags));
  return it->second;
}

void HlwqCheckpoint::read_native(const ModelSource& source) {
  const OrderedJson& config = *quantization_config(source);
  const std::string where = source.path.string() + ": quantization_config";
  const int version = small_integer(config, "version", where);
  if (version != 1)
    throw Error(ErrorCode::kUnsupported, where + " has version " + std::to_string(version) +
                                             ", this build reads version 1: update it");
  if (const std::string layout = text(config, "layout"); layout != "native")
    throw Error(ErrorCode::kUnsupported,
                where + " names the layout \"" + layout + "\", this build reads \"native\"");
  codebook_id_ = text(config, "codebook");
  const auto modules = config.find("modules");
  if (modules == config.end() || !modules->is_object()) invalid(where + " has no \"modules\"");
  for (const auto& [name, entry] : modules->items()) {
    const std::string what = where + ", " + name;
    if (!entry.is_object()) invalid(what + " is no object");
    const HlwqFormat format = read_format(entry, what);
    add_native(*source.tensors, name, format, read_shape(entry, what));
  }
}

void HlwqCheckpoint::add_native(const TensorSource& tensors, const std::string& name,
                                const HlwqFormat& format, std::vector<uint64_t> shape) {
  StoredMatrix m;
  m.format = format;
  m.cols = shape.back();
  m.rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) m.rows *= shape[i];
  m.shape = std::move(shape);
  check_sizes(format, m.rows, m.cols, name);
  const Tensor& codes = part(tensors, codes_name(name), name);
  const Tensor& norms = part(tensors, norms_name(name), name);
  expect(codes, DType::kU8, {m.rows, format.row_bytes(m.cols)});
  expect(norms, DType::kF16, {m.rows, format.row_blocks(m.cols)});
  add_native_codebook(tensors, format.bits, format.lags);
  m.codes = reinterpret_cast<const uint8_t*>(codes.data.data());
  m.norms = aligned_norms(norms);
  matrices_.emplace(name, std::move(m));
}

void HlwqCheckpoint::add_native_codebook(const TensorSource& tensors, int bits, int lags) {
  if (codebooks_.count({bits, lags})) return;
  const std::string name = codebook_name(bits, lags);
  const Tensor* t = tensors.find(name);
  if (!t) invalid("the codebook tensor " + name + " is missing");
  const uint64_t levels = uint64_t{1} << bits;
  expect(*t, DType::kF32, {static_cast<uint64_t>(lags), levels});
  Codebook codebook;
  codebook.bits = bits;
  codebook.lags = lags;
  codebook.values.resize(static_cast<size_t>(lags) * levels);
  std::memcpy(codebook.values.data(), t->data.data(), codebook.values.size() * sizeof(float));
  const auto bad = [&name](const char* rule) { invalid(name + " is no codebook: " + rule); };
  for (int lag = 0; lag < lags; ++lag) {
    float last = 0;
    for (uint64_t m = 0; m < levels / 2; ++m) {
      const float* v = &codebook.values[static_cast<uint64_t>(lag) * levels + m];
      // Units of the standard normal: nothing sensible comes near 100, and kernels turn these into small
      // integers.
      if (!std::isfinite(*v) || std::fabs(*v) > 100 || v[levels / 2] != -*v)
        bad("values must be finite, small and mirrored for the negative half");
      // Coupled values may repeat: what tells such codes apart is their effect on the neighbours.
      if (lag == 0 && (*v <= 0 || (lags == 1 ? *v <= last : *v < last)))
        bad("magnitudes must be positive and ascending");
      last = *v;
    }
  }
  codebooks_.emplace(std::make_pair(bits, lags), std::move(codebook));
}

const uint16_t* HlwqCheckpoint::aligned_norms(const Tensor& norms) {
  const std::byte* data = norms.data.data();
  if (reinterpret_cast<uintptr_t>(data) % alignof(uint16_t) == 0)
    return reinterpret_cast<const uint16_t*>(data);
  // Our writer aligns them; other tools that rewrite a safetensors file need not.
  std::vector<uint16_t>& copy = owned_norms_.emplace_back(norms.data.size() / sizeof(uint16_t));
  std::memcpy(copy.data(), data, norms.data.size());
  return copy.data();
}

void HlwqCheckpoint::read_published(const ModelSource& source) {
  codebook_id_ =
      "published-a";  // shipped beside the packer of this layout; ours and others' say when it is another
  for (const char* file : {"hlwq_config.json", "polar_config.json"}) {
    std::error_code ec;
    if (source.path.empty() || !std::filesystem::is_regular_file(source.path / file, ec)) continue;
    const OrderedJson config =
        read_ordered_json(source.path / file, {.max_bytes = 64u << 20, .max_depth = 16});
    if (!config.is_object()) invalid((source.path / file).string() + ": not a JSON object");
    if (const std::string id = text(config, "codebook"); !id.empty()) codebook_id_ = id;
    break;
  }
  if (codebook_id_ != "published-a" && codebook_id_ != "published-b")
    throw Error(ErrorCode::kUnsupported, source.path.string() + " was packed with the codebook \"" +
                                             codebook_id_ + "\", which this build does not know");
  for (const Tensor& t : source.tensors->tensors())
    if (t.name.ends_with(kPublishedPacked))
      add_published(*source.tensors, t, t.name.substr(0, t.name.size() - kPublishedPacked.size()));
  if (matrices_.empty()) invalid(source.path.string() + " holds no HLWQ tensors");
}

void HlwqCheckpoint::add_published(const TensorSource& tensors, const Tensor& packed,
                                   const std::string& prefix) {
  const Tensor& norms = part(tensors, prefix + std::string(kPublishedNorms), packed.name);
  const Tensor& meta = part(tensors, prefix + std::string(kPublishedMeta), packed.name);
  if (meta.dtype != DType::kI64 || meta.shape.size() != 1 || (meta.shape[0] != 4 && meta.shape[0] != 5))
    invalid(meta.name + " must be I64 of 4 or 5 values: rows, blocks, block size, codes, columns");
  int64_t values[5];
  std::memcpy(values, meta.data.data(), meta.data.size());
  for (uint64_t i = 0; i < meta.shape[0]; ++i)
    if (values[i] <= 0) invalid(meta.name + ": value " + std::to_string(i) + " is not positive");
  const auto rows = static_cast<uint64_t>(values[0]), blocks = static_cast<uint64_t>(values[1]);
  if (values[2] != kPublishedBlock)
    throw Error(ErrorCode::kUnsupported,
                meta.name + ": blocks of " + std::to_string(values[2]) + ", only 128 is known");
  const uint64_t padded = checked_mul(blocks, kPublishedBlock, meta.name);
  const uint64_t total = checked_mul(rows, padded, meta.name);
  if (static_cast<uint64_t>(values[3]) != total)
    invalid(meta.name + ": " + std::to_string(values[3]) + " codes for " + std::to_string(rows) +
            " rows of " + std::to_string(padded));
  const uint64_t cols = meta.shape[0] == 5 ? static_cast<uint64_t>(values[4]) : padded;
  if (cols > padded || padded - cols >= kPublishedBlock)
    invalid(meta.name + ": " + std::to_string(cols) + " columns in blocks for " + std::to_string(padded));
  expect(norms, DType::kF16, {rows, blocks});

  if (packed.dtype != DType::kU8) invalid(packed.name + " must be U8");
  const uint64_t bytes = packed.data.size(), groups = total / 8;
  const uint64_t bits = bytes / groups;
  if (bytes % groups != 0 || bits > 8 || !published_bits(static_cast<int>(bits)))
    throw Error(ErrorCode::kUnsupported, packed.name + ": " + std::to_string(bytes) + " bytes for " +
                                             std::to_string(total) +
                                             " codes are no width of 2 to 6 or 8 bits");
  const int width = static_cast<int>(bits);

  StoredMatrix m;
  m.format = {width, 1, kPublishedBlock};
  m.rows = rows;
  m.cols = cols;
  m.shape = {rows, cols};
  std::vector<uint8_t>& codes = owned_codes_.emplace_back(bytes);
  from_published(width, rows * blocks, reinterpret_cast<const uint8_t*>(packed.data.data()), codes.data());
  tensors.drop(packed);
  m.codes = codes.data();
  m.norms = aligned_norms(norms);
  const std::string name = published_weight_name(prefix);
  if (!matrices_.emplace(name, std::move(m)).second) invalid(name + " is stored twice");
  if (!codebooks_.count({width, 1}))
    codebooks_.emplace(
        std::make_pair(width, 1),
        published_codebook(
            width, codebook_id_ == "published-a" ? PublishedVariant::kFinite4 : PublishedVariant::kInfinite));
}

}  // namespace hlwq
