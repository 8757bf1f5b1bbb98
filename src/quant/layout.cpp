#include "quant/layout.h"

#include <cstring>

namespace hlwq {
namespace {

// Each plane: `n` codes of the granule, shifted down to the plane's bits, into n * width / 8 bytes.

void pack_1(const uint8_t* v, int shift, int n, uint8_t* out) {
  for (int i = 0; i < n / 8; ++i) {
    int byte = 0;
    for (int j = 0; j < 8; ++j) byte |= (v[8 * i + j] >> shift & 1) << j;
    out[i] = static_cast<uint8_t>(byte);
  }
}

void pack_2(const uint8_t* v, int shift, int n, uint8_t* out) {
  const int q = n / 4;
  for (int i = 0; i < q; ++i)
    out[i] = static_cast<uint8_t>((v[i] >> shift & 3) | (v[q + i] >> shift & 3) << 2 |
                                  (v[2 * q + i] >> shift & 3) << 4 | (v[3 * q + i] >> shift & 3) << 6);
}

void pack_4(const uint8_t* v, int shift, int n, uint8_t* out) {
  const int h = n / 2;
  for (int i = 0; i < h; ++i)
    out[i] = static_cast<uint8_t>((v[i] >> shift & 15) | (v[h + i] >> shift & 15) << 4);
}

void unpack_1(const uint8_t* in, int shift, int n, uint8_t* v) {
  for (int i = 0; i < n / 8; ++i)
    for (int j = 0; j < 8; ++j) v[8 * i + j] |= static_cast<uint8_t>((in[i] >> j & 1) << shift);
}

void unpack_2(const uint8_t* in, int shift, int n, uint8_t* v) {
  const int q = n / 4;
  for (int part = 0; part < 4; ++part)
    for (int i = 0; i < q; ++i) v[part * q + i] |= static_cast<uint8_t>((in[i] >> (2 * part) & 3) << shift);
}

void unpack_4(const uint8_t* in, int shift, int n, uint8_t* v) {
  const int h = n / 2;
  for (int i = 0; i < h; ++i) {
    v[i] |= static_cast<uint8_t>((in[i] & 15) << shift);
    v[h + i] |= static_cast<uint8_t>((in[i] >> 4) << shift);
  }
}

}  // namespace

void pack_block(const HlwqFormat& format, const uint8_t* codes, uint8_t* packed) {
  const Planes p = planes(format.bits);
  const int n = format.granule();
  for (int begin = 0; begin < format.block; begin += n, codes += n) {
    for (int i = 0; i < p.count; ++i) {
      switch (p.width[i]) {
        case 1:
          pack_1(codes, p.shift[i], n, packed);
          break;
        case 2:
          pack_2(codes, p.shift[i], n, packed);
          break;
        case 4:
          pack_4(codes, p.shift[i], n, packed);
          break;
        default:
          std::memcpy(packed, codes, static_cast<size_t>(n));
      }
      packed += n * p.width[i] / 8;
    }
  }
}

void unpack_block(const HlwqFormat& format, const uint8_t* packed, uint8_t* codes) {
  const Planes p = planes(format.bits);
  const int n = format.granule();
  for (int begin = 0; begin < format.block; begin += n, codes += n) {
    std::memset(codes, 0, static_cast<size_t>(n));
    for (int i = 0; i < p.count; ++i) {
      switch (p.width[i]) {
        case 1:
          unpack_1(packed, p.shift[i], n, codes);
          break;
        case 2:
          unpack_2(packed, p.shift[i], n, codes);
          break;
        case 4:
          unpack_4(packed, p.shift[i], n, codes);
          break;
        default:
          std::memcpy(codes, packed, static_cast<size_t>(n));
      }
      packed += n * p.width[i] / 8;
    }
  }
}

}  // namespace hlwq
