#include "model/kv_settings.h"

#include "hlwq/error.h"

namespace hlwq {

KvSettings KvSettings::uniform(int bits) {
  KvSettings s;
  s.sliding = s.full = {bits, bits};
  validate(s);
  return s;
}

KvSettings KvSettings::preset(int bits) {
  KvSettings s = uniform(bits);
  if (bits > 4) return s;
  // Measured in docs/kv-cache.md: keys, where they are stored at all, lose far more than values; sliding
  // layers cost little and lose most, so they stay as they are; the newest thousand tokens and the first few
  // carry most of the attention.
  s.full.k_bits = bits == 2 ? 4 : 8;
  s.sliding = {16, 16};
  s.tail = 1024;
  s.sinks = 4;
  return s;
}

void validate(const KvSettings& s) {
  const auto check = [](int bits, bool keys, const char* what) {
    if (bits != 2 && bits != 3 && bits != 4 && !(keys && bits == 8) && bits != 16 && bits != 32)
      throw Error(ErrorCode::kInvalidArgument, std::string("key/value cache: ") + std::to_string(bits) +
                                                   " bits for " + what + "; choose 2, 3, 4, " +
                                                   (keys ? "8, " : "") + "16 or 32");
  };
  check(s.sliding.k_bits, true, "keys of sliding layers");
  check(s.sliding.v_bits, false, "values of sliding layers");
  check(s.full.k_bits, true, "keys of full layers");
  check(s.full.v_bits, false, "values of full layers");
  constexpr uint64_t kMost = 1 << 20;
  if (s.tail > kMost || s.sinks > kMost)
    throw Error(ErrorCode::kInvalidArgument,
                "key/value cache: the exact tail and sinks are at most " + std::to_string(kMost) + " tokens");
}

std::string describe(const KvSettings& s) {
  const auto one = [](int bits) {
    return bits == 32 ? std::string("F32") : bits == 16 ? std::string("BF16") : "Q" + std::to_string(bits);
  };
  const auto format = [&](const KvFormat& f) {
    return f.k_bits == f.v_bits ? one(f.k_bits)
                                : "K" + std::to_string(f.k_bits) + "V" + std::to_string(f.v_bits);
  };
  std::string text =
      s.sliding == s.full ? format(s.full) : "sliding " + format(s.sliding) + ", full " + format(s.full);
  if (s.tail || s.sinks) text += ", exact " + std::to_string(s.sinks) + " + " + std::to_string(s.tail);
  return text;
}

}  // namespace hlwq
