// Decoders of GGUF's quantised blocks. Each is exact: the same float32 operations as the format's definition.
//
// Every function decodes `blocks` consecutive blocks at `in` (any alignment) to blocks * elements floats at
// `out`. Legacy formats hold 32 values a block, K formats 256 in sub-blocks of 16 or 32 with their own
// quantised scales.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hlwq::gguf_blocks {

constexpr uint32_t kLegacyElements = 32;
constexpr uint32_t kSuperElements = 256;

// Sizes, bytes: FP16 scale(s) first (Q2_K, Q3_K and Q6_K have them last), then scales and codes as the names
// say.
constexpr uint32_t kQ4_0Bytes = 2 + 16;                 // d, nibbles
constexpr uint32_t kQ4_1Bytes = 2 + 2 + 16;             // d, m, nibbles
constexpr uint32_t kQ5_0Bytes = 2 + 4 + 16;             // d, fifth bits, nibbles
constexpr uint32_t kQ5_1Bytes = 2 + 2 + 4 + 16;         // d, m, fifth bits, nibbles
constexpr uint32_t kQ8_0Bytes = 2 + 32;                 // d, int8
constexpr uint32_t kQ2_KBytes = 16 + 64 + 2 + 2;        // 4-bit scales and mins, 2-bit codes, d, dmin
constexpr uint32_t kQ3_KBytes = 32 + 64 + 12 + 2;       // third bits, 2-bit codes, 6-bit scales, d
constexpr uint32_t kQ4_KBytes = 2 + 2 + 12 + 128;       // d, dmin, 6-bit scales and mins, nibbles
constexpr uint32_t kQ5_KBytes = 2 + 2 + 12 + 32 + 128;  // as Q4_K, fifth bits before the nibbles
constexpr uint32_t kQ6_KBytes = 128 + 64 + 16 + 2;      // low nibbles, high 2-bit pairs, int8 scales, d

void decode_q4_0(const std::byte* in, size_t blocks, float* out);
void decode_q4_1(const std::byte* in, size_t blocks, float* out);
void decode_q5_0(const std::byte* in, size_t blocks, float* out);
void decode_q5_1(const std::byte* in, size_t blocks, float* out);
void decode_q8_0(const std::byte* in, size_t blocks, float* out);
void decode_q2_k(const std::byte* in, size_t blocks, float* out);
void decode_q3_k(const std::byte* in, size_t blocks, float* out);
void decode_q4_k(const std::byte* in, size_t blocks, float* out);
void decode_q5_k(const std::byte* in, size_t blocks, float* out);
void decode_q6_k(const std::byte* in, size_t blocks, float* out);

}  // namespace hlwq::gguf_blocks
