// 64-bit arithmetic on sizes that come from files: overflow is an error, never a wrap.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "hlwq/error.h"

namespace hlwq {

/// a * b, or Error(kInvalidFile) naming `what`.
inline uint64_t checked_mul(uint64_t a, uint64_t b, const std::string& what) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r))
    throw Error(ErrorCode::kInvalidFile, what + ": size overflows 64 bits");
  return r;
}

/// a + b, or Error(kInvalidFile) naming `what`.
inline uint64_t checked_add(uint64_t a, uint64_t b, const std::string& what) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r))
    throw Error(ErrorCode::kInvalidFile, what + ": size overflows 64 bits");
  return r;
}

/// The product of a shape's dimensions (1 for a scalar), or Error(kInvalidFile) naming `what`.
inline uint64_t checked_elements(std::span<const uint64_t> shape, const std::string& what) {
  uint64_t n = 1;
  for (uint64_t d : shape) n = checked_mul(n, d, what);
  return n;
}

/// ceil(a / b) without overflow; b > 0.
constexpr uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

}  // namespace hlwq
