#include "quant/layout.h"

#include <gtest/gtest.h>

#include "quant/published_layout.h"
#include "quant_test_util.h"

namespace hlwq {
namespace {

// The bit of a stored code, found by the prose of layout.h alone.
int bit_by_the_book(const HlwqFormat& f, const std::vector<uint8_t>& packed, int code, int bit) {
  const int g = f.granule(), t = code % g;
  size_t at = static_cast<size_t>(code / g) * f.granule_bytes();
  const Planes p = planes(f.bits);
  for (int i = 0; i < p.count; ++i) {
    const int w = p.width[i], begin = p.shift[i];
    if (bit >= begin && bit < begin + w) {
      const int b = bit - begin, run = g * w / 8;
      if (w == 8) return packed[at + static_cast<size_t>(t)] >> b & 1;
      if (w == 1) return packed[at + static_cast<size_t>(t / 8)] >> (t % 8) & 1;
      return packed[at + static_cast<size_t>(t % run)] >> (t / run * w + b) & 1;
    }
    at += static_cast<size_t>(g * w / 8);
  }
  ADD_FAILURE() << "no plane holds bit " << bit;
  return 0;
}

std::vector<uint8_t> random_codes(const HlwqFormat& f, uint64_t seed) {
  Random random(seed);
  std::vector<uint8_t> codes(static_cast<size_t>(f.block));
  for (uint8_t& c : codes) c = static_cast<uint8_t>(random.next() & ((1u << f.bits) - 1));
  return codes;
}

class Layout : public testing::TestWithParam<std::tuple<int, int>> {
 protected:
  HlwqFormat format() const { return {std::get<0>(GetParam()), 1, std::get<1>(GetParam())}; }
};

TEST_P(Layout, EveryBitIsWhereTheHeaderSays) {
  const HlwqFormat f = format();
  const std::vector<uint8_t> codes = random_codes(f, 5);
  std::vector<uint8_t> packed(f.block_bytes());
  pack_block(f, codes.data(), packed.data());
  for (int c = 0; c < f.block; ++c)
    for (int b = 0; b < f.bits; ++b)
      ASSERT_EQ(bit_by_the_book(f, packed, c, b), codes[static_cast<size_t>(c)] >> b & 1)
          << "code " << c << " bit " << b;
}

TEST_P(Layout, UnpackInvertsPackAndStaysInBounds) {
  const HlwqFormat f = format();
  const std::vector<uint8_t> codes = random_codes(f, 6);
  std::vector<uint8_t> packed(f.block_bytes() + 1, 0xA5), back(codes.size() + 1, 0xA5);
  pack_block(f, codes.data(), packed.data());
  unpack_block(f, packed.data(), back.data());
  EXPECT_EQ(packed.back(), 0xA5);
  EXPECT_EQ(back.back(), 0xA5);
  back.pop_back();
  EXPECT_EQ(back, codes);
}

INSTANTIATE_TEST_SUITE_P(AllFormats, Layout,
                         testing::Combine(testing::Range(2, 9), testing::Values(32, 64, 128, 256, 512)));

TEST(Layout, NaturalAndStoredCodesInvertEachOther) {
  for (int bits = 2; bits <= 8; ++bits)
    for (int n = 0; n < 1 << bits; ++n) EXPECT_EQ(natural_code(stored_code(n, bits), bits), n);
}

TEST(PublishedLayout, StreamIsMsbFirstAndInverts) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const HlwqFormat f{bits, 1, kPublishedBlock};
    std::vector<uint8_t> native, natural;
    for (uint64_t b = 0; b < 3; ++b) {
      const std::vector<uint8_t> codes = random_codes(f, b);
      std::vector<uint8_t> packed(f.block_bytes());
      pack_block(f, codes.data(), packed.data());
      native.insert(native.end(), packed.begin(), packed.end());
      for (const uint8_t c : codes) natural.push_back(static_cast<uint8_t>(natural_code(c, bits)));
    }
    std::vector<uint8_t> stream(native.size()), back(natural.size());
    to_published(bits, 3, native.data(), stream.data());
    for (size_t i = 0; i < natural.size(); ++i)
      for (int b = 0; b < bits; ++b) {
        const size_t at = i * static_cast<size_t>(bits) + static_cast<size_t>(b);
        ASSERT_EQ(stream[at / 8] >> (7 - at % 8) & 1, natural[i] >> (bits - 1 - b) & 1)
            << bits << " bits, code " << i;
      }
    for (size_t b = 0; b < 3; ++b)
      read_published_stream(bits, stream.data() + b * f.block_bytes(), back.data() + b * kPublishedBlock);
    EXPECT_EQ(back, natural) << bits;
  }
}

TEST(PublishedLayout, NamesComeBack) {
  EXPECT_EQ(published_weight_name("model.layers.0.mlp.up_proj.weight"), "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(published_weight_name("model__layers__0__mlp__up_proj"), "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(published_weight_name("model__layers__0__mlp__up_proj__weight"),
            "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(published_weight_name("lm_head"), "lm_head.weight");
}

}  // namespace
}  // namespace hlwq
