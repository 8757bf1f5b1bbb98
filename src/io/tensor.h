// A named tensor in a mapped file: dtype, shape and bytes, never owned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq {

/// Element types of the containers we read. The K- and legacy quants are GGUF's block formats.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

struct DTypeInfo {
  std::string_view name;    ///< "BF16", "Q4_K"...
  uint32_t block_elements;  ///< values per storage block along the last dimension; 1 for plain types
  uint32_t block_bytes;     ///< bytes per storage block
  bool is_float;            ///< decodes to real numbers (floats and GGUF quants)
};
const DTypeInfo& info(DType dtype);

struct Tensor {
  std::string name;  ///< Hugging Face name, e.g. "model.layers.0.self_attn.q_proj.weight"
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;      ///< row-major, outermost first
  std::span<const std::byte> data;  ///< exactly the tensor's bytes, alive as long as its TensorSource

  /// > 0: rows are stored in llama.cpp's interleaved rotary order for this many heads; row access undoes it.
  uint32_t rope_heads = 0;
  /// Added to every value on decoding (GGUF stores Gemma 2/3 norm weights with +1 baked in; we undo it with
  /// -1).
  float add = 0;

  uint64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  uint64_t rows() const;  ///< product of all dimensions but the last
  uint64_t elements() const { return rows() * cols(); }
  uint64_t row_bytes() const;  ///< bytes of one row
  /// Where logical row `r` is stored (undoes rope_heads).
  uint64_t stored_row(uint64_t r) const;
};

/// Decodes rows [first, first + n) to float, out[n * cols()]. Exact for every float type and GGUF quant;
/// integer types throw Error(kInvalidArgument). Rows must be in range.
void decode_rows(const Tensor& tensor, uint64_t first, uint64_t n, float* out);

}  // namespace hlwq
