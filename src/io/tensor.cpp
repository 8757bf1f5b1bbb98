#include "io/tensor.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/half.h"
#include "hlwq/error.h"
#include "io/gguf_blocks.h"

namespace hlwq {
namespace {

using namespace gguf_blocks;

constexpr std::array kTable = {
    DTypeInfo{"F64", 1, 8, true},
    DTypeInfo{"F32", 1, 4, true},
    DTypeInfo{"F16", 1, 2, true},
    DTypeInfo{"BF16", 1, 2, true},
    DTypeInfo{"I64", 1, 8, false},
    DTypeInfo{"I32", 1, 4, false},
    DTypeInfo{"I16", 1, 2, false},
    DTypeInfo{"I8", 1, 1, false},
    DTypeInfo{"U64", 1, 8, false},
    DTypeInfo{"U32", 1, 4, false},
    DTypeInfo{"U16", 1, 2, false},
    DTypeInfo{"U8", 1, 1, false},
    DTypeInfo{"BOOL", 1, 1, false},
    DTypeInfo{"Q4_0", kLegacyElements, kQ4_0Bytes, true},
    DTypeInfo{"Q4_1", kLegacyElements, kQ4_1Bytes, true},
    DTypeInfo{"Q5_0", kLegacyElements, kQ5_0Bytes, true},
    DTypeInfo{"Q5_1", kLegacyElements, kQ5_1Bytes, true},
    DTypeInfo{"Q8_0", kLegacyElements, kQ8_0Bytes, true},
    DTypeInfo{"Q2_K", kSuperElements, kQ2_KBytes, true},
    DTypeInfo{"Q3_K", kSuperElements, kQ3_KBytes, true},
    DTypeInfo{"Q4_K", kSuperElements, kQ4_KBytes, true},
    DTypeInfo{"Q5_K", kSuperElements, kQ5_KBytes, true},
    DTypeInfo{"Q6_K", kSuperElements, kQ6_KBytes, true},
};
static_assert(kTable.size() == static_cast<size_t>(DType::kQ6_K) + 1);
static_assert(kTable[static_cast<size_t>(DType::kBool)].name == "BOOL");
static_assert(kTable[static_cast<size_t>(DType::kQ2_K)].name == "Q2_K");

// Safetensors aligns nothing, so values are loaded by memcpy (an ordinary load to the compiler).
template <class T>
T load(const std::byte* p, size_t i) {
  T value;
  std::memcpy(&value, p + i * sizeof(T), sizeof(T));
  return value;
}

void decode_f64(const std::byte* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(load<double>(in, i));
}

void decode_bf16(const std::byte* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = bf16_to_float(load<uint16_t>(in, i));
}

// All ones when `x` is negative as a signed number. A comparison would do, but GCC makes branches of it.
uint32_t sign_mask(uint32_t x) { return static_cast<uint32_t>(static_cast<int32_t>(x) >> 31); }

// Equals fp16_to_float, without branches so that it vectorises, and without arithmetic on float subnormals,
// which many processors slow down for: a subnormal half becomes the difference of two numbers near 2^-14,
// others subtract zero. Infinities and NaN come out with a finite exponent, which is raised to the top
// afterwards.
void decode_f16(const std::byte* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const uint32_t h = load<uint16_t>(in, i);
    const uint32_t shifted = (h & 0x7fff) << 13;
    const uint32_t subnormal = sign_mask(shifted - 0x00800000u);  // all ones below 2^-14
    const float high = std::bit_cast<float>(shifted + 0x38000000u + (subnormal & 0x00800000u));
    const float offset = std::bit_cast<float>(subnormal & 0x38800000u);
    const uint32_t top = sign_mask(0x0f7fffffu - shifted) & 0x7f800000u;
    out[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(high - offset) | top | ((h & 0x8000) << 16));
  }
}

// `n` values, a whole number of storage blocks.
void decode(DType dtype, const std::byte* in, size_t n, float* out) {
  switch (dtype) {
    case DType::kF64:
      return decode_f64(in, n, out);
    case DType::kF32:
      if (n > 0) std::memcpy(out, in, n * sizeof(float));
      return;
    case DType::kF16:
      return decode_f16(in, n, out);
    case DType::kBF16:
      return decode_bf16(in, n, out);
    case DType::kQ4_0:
      return decode_q4_0(in, n / kLegacyElements, out);
    case DType::kQ4_1:
      return decode_q4_1(in, n / kLegacyElements, out);
    case DType::kQ5_0:
      return decode_q5_0(in, n / kLegacyElements, out);
    case DType::kQ5_1:
      return decode_q5_1(in, n / kLegacyElements, out);
    case DType::kQ8_0:
      return decode_q8_0(in, n / kLegacyElements, out);
    case DType::kQ2_K:
      return decode_q2_k(in, n / kSuperElements, out);
    case DType::kQ3_K:
      return decode_q3_k(in, n / kSuperElements, out);
    case DType::kQ4_K:
      return decode_q4_k(in, n / kSuperElements, out);
    case DType::kQ5_K:
      return decode_q5_k(in, n / kSuperElements, out);
    case DType::kQ6_K:
      return decode_q6_k(in, n / kSuperElements, out);
    default:
      break;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "tensors of type " + std::string(info(dtype).name) + " do not decode to real numbers");
}

// Where value `r` of `size` lies when llama.cpp's converter has interleaved the two halves of each head.
uint64_t interleaved(uint64_t r, uint64_t size, uint32_t heads) {
  const uint64_t head_size = size / heads, half = head_size / 2;
  if (half == 0) return r;
  const uint64_t head = r / head_size, within = r % head_size;
  return head * head_size + 2 * (within % half) + within / half;
}

}  // namespace

const DTypeInfo& info(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

uint64_t Tensor::rows() const {
  uint64_t n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

uint64_t Tensor::row_bytes() const {
  const DTypeInfo& t = info(dtype);
  return cols() / t.block_elements * t.block_bytes;
}

uint64_t Tensor::stored_row(uint64_t r) const {
  return rope_heads == 0 || shape.size() < 2 ? r : interleaved(r, rows(), rope_heads);
}

void decode_rows(const Tensor& tensor, uint64_t first, uint64_t n, float* out) {
  const uint64_t cols = tensor.cols(), row_bytes = tensor.row_bytes();
  if (first > tensor.rows() || n > tensor.rows() - first)
    throw Error(ErrorCode::kInvalidArgument, tensor.name + ": rows " + std::to_string(first) + " to " +
                                                 std::to_string(first + n) + " asked of " +
                                                 std::to_string(tensor.rows()));
  const std::byte* data = tensor.data.data();
  if (tensor.rope_heads == 0) {
    decode(tensor.dtype, data + first * row_bytes, n * cols, out);
  } else if (tensor.shape.size() >= 2) {
    for (uint64_t r = 0; r < n; ++r)
      decode(tensor.dtype, data + tensor.stored_row(first + r) * row_bytes, cols, out + r * cols);
  } else if (n > 0) {  // a bias: its single row is what was permuted
    std::vector<float> stored(cols);
    decode(tensor.dtype, data, cols, stored.data());
    for (uint64_t c = 0; c < cols; ++c) out[c] = stored[interleaved(c, cols, tensor.rope_heads)];
  }
  if (const float add = tensor.add; add != 0)
    for (uint64_t i = 0; i < n * cols; ++i) out[i] += add;
}

}  // namespace hlwq
