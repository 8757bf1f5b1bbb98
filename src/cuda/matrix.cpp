#include "cuda/matrix.h"

#include "base/checked.h"

namespace hlwq::cuda {

PrmtTables prmt_tables(const LookupTables& tables) {
  PrmtTables out{};
  const auto put = [](uint32_t* words, int at, int8_t value) {
    words[at / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(value)) << (8 * (at % 4));
  };
  // Stored codes with a clear sign bit are magnitudes; above 6 bits no such table is used.
  const int entries = tables.bits == 2 ? 4 : tables.bits <= 6 ? 1 << (tables.bits - 1) : 0;
  for (int i = 0; i < entries; ++i) {
    for (int lag = 0; lag < tables.lags; ++lag) put(out.lag[lag], i, tables.hi[lag][i]);
    if (tables.has_lo) put(out.low, i, tables.lo[0][i]);
  }
  out.step = tables.step;
  out.offset = tables.offset;
  return out;
}

namespace {

uint64_t aligned(uint64_t bytes) { return ceil_div(bytes, uint64_t{256}) * 256; }

}  // namespace

uint64_t DeviceActivations::bytes(uint64_t tokens, uint64_t cols, int block) {
  const uint64_t blocks = ceil_div(cols, static_cast<uint64_t>(block));
  return 3 * aligned(tokens * blocks * static_cast<uint64_t>(block)) +
         aligned(tokens * blocks * sizeof(float2));
}

DeviceActivations DeviceActivations::place(void* memory, uint64_t tokens, uint64_t cols, int block) {
  DeviceActivations x;
  x.tokens = tokens;
  x.cols = cols;
  x.block = block;
  x.blocks = ceil_div(cols, static_cast<uint64_t>(block));
  auto* p = static_cast<int8_t*>(memory);
  for (int8_t*& q : x.q) {
    q = p;
    p += aligned(tokens * x.blocks * static_cast<uint64_t>(block));
  }
  x.scale_sum = reinterpret_cast<float2*>(p);
  return x;
}

}  // namespace hlwq::cuda
