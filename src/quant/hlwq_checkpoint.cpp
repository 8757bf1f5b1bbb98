#include "quant/hlwq_checkpoint.h"

#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "quant/codec.h"
#include "quant/published_variant.h"

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

bool HlwqCheckpoint::is_hlwq(const ModelSource& source) { return says_hlwq(source) || is_published(source); }

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
  parts_[codes.name] = parts_[norms.name] = name;
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

std::string HlwqCheckpoint::weight_of(const std::string& tensor) const {
  const auto it = parts_.find(tensor);
  return it == parts_.end() ? "" : it->second;
}

void HlwqCheckpoint::read_published(const ModelSource& source) {
  const OrderedJson config = published_config(source);
  codebook_id_ = text(config, "codebook");
  if (!codebook_id_.empty() && codebook_id_ != "published-a" && codebook_id_ != "published-b")
    throw Error(ErrorCode::kUnsupported, source.path.string() + " was packed with the codebook \"" +
                                             codebook_id_ + "\", which this build does not know");
  std::map<std::string, std::vector<uint64_t>> counts;  // of matrices without a table
  ::hlwq::read_published(source, config, [&](PublishedMatrix&& m) {
    if (m.table.empty()) counts.emplace(m.name, std::move(m.counts));
    add_published(std::move(m));
  });
  if (matrices_.empty()) invalid(source.path.string() + " holds no HLWQ tensors");
  if (!counts.empty()) choose_published_tables(*source.tensors, counts);
  if (codebook_id_.empty()) codebook_id_ = "stored";
}

void HlwqCheckpoint::add_published(PublishedMatrix&& matrix) {
  StoredMatrix m;
  m.format = matrix.format;
  m.rows = matrix.rows;
  m.cols = matrix.cols;
  m.cols_known = matrix.cols_known;
  m.shape = {m.rows, m.cols};
  m.codes = owned_codes_.emplace_back(std::move(matrix.codes)).data();
  m.norms = aligned_norms(*matrix.norms);
  if (!matrix.table.empty()) {
    Codebook codebook{m.format.bits, 1, std::vector<float>(matrix.table.size())};
    const int half = 1 << (m.format.bits - 1);
    float last = 0;
    for (int i = 0; i < half; ++i) {
      const float v = matrix.table[static_cast<size_t>(half + i)];
      const float mirror = -matrix.table[static_cast<size_t>(half - 1 - i)];
      // Published tables are odd up to the last bits of single precision, and ascend.
      if (!std::isfinite(v) || v > 100 || v <= last || std::fabs(v - mirror) > 1e-6f * v)
        invalid(matrix.parts.back() + " is no codebook: levels must ascend and be mirrored about zero");
      codebook.values[static_cast<size_t>(i)] = v;
      codebook.values[static_cast<size_t>(half + i)] = -v;
      last = v;
    }
    const auto [it, is_new] = codebooks_.try_emplace({m.format.bits, 1}, codebook);
    if (!is_new && it->second.values != codebook.values)
      throw Error(ErrorCode::kUnsupported, matrix.parts.back() +
                                               " differs from the table of other matrices of " +
                                               std::to_string(m.format.bits) + " bits, which is not read");
  }
  for (std::string& part : matrix.parts) parts_.emplace(std::move(part), matrix.name);
  if (!matrices_.emplace(matrix.name, std::move(m)).second) invalid(matrix.name + " is stored twice");
}

void HlwqCheckpoint::choose_published_tables(const TensorSource& tensors,
                                             const std::map<std::string, std::vector<uint64_t>>& counts) {
  const auto table = [](int bits, bool a) {
    return published_codebook(bits, a ? PublishedVariant::kFinite4 : PublishedVariant::kInfinite);
  };
  std::string why = "named by its config";
  if (codebook_id_.empty()) {
    VariantEvidence evidence;
    for (const auto& [name, count] : counts) {
      const StoredMatrix& m = matrices_.at(name);
      evidence.add_counts(m.format.bits, count);
      const Tensor* exact = tensors.find(name);
      if (!exact || !info(exact->dtype).is_float || exact->shape != m.shape) continue;
      double errors[2] = {0, 0};
      std::vector<float> want(m.cols), got(m.cols);
      for (uint64_t r = 0; r < std::min<uint64_t>(m.rows, 64); ++r) {
        decode_rows(*exact, r, 1, want.data());
        for (const int b : {0, 1}) {
          decode_row(m.format, table(m.format.bits, b == 0), m.codes + r * m.format.row_bytes(m.cols),
                     m.norms + r * m.format.row_blocks(m.cols), m.cols, got.data());
          for (uint64_t i = 0; i < m.cols; ++i) errors[b] += (want[i] - got[i]) * (want[i] - got[i]);
        }
      }
      evidence.add_errors(errors[0], errors[1]);
    }
    const VariantEvidence::Choice choice = evidence.choose();
    codebook_id_ = choice.variant == PublishedVariant::kFinite4 ? "published-a" : "published-b";
    why = choice.why;
  }
  const bool a = codebook_id_ == "published-a";
  notes_.push_back(std::string("codes of the published table with outer ends at ") + (a ? "4" : "infinity") +
                   " (" + codebook_id_ + "), " + why);
  for (const auto& [name, count] : counts) {
    const int bits = matrices_.at(name).format.bits;
    if (!codebooks_.count({bits, 1})) codebooks_.emplace(std::make_pair(bits, 1), table(bits, a));
  }
}

}  // namespace hlwq
