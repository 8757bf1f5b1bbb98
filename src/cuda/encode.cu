#include "cuda/encode.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/encode_blocks.cuh"
#include "cuda/trellis.cuh"

namespace hlwq::cuda {
namespace {

/// Warps of a multiprocessor under which costs in the caller's memory are faster than in shared memory.
constexpr uint64_t kLeastWarps = 3;
constexpr uint64_t kHistoryBytes = uint64_t{64} << 20;

template <typename T>
void append(std::vector<uint32_t>& words, const T* from, size_t count) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  const size_t at = words.size();
  words.resize(at + count);
  std::memcpy(words.data() + at, from, count * sizeof(T));
}

void grow(Buffer& buffer, uint64_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return;
  buffer = Buffer();  // before the new one, so that both need not fit
  buffer = Buffer(bytes, what);
}

// Synchronous: a copy from ordinary memory may return before it has arrived, and not all streams wait for it.
void upload(Buffer& to, const void* from) {
  check(cudaMemcpy(to.as<void>(), from, to.bytes(), cudaMemcpyHostToDevice), "copying the encoder's tables");
  check(cudaStreamSynchronize(nullptr), "copying the encoder's tables");
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&value, which, device), "asking the device");
  return value;
}

unsigned grid_of(uint64_t items, uint64_t per_block) {
  return static_cast<unsigned>(std::min<uint64_t>(ceil_div(items, per_block), 0x7fffffff));
}

}  // namespace

EncodeTables::EncodeTables(const HlwqFormat& format, const Codebook& codebook, NormRule rule)
    : format_(format), rule_(rule) {
  check_codec(format, codebook);
  if (format.lags == 3 && format.bits > 4)
    throw Error(ErrorCode::kUnsupported, "three lags with " + std::to_string(format.bits) +
                                             " bits are not encoded on the GPU; use the CPU");
  std::vector<uint32_t> words;
  append(words, codebook.values.data(), codebook.values.size());
  if (format.lags == 1) {
    for (const double t : magnitude_thresholds(codebook)) {
      const auto f = static_cast<float>(t);
      append(words, &f, 1);
    }
  } else {
    const TrellisTables t(codebook);
    for (int lag = 0; lag < t.lags; ++lag) append(words, t.fixed[lag], static_cast<size_t>(t.levels));
    for (const auto* part : {&t.slopes, &t.constants, &t.last_slopes, &t.last_constants, &t.first_constants})
      append(words, part->data(), part->size());
  }
  data_ = Buffer(words.size() * sizeof(uint32_t), "the encoder's tables");
  upload(data_, words.data());
}

EncodeWorkspace::EncodeWorkspace(uint64_t weights_at_once)
    : weights_(std::max<uint64_t>(weights_at_once, 1)), bad_row_(sizeof(uint64_t), "the encoder's state") {
  const uint64_t none = kNoRow;
  upload(bad_row_, &none);
}

uint64_t EncodeWorkspace::bad_row(cudaStream_t stream) const {
  uint64_t row = kNoRow;
  check(cudaMemcpyAsync(&row, bad_row_.as<uint64_t>(), sizeof row, cudaMemcpyDeviceToHost, stream),
        "asking the encoder");
  check(cudaStreamSynchronize(stream), "encoding");
  return row;
}

void EncodeWorkspace::clear_bad_row(cudaStream_t stream) {
  check(cudaMemsetAsync(bad_row_.as<uint64_t>(), 0xff, sizeof(uint64_t), stream), "starting the encoder");
}

/// Whole rows that go through the workspace at once.
struct EncodeBatch {
  const EncodeTables& tables;
  EncodeWorkspace& workspace;
  SourceBlocks blocks;
  uint64_t first_row;
  uint8_t* codes;
  uint16_t* norms;
  bool with_stats;
  cudaStream_t stream;

  float* u() const { return workspace.u_.as<float>(); }
  uint8_t* q() const { return workspace.q_.as<uint8_t>(); }
  unsigned long long* bad_row() const { return workspace.bad_row_.as<unsigned long long>(); }
  uint64_t values() const { return blocks.blocks * static_cast<uint64_t>(blocks.block); }
  unsigned grid() const { return grid_of(blocks.blocks, kEncodeWarps); }

  template <int kPer>
  void rotate() const {
    rotate_kernel<kPer><<<grid(), 32 * kEncodeWarps, 0, stream>>>(blocks, first_row, u(),
                                                                  workspace.squares_.as<double>(), bad_row());
    check_launch("rotating weights");
  }

  template <int kPer>
  void finish() const {
    const HlwqFormat& f = tables.format();
    const FinishTables t{tables.values(), f.bits, f.lags, tables.rule() == NormRule::kCorrected};
    finish_kernel<kPer><<<grid(), 32 * kEncodeWarps, 0, stream>>>(
        blocks, t, first_row, u(), workspace.squares_.as<double>(), q(), codes, norms,
        with_stats ? workspace.stats_.as<CodecStats>() : nullptr, bad_row());
    check_launch("packing codes");
  }

  void nearest() const {
    nearest_kernel<<<static_cast<unsigned>(std::min<uint64_t>(grid_of(values(), 256), 65536)), 256, 0,
                     stream>>>(tables.search<float>(), tables.format().bits, u(), values(), q());
    check_launch("finding nearest codes");
  }

  template <int kBits, int kLags, bool kHistoryInShared>
  void search_in(uint64_t shared) const {
    using Shape = TrellisShape<kBits, kLags>;
    const auto kernel = trellis_kernel<kBits, kLags, kHistoryInShared>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "shared memory for the code search");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "shared memory for the code search");
    unsigned grid = grid_of(blocks.blocks, Shape::kBlocks);
    if constexpr (!kHistoryInShared) {
      int resident = 0;
      check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, 32, shared), "the code search");
      const uint64_t history = Shape::history_bytes(blocks.block);
      const uint64_t most =
          std::min<uint64_t>(std::max<uint64_t>(1, kHistoryBytes / history),
                             static_cast<uint64_t>(std::max(1, resident)) *
                                 static_cast<uint64_t>(attribute(cudaDevAttrMultiProcessorCount)));
      grid = static_cast<unsigned>(std::min<uint64_t>(grid, most));
      grow(workspace.history_, grid * history, "the code search");
    }
    const int states = Shape::kStates;
    const auto* t = tables.search<int32_t>();
    const int32_t* by_state = t + kLags * Shape::kLevels;
    const DeviceTrellis trellis{t,
                                tables.values(),
                                by_state,
                                by_state + states,
                                by_state + 2 * states,
                                by_state + 3 * states,
                                by_state + 4 * states};
    TrellisFactors factors;
    for (int k = 0; k < kTrellisTries; ++k) factors.of[k] = trellis_factor(k);
    kernel<<<grid, 32, shared, stream>>>(trellis, u(), blocks.block, blocks.blocks, factors,
                                         workspace.history_.as<int32_t>(), q());
    check_launch("searching codes");
  }

  template <int kBits, int kLags>
  void search() const {
    using Shape = TrellisShape<kBits, kLags>;
    // What the system keeps of each thread block's shared memory.
    constexpr uint64_t kReserved = 1024;
    const uint64_t whole = Shape::shared_bytes(blocks.block, true);
    const auto room = static_cast<uint64_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
    if (kLeastWarps * (whole + kReserved) <= room &&
        whole <= static_cast<uint64_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)))
      search_in<kBits, kLags, true>(whole);
    else
      search_in<kBits, kLags, false>(Shape::shared_bytes(blocks.block, false));
  }

  void codes_of_blocks() const {
    const HlwqFormat& f = tables.format();
    switch (f.lags * 10 + f.bits) {
      case 22:
        return search<2, 2>();
      case 23:
        return search<3, 2>();
      case 24:
        return search<4, 2>();
      case 25:
        return search<5, 2>();
      case 26:
        return search<6, 2>();
      case 32:
        return search<2, 3>();
      case 33:
        return search<3, 3>();
      case 34:
        return search<4, 3>();
      default:
        return nearest();
    }
  }

  template <int kPer>
  void encode() const {
    rotate<kPer>();
    codes_of_blocks();
    finish<kPer>();
  }

  void run() const {
    switch (blocks.block) {
      case 32:
        return encode<1>();
      case 64:
        return encode<2>();
      case 128:
        return encode<4>();
      case 256:
        return encode<8>();
      default:
        return encode<16>();
    }
  }
};

void encode_rows(const EncodeTables& tables, const EncodeRows& rows, EncodeWorkspace& workspace,
                 cudaStream_t stream) {
  const HlwqFormat& f = tables.format();
  const uint64_t row_blocks = f.row_blocks(rows.cols);
  if (rows.rows == 0) return;
  if (row_blocks == 0) {
    if (rows.stats)
      check(cudaMemsetAsync(rows.stats, 0, rows.rows * sizeof(CodecStats), stream), "empty rows");
    return;
  }
  const uint64_t row_values = row_blocks * static_cast<uint64_t>(f.block);
  const uint64_t batch = std::clamp<uint64_t>(workspace.weights_ / row_values, 1, rows.rows);
  grow(workspace.u_, batch * row_values * sizeof(float), "rotated weights");
  grow(workspace.q_, batch * row_values, "codes");
  grow(workspace.squares_, batch * row_blocks * sizeof(double), "norms");
  if (rows.stats) grow(workspace.stats_, batch * row_blocks * sizeof(CodecStats), "error sums");
  for (uint64_t first = 0; first < rows.rows; first += batch) {
    const uint64_t n = std::min(batch, rows.rows - first);
    const auto* source =
        static_cast<const uint8_t*>(rows.source) + first * rows.cols * source_bytes(rows.type);
    EncodeBatch{tables,
                workspace,
                {source, rows.type, rows.cols, row_blocks, n * row_blocks, f.block},
                rows.first_row + first,
                rows.codes + first * f.row_bytes(rows.cols),
                rows.norms + first * row_blocks,
                rows.stats != nullptr,
                stream}
        .run();
    if (!rows.stats) continue;
    row_stats_kernel<<<grid_of(n, 128), 128, 0, stream>>>(workspace.stats_.as<CodecStats>(), n, row_blocks,
                                                          rows.stats + first);
    check_launch("adding up errors");
  }
}

}  // namespace hlwq::cuda
