#include "io/compressed_tensors.h"

#include <cstring>
#include <deque>

#include "base/checked.h"
#include "base/half.h"
#include "io/gguf_blocks.h"

namespace hlwq {
namespace {

using namespace gguf_blocks;

constexpr std::string_view kPacked = ".weight_packed";

/// The object under a key, an empty one where there is none.
OrderedJson object(const OrderedJson& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_object() ? *it : OrderedJson::object();
}

void check_scheme(const OrderedJson& config, const std::string& what) {
  const OrderedJson q = object(config, "quantization_config");
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kUnsupported,
                what + " is quantized by compressed-tensors with " + why +
                    "; symmetric 4-bit integers (W4A16, pack-quantized) are read, or take "
                    "the unquantized model");
  };
  if (q.value("format", OrderedJson("pack-quantized")) != "pack-quantized")
    refuse("the format " + q["format"].dump());
  if (!object(q, "transform_config").empty()) refuse("a transform of its weights");
  const OrderedJson groups = object(q, "config_groups");
  for (const auto& [name, group] : groups.items()) {
    const OrderedJson w = group.is_object() ? object(group, "weights") : OrderedJson::object();
    if (w.value("num_bits", OrderedJson(4)) != 4 || w.value("type", OrderedJson("int")) != "int")
      refuse(w.value("num_bits", OrderedJson()).dump() + " bits of " + w.value("type", OrderedJson()).dump());
    if (w.value("symmetric", OrderedJson(true)) != true) refuse("zero points");
  }
}

class CompressedTensors : public TensorSource {
 public:
  CompressedTensors(std::unique_ptr<TensorSource> source, const std::string& what)
      : source_(std::move(source)), what_(what) {
    for (const Tensor& t : source_->tensors()) {
      if (t.name.ends_with(kPacked))
        tensors_.push_back(unpacked(t, t.name.substr(0, t.name.size() - kPacked.size())));
      else if (!part_of_packed(t.name))
        tensors_.push_back(t);
    }
    build_index();
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor& tensor) const override {
    if (const Tensor* own = source_->find(tensor.name)) source_->drop(*own);
  }

 private:
  bool part_of_packed(const std::string& name) const {
    for (const char* end : {".weight_scale", ".weight_shape"})
      if (name.ends_with(end))
        return source_->find(name.substr(0, name.size() - std::strlen(end)) + std::string(kPacked)) !=
               nullptr;
    return false;
  }

  [[noreturn]] void invalid(const std::string& why) const {
    throw Error(ErrorCode::kInvalidFile, what_ + ": " + why);
  }

  const Tensor& part(const std::string& name) const {
    if (const Tensor* t = source_->find(name)) return *t;
    invalid(name + " is missing");
  }

  Tensor unpacked(const Tensor& packed, const std::string& prefix) {
    const Tensor &scales = part(prefix + ".weight_scale"), &shape = part(prefix + ".weight_shape");
    for (const char* other : {".weight_zero_point", ".weight_g_idx"})
      if (source_->find(prefix + other))
        throw Error(ErrorCode::kUnsupported,
                    what_ + ": " + prefix + other + " is not read; take the unquantized model");
    if ((shape.dtype != DType::kI64 && shape.dtype != DType::kI32) || shape.elements() != 2)
      invalid(shape.name + " must be two integers");
    uint64_t dims[2];
    for (int i = 0; i < 2; ++i) {
      int64_t d = 0;
      if (shape.dtype == DType::kI64) {
        std::memcpy(&d, shape.data.data() + 8 * i, 8);
      } else {
        int32_t small = 0;
        std::memcpy(&small, shape.data.data() + 4 * i, 4);
        d = small;
      }
      if (d <= 0 || d > 1ll << 40) invalid(shape.name + " must be positive");
      dims[i] = static_cast<uint64_t>(d);
    }
    const auto [rows, cols] = dims;
    checked_mul(rows, cols, packed.name);
    if (packed.dtype != DType::kI32 || cols % kLegacyElements != 0 ||
        packed.shape != std::vector<uint64_t>{rows, cols / 8})
      invalid(packed.name + " must be I32 [rows, columns / 8] with a multiple of 32 columns");
    const uint64_t groups = scales.shape.size() == 2 ? scales.shape[1] : 0;
    if (!info(scales.dtype).is_float || groups == 0 || scales.shape[0] != rows || cols % groups != 0 ||
        cols / groups % kLegacyElements != 0)
      invalid(scales.name + " must be [rows, groups] of 32 columns or a multiple");

    Tensor t;
    t.name = prefix + ".weight";
    t.shape = {rows, cols};
    t.dtype = DType::kQ4_0;
    std::vector<std::byte>& blocks = memory_.emplace_back(rows * (cols / kLegacyElements) * kQ4_0Bytes);
    if (!repack(packed, scales, rows, cols, groups, blocks)) {
      t.dtype = DType::kF32;
      blocks.resize(checked_mul(rows * cols, sizeof(float), t.name));
      decode(packed, scales, rows, cols, groups, reinterpret_cast<float*>(blocks.data()));
    }
    t.data = blocks;
    source_->drop(packed);
    return t;
  }

  static uint32_t word(const Tensor& packed, uint64_t i) {
    uint32_t w;
    std::memcpy(&w, packed.data.data() + 4 * i, 4);
    return w;
  }

  /// False when a scale is no FP16 number.
  static bool repack(const Tensor& packed, const Tensor& scales, uint64_t rows, uint64_t cols,
                     uint64_t groups, std::vector<std::byte>& blocks) {
    std::vector<float> scale(groups);
    std::byte* out = blocks.data();
    for (uint64_t r = 0; r < rows; ++r) {
      decode_rows(scales, r, 1, scale.data());
      for (uint64_t b = 0; b < cols / kLegacyElements; ++b, out += kQ4_0Bytes) {
        const float s = scale[b * kLegacyElements / (cols / groups)];
        const uint16_t half = float_to_fp16(s);
        if (fp16_to_float(half) != s) return false;
        std::memcpy(out, &half, 2);
        // Eight codes a word, the first lowest; Q4_0 pairs code i with code i + 16.
        for (uint64_t i = 0; i < 2; ++i) {
          const uint32_t low = word(packed, r * (cols / 8) + b * 4 + i),
                         high = word(packed, r * (cols / 8) + b * 4 + 2 + i);
          for (int k = 0; k < 8; ++k)
            out[2 + 8 * i + static_cast<uint64_t>(k)] =
                static_cast<std::byte>((low >> 4 * k & 15) | (high >> 4 * k & 15) << 4);
        }
      }
    }
    return true;
  }

  static void decode(const Tensor& packed, const Tensor& scales, uint64_t rows, uint64_t cols,
                     uint64_t groups, float* out) {
    std::vector<float> scale(groups);
    for (uint64_t r = 0; r < rows; ++r) {
      decode_rows(scales, r, 1, scale.data());
      for (uint64_t c = 0; c < cols; ++c) {
        const auto code = static_cast<int>(word(packed, r * (cols / 8) + c / 8) >> 4 * (c % 8) & 15) - 8;
        *out++ = static_cast<float>(code) * scale[c / (cols / groups)];
      }
    }
  }

  std::unique_ptr<TensorSource> source_;
  const std::string what_;
  std::deque<std::vector<std::byte>> memory_;
  std::vector<Tensor> tensors_;
};

}  // namespace

bool is_compressed_tensors(const OrderedJson& config) {
  if (!config.is_object()) return false;
  return object(config, "quantization_config").value("quant_method", OrderedJson()) == "compressed-tensors";
}

std::unique_ptr<TensorSource> open_compressed_tensors(std::unique_ptr<TensorSource> source,
                                                      const OrderedJson& config, const std::string& what) {
  check_scheme(config, what);
  return std::make_unique<CompressedTensors>(std::move(source), what);
}

}  // namespace hlwq
