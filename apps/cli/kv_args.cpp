#include "kv_args.h"

#include <charconv>

#include "common.h"

namespace hlwq::cli {
namespace {

int parse_bits(const std::string& option, std::string_view text) {
  int bits = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bits);
  if (error != std::errc() || end != text.data() + text.size())
    throw UsageError(option + " wants BITS or K:V, each 2, 3, 4, 16 or 32 (keys also 8), got '" +
                     std::string(text) + "'");
  return bits;
}

// "4", or "4:3" for keys and values.
KvFormat parse_format(const std::string& option, const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return {parse_bits(option, text), parse_bits(option, text)};
  const std::string_view view = text;
  return {parse_bits(option, view.substr(0, colon)), parse_bits(option, view.substr(colon + 1))};
}

}  // namespace

void KvArgs::declare(Args& args) {
  args.group("Key/value cache");
  args.option(
      "--kv-bits", bits_, "N",
      "16 (BF16, the default), 32 (F32), or 4, 3, 2: values in codes of so many bits, keys of 8 (at 2: 4)");
  args.option("--kv-full", full_, "K:V", "Bits of keys and values on layers that see the whole context");
  args.option("--kv-sliding", sliding_, "K:V", "Bits of keys and values on sliding layers");
  args.option("--kv-tail", tail_, "N", "Newest tokens that stay exact beside codes");
  args.option("--kv-sinks", sinks_, "N", "First tokens that stay exact beside codes");
  args.choice("--kv-share", share_, {"auto", "on", "off"},
              "Store only values where keys follow from them (auto: wherever they do)");
  args.choice("--kv", plain_, {"bf16", "f32"}, "The same as --kv-bits 16 and 32");
}

int KvArgs::preset(const std::string& who) const {
  if (full_ || sliding_ || tail_ || sinks_ || !share_.empty())
    throw UsageError(who + " takes --kv-bits only, of the options of the key/value cache");
  settings();
  return static_cast<int>(bits_ ? *bits_ : plain_ == "f32" ? 32 : 16);
}

KvSettings KvArgs::settings() const {
  if (bits_ && !plain_.empty()) throw UsageError("--kv and --kv-bits say the same thing; give one of them");
  return usage([&] {
    const int64_t bits = bits_ ? *bits_ : plain_ == "f32" ? 32 : 16;
    KvSettings s = KvSettings::preset(bits > 0 && bits <= 64 ? static_cast<int>(bits) : 0);
    if (full_) s.full = parse_format("--kv-full", *full_);
    if (sliding_) s.sliding = parse_format("--kv-sliding", *sliding_);
    if (tail_) s.tail = *tail_ < 0 ? UINT64_MAX : static_cast<uint64_t>(*tail_);
    if (sinks_) s.sinks = *sinks_ < 0 ? UINT64_MAX : static_cast<uint64_t>(*sinks_);
    if (share_ == "on") s.share = KvShare::kOn;
    if (share_ == "off") s.share = KvShare::kOff;
    validate(s);
    return s;
  });
}

}  // namespace hlwq::cli
