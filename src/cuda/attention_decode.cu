// A decode step's attention on tensor cores: one new token a sequence, keys split over the multiprocessors.
//
// A block works on up to 8 query heads of one KV head over one split of its keys, a warp on 128 channels of
// each key and value. Tiles of stored vectors come in by asynchronous copies, each warp's own part, so that
// only scores and weights cross warps: two barriers a tile.
//
// Plain caches have kernels of their own: what a short step costs is fetching its instructions, once each.
//
// In a whole step (launch_decode with a HeadStep) blocks also norm and turn their queries, and the one whose
// split ends with the new token stores its key and value before it reads them.
#include "cuda/attention_decode_tiles.cuh"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_store.cuh"
#include "cuda/attention_tables.h"
#include "cuda/chain.cuh"
#include "cuda/runtime.h"

namespace hlwq::cuda {
namespace {

constexpr int kHeads = 8;          // query heads of a block
constexpr int kRingBytes = 16384;  // of tiles under way, a warp
constexpr int kWarpsResident =
    8;  // of a multiprocessor: fewer than fit, so that registers let products overlap
[[maybe_unused]] constexpr float kWeightScale = 4096;  // keeps small weights among FP16's normal numbers

struct DecodeArgs {
  AttentionArgs base;
  CodeTable k_table, v_table;
  int head_tiles;
  bool whole_step;  // `step` holds; else base.q holds queries that are ready
  HeadStep step;
};

template <int W>
struct Shared {
  static constexpr int kDim = W * kWarpChannels;
  static constexpr int kPartStride = kMaxTileKeys + 4 * W;
  static constexpr int kRowStride = kDim + 4;
  float rows[kHeads][kRowStride];  // queries
  float2 turns[kDim / 2];          // cosines and sines of the rotary embedding
  float fresh[2][kDim];            // the new key and value
  uint8_t stored[2][kDim];         // their codes
  uint8_t ring[W][kRingBytes];
  float part[W][kHeads][kPartStride];  // scores, each warp's channels
  float norms[2][kMaxTileKeys];        // of keys and values, times head_dim^(-1/2)
  float keep[kHeads], scale[kHeads];
  uint16_t weights[2 * kHeads][kWeightStride];
  uint16_t levels8[256];
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <int W>
__device__ inline void barrier() {
  if constexpr (W == 1)
    __syncwarp();
  else
    __syncthreads();
}

/// Calls fn with a ring's bits as a constant. kPlain: every ring is BF16.
template <bool kPlain, typename Fn>
__device__ __forceinline__ void with_bits(int bits, Fn&& fn) {
  if constexpr (kPlain) return fn(std::integral_constant<int, 16>{});
  switch (bits) {
    case 16:
      return fn(std::integral_constant<int, 16>{});
    case 4:
      return fn(std::integral_constant<int, 4>{});
    case 3:
      return fn(std::integral_constant<int, 3>{});
    case 2:
      return fn(std::integral_constant<int, 2>{});
  }
}

/// A run of positions in a ring, tile by tile.
struct RingRun {
  const uint8_t* data;  // the KV head's first vector, this warp's channels
  const uint16_t* norms;
  uint32_t capacity, slot;

  __device__ RingRun(const KvRing& ring, int bits, int head, int warps, int warp, int begin)
      : capacity(static_cast<uint32_t>(ring.capacity)) {
    const uint64_t row = static_cast<uint64_t>(head) * ring.capacity;
    data = static_cast<const uint8_t*>(ring.data) + (row * warps + warp) * (kWarpChannels / 8 * bits);
    norms = ring.norms + row;
    slot = static_cast<uint32_t>(begin) % capacity;
  }
  __device__ uint32_t at(int j) const {
    const uint32_t s = slot + j;
    return s < capacity ? s : s - capacity;
  }
  __device__ void advance(int n) {
    slot += n;
    if (slot >= capacity) slot -= capacity;
  }
  template <int kBits>
  __device__ void copy(uint8_t* tile, int keys, int n, int warps, int lane) const {
#pragma unroll 2
    for (int c = lane; c < keys * kBits; c += 32) {  // a row has as many chunks as a code has bits
      const int row = c / kBits, chunk = c % kBits;
      const uint64_t from = static_cast<uint64_t>(at(row < n ? row : 0)) * warps * (16 * kBits) + chunk * 16;
      copy_async(tile + row * (16 * kBits) + swizzle<kBits>(row, chunk) * 16, data + from, row < n);
    }
  }
};

/// One vector of the new token: channel lane + 32 i of a head as its linear left it -> normed and turned.
template <int W>
__device__ __forceinline__ void norm_and_turn(const Shared<W>& shared, const HeadStep& step,
                                              const float* weight, bool normed, bool turned,
                                              float (&x)[4 * W], int lane) {
  constexpr int kEach = 4 * W;
  if (normed) {
    float w[kEach], squares = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) w[i] = weight ? weight[lane + 32 * i] : 1.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) squares += x[i] * x[i];
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(32 * kEach) + step.eps);
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] *= scale * w[i];
  }
  if (!turned) return;
#pragma unroll
  for (int i = 0; i < kEach / 2; ++i) {
    const float2 turn = shared.turns[lane + 32 * i];
    const float a = x[i], b = x[i + kEach / 2];
    x[i] = a * turn.x - b * turn.y;
    x[i + kEach / 2] = b * turn.x + a * turn.y;
  }
}

/// The block's queries, into shared.rows: scaled so that scores are powers of two's exponents, and each by a
/// power of two, kept in shared.scale, into FP16's range. With `stores`, also puts the new key and value into
/// their rings.
template <int W, bool kPlain>
__device__ __forceinline__ void prepare_rows(const DecodeArgs& args, Shared<W>& shared, const KvView& view,
                                             int sequence, int kv_head, int first_head, int heads,
                                             int position, bool stores, int warp, int lane) {
  const AttentionArgs& a = args.base;
  const HeadStep& step = args.step;
  constexpr int kDim = W * kWarpChannels, kEach = kDim / 32;
  if (warp == 0 && lane < kHeads && lane >= heads) shared.scale[lane] = 1;
#pragma unroll 1
  for (int r = warp; r < heads + (stores ? 2 : 0); r += W) {
    const bool is_q = r < heads, is_k = r == heads;
    const int64_t q_head = kv_head * a.group + first_head + r;
    const float* from = !args.whole_step ? a.q + (static_cast<int64_t>(sequence) * a.heads + q_head) * kDim
                        : is_q           ? step.q + sequence * step.q_stride + q_head * kDim
                               : (is_k ? step.k : step.v) + sequence * step.kv_stride + kv_head * kDim;
    float x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = from[lane + 32 * i];
    if (args.whole_step) {
      const float* weight = is_q ? step.q_norm : is_k ? step.k_norm : nullptr;
      norm_and_turn<W>(shared, step, weight, is_q || is_k ? weight != nullptr : step.v_norm, is_q || is_k, x,
                       lane);
    }
    if (!is_q) {
      float* fresh = shared.fresh[is_k];
#pragma unroll
      for (int i = 0; i < kEach; ++i) fresh[lane + 32 * i] = x[i];
      __syncwarp();
      const KvStore& store = is_k ? view.k : view.v;
      if constexpr (kPlain)
        put_bf16(store.main, ring_row(store.main, kv_head, position), fresh, kDim, lane);
      else
        store_vector(a.tables, store, kDim, kv_head, position, fresh, shared.stored[is_k], lane);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] *= a.scale * 1.44269504f;
    if (!kPlain && a.k_bits < 16) {
      hadamard_sums<kEach>(x, lane);
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] *= rsqrtf(static_cast<float>(kDim));
    }
    float top = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) top = fmaxf(top, fabsf(x[i]));
    for (int step = 16; step; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    const int exponent = top > 0 && top < INFINITY ? ilogbf(top) : 0;
    const float down = ldexpf(1.0f, -exponent);
#pragma unroll
    for (int i = 0; i < kEach; ++i) shared.rows[r][lane + 32 * i] = x[i] * down;
    if (lane == 0) shared.scale[r] = ldexpf(1.0f, exponent);
  }
  __syncthreads();
}

/// A lane's part of the queries, in the order in which keys of `bits` bits are read.
template <int W>
__device__ __forceinline__ void arrange_queries(const Shared<W>& shared, int heads, int bits,
                                                uint32_t (&q)[8][4], int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
  const float* row = shared.rows[g] + warp * kWarpChannels;
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    // Channels come as two pairs of neighbours, 64 apart and in turn where codes of 4 bits share bytes.
    float2 first{}, second{};
    if (g < heads) {
      first = *reinterpret_cast<const float2*>(row + score_channel(bits, s, t, 0));
      second = *reinterpret_cast<const float2*>(row + score_channel(bits, s, t, bits == 4 ? 1 : 2));
    }
    const float x[4] = {first.x, bits == 4 ? second.x : first.y, bits == 4 ? first.y : second.x, second.y};
    float high[4];
#pragma unroll
    for (int e = 0; e < 4; ++e)
      high[e] =
          bits == 16 ? __bfloat162float(__float2bfloat16_rn(x[e])) : __half2float(__float2half_rn(x[e]));
    const auto pack = [&](float lo, float hi) { return bits == 16 ? pack_bf16(lo, hi) : pack_f16(lo, hi); };
    q[s][0] = pack(high[0], high[1]);
    q[s][1] = pack(x[0] - high[0], x[1] - high[1]);
    q[s][2] = pack(high[2], high[3]);
    q[s][3] = pack(x[2] - high[2], x[3] - high[3]);
  }
}

/// What a thread knows of the softmax of its head.
struct Softmax {
  float top = -INFINITY, total = 0;
  float unit =
      1;  ///< outputs so far are in units of this / kWeightScale: a power of two that no norm exceeds
};

/// Weights of a tile's n keys from their scores: a thread has every (4 W)th key of head thread / (4 W).
template <int W>
__device__ __forceinline__ void weigh(Shared<W>& shared, Softmax& state, int keys, int n, bool k_coded,
                                      bool v_coded, int thread) {
  constexpr int kLanes = 4 * W, kEach = kMaxTileKeys / kLanes;
  const int head = thread / kLanes, first = thread % kLanes;
  const float scale = shared.scale[head];
  float s[kEach], v_norm[kEach], top = state.top, unit = state.unit;
#pragma unroll
  for (int u = 0; u < kEach; ++u) {
    const int j = first + u * kLanes;
    s[u] = -INFINITY;
    v_norm[u] = 1;
    if (j >= n) continue;
    float x = 0;
#pragma unroll
    for (int w = 0; w < W; ++w) x += shared.part[w][head][j];
    s[u] = x * scale * (k_coded ? shared.norms[0][j] : 1.0f);
    top = fmaxf(top, s[u]);
    if (!v_coded) continue;
    v_norm[u] = shared.norms[1][j];
    unit = fmaxf(unit, v_norm[u]);
  }
#pragma unroll
  for (int step = kLanes / 2; step; step /= 2) {
    top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    unit = fmaxf(unit, __shfl_xor_sync(~0u, unit, step));
  }
  if (unit > state.unit) unit = exp2f(ceilf(log2f(unit)));
  const float base = top == -INFINITY ? 0.0f : top;
  const float kept = exp2f(state.top - base), up = kWeightScale / unit;
  state.total *= kept;
#pragma unroll
  for (int u = 0; u < kEach; ++u) {
    const int j = first + u * kLanes;
    if (j >= keys) break;
    const float p = exp2f(s[u] - base);
    state.total += p;
    const float w = p * v_norm[u] * up;
    uint16_t *high = shared.weights[head] + weight_column(j), *low = high + kHeads * kWeightStride;
    if (v_coded) {
      const __half h = __float2half_rn(w);
      *high = __half_as_ushort(h);
      *low = __half_as_ushort(__float2half_rn(w - __half2float(h)));
    } else {
      const __nv_bfloat16 h = __float2bfloat16_rn(w);
      *high = __bfloat16_as_ushort(h);
      *low = __bfloat16_as_ushort(__float2bfloat16_rn(w - __bfloat162float(h)));
    }
  }
  if (first == 0) shared.keep[head] = kept * (state.unit / unit);
  state.top = top;
  state.unit = unit;
}

/// Keys [begin, end) of one source.
template <int W, bool kPlain>
__device__ void run_source(const DecodeArgs& args, Shared<W>& shared, const KvRing& k_ring,
                           const KvRing& v_ring, int kv_head, int begin, int end, const uint32_t (&q)[8][4],
                           Softmax& state, float (&o)[16][4], int warp, int lane) {
  const int k_bits = kPlain ? 16 : k_ring.bits, v_bits = kPlain ? 16 : v_ring.bits;
  RingRun k_run(k_ring, k_bits, kv_head, W, warp, begin), v_run(v_ring, v_bits, kv_head, W, warp, begin);
  const bool k_coded = k_bits < 16, v_coded = v_bits < 16;
  const int keys = k_coded && v_coded ? 32 : 16;
  const int k_bytes = keys * 16 * k_bits, stage_bytes = k_bytes + keys * 16 * v_bits;
  const int stages = min(4, kRingBytes / stage_bytes), n_tiles = (end - begin + keys - 1) / keys;
  const float norm_scale = rsqrtf(static_cast<float>(W * kWarpChannels));
  uint8_t* ring = shared.ring[warp];

  int fetched = 0, fetch_stage = 0;
  const auto fetch = [&] {
    if (fetched < n_tiles) {
      const int n = min(keys, end - begin - fetched * keys);
      uint8_t *k = ring + fetch_stage * stage_bytes, *v = k + k_bytes;
      if (!kPlain && k_bits == 8)
        k_run.template copy<8>(k, keys, n, W, lane);
      else
        with_bits<kPlain>(k_bits, [&](auto b) { k_run.template copy<b()>(k, keys, n, W, lane); });
      with_bits<kPlain>(v_bits, [&](auto b) { v_run.template copy<b()>(v, keys, n, W, lane); });
      k_run.advance(keys);
      v_run.advance(keys);
      ++fetched;
      if (++fetch_stage == stages) fetch_stage = 0;
    }
    copy_commit();
  };
  // The first warp brings the norms: a lane each of a tile's, a tile ahead.
  RingRun k_ahead = k_run, v_ahead = v_run;
  float k_norm = 0, v_norm = 0;
  const auto fetch_norms = [&](int tile) {
    if (lane >= end - begin - tile * keys || lane >= keys) return;
    if (k_coded) k_norm = __half2float(__ushort_as_half(k_ahead.norms[k_ahead.at(lane)])) * norm_scale;
    if (v_coded) v_norm = __half2float(__ushort_as_half(v_ahead.norms[v_ahead.at(lane)])) * norm_scale;
    k_ahead.advance(keys);
    v_ahead.advance(keys);
  };
  if (!kPlain && warp == 0) fetch_norms(0);

  int stage = 0;
#pragma unroll 1
  for (int tile = 1 - stages; tile < n_tiles; ++tile) {
    if (tile < 0) {  // the first ones on their way
      fetch();
      continue;
    }
    if (stages == 2)
      copy_wait<0>();
    else if (stages == 3)
      copy_wait<1>();
    else
      copy_wait<2>();
    __syncwarp();
    fetch();
    const int n = min(keys, end - begin - tile * keys);
    if (!kPlain && warp == 0) {
      shared.norms[0][lane] = k_norm;
      shared.norms[1][lane] = v_norm;
      fetch_norms(tile + 1);
    }
    const uint8_t *k = ring + stage * stage_bytes, *v = k + k_bytes;
    if (++stage == stages) stage = 0;
    float* part = shared.part[warp][0];
    constexpr int kStride = Shared<W>::kPartStride;
    if (!kPlain && k_bits == 8)
      score_tile<8>(k, keys, q, args.k_table, shared.levels8, part, kStride, lane);
    else
      with_bits<kPlain>(k_bits, [&](auto b) {
        score_tile<b()>(k, keys, q, args.k_table, shared.levels8, part, kStride, lane);
      });
    barrier<W>();
    weigh<W>(shared, state, keys, n, k_coded, v_coded, warp * 32 + lane);
    barrier<W>();
    const float keep = shared.keep[lane / 4];
    if (__any_sync(~0u, keep != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 16; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][c] *= keep;
    }
    with_bits<kPlain>(v_bits,
                      [&](auto b) { value_tile<b()>(v, keys, shared.weights[0], args.v_table, o, lane); });
  }
  copy_wait<0>();
  __syncwarp();
}

/// Asks for the first of a source's keys and values, which are far away when it is the first of its kind.
template <int W, bool kPlain>
__device__ __forceinline__ void prefetch(const KvView& view, KeySource source, int kv_head, int begin,
                                         int end, int thread) {
  constexpr int kAhead = 32, kLine = 128;  // keys; bytes
  const int n = min(end - begin, kAhead);
#pragma unroll 1
  for (int kind = 0; kind < 2; ++kind) {
    const KvStore& store = kind ? view.v : view.k;
    const KvRing& ring = kPlain ? store.main : ring_of(store, source);
    const int bytes = W * kWarpChannels / 8 * (kPlain ? 16 : ring.bits), lines = (bytes + kLine - 1) / kLine;
#pragma unroll 1
    for (int i = thread; i < n * lines; i += W * 32) {
      const auto* p = static_cast<const uint8_t*>(ring.data) +
                      ring_row(ring, kv_head, begin + i / lines) * bytes + i % lines * kLine;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
    }
  }
}

/// A split's part of the keys of each source. Exact vectors cost as much as several coded ones.
__device__ inline KeyRange source_part(const KeyRange (&all)[3], int source, int exact_cost, int splits,
                                       int split) {
  int64_t units[3], total = 0;
  for (int i = 0; i < 3; ++i) {
    units[i] = static_cast<int64_t>(max(0, all[i].end - all[i].begin)) * (i == 1 ? 1 : exact_cost);
    total += units[i];
  }
  const int64_t each =
      max(static_cast<int64_t>(kKeysPerSplit), (total + splits - 1) / splits + kMaxTileKeys - 1) /
      kMaxTileKeys * kMaxTileKeys;
  int64_t begin = split * each, end = begin + each;
  for (int i = 0; i < source; ++i) {
    begin -= units[i];
    end -= units[i];
  }
  const int64_t cost = source == 1 ? 1 : exact_cost;
  const int64_t keys = units[source] / cost;
  begin = min(keys, (max(begin, int64_t{0}) + cost - 1) / cost);
  end = min(keys, (max(end, int64_t{0}) + cost - 1) / cost);
  return {all[source].begin + static_cast<int>(begin), all[source].begin + static_cast<int>(end)};
}

#endif

/// Grid: (splits, KV heads x tiles of query heads, sequences).
template <int W, bool kPlain>
__global__ void __launch_bounds__(W * 32, kWarpsResident / W)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ uint4 dynamic[];
  auto& shared = *reinterpret_cast<Shared<W>*>(dynamic);
  constexpr int kDim = W * kWarpChannels;
  const AttentionArgs& a = args.base;
  const int thread = threadIdx.x, warp = W == 1 ? 0 : thread / 32, lane = thread % 32;
  const int split = blockIdx.x, sequence = blockIdx.z;
  const int kv_head = blockIdx.y / args.head_tiles, first_head = blockIdx.y % args.head_tiles * kHeads;
  const int heads = min(kHeads, a.group - first_head);
  const int64_t first_row = static_cast<int64_t>(sequence) * a.heads + kv_head * a.group + first_head;
  start_next_kernel();
  // Views and positions are copied before a step's first kernel, and no kernel writes them.
  const KvView& view = a.views[sequence];
  const int position = static_cast<int>(a.positions[sequence]);
  const KeySpan span{a, position};
  KeyRange all[3] = {};
  all[1] = span.keys(0, KeySource::kMain);
  if (!kPlain) all[0] = span.keys(0, KeySource::kSinks), all[2] = span.keys(0, KeySource::kExact);
  const int exact_cost = kPlain ? 1 : max(1, 32 / (a.k_bits + a.v_bits));
  bool any = false, stores = false;
#pragma unroll 1
  for (int i = kPlain; i < (kPlain ? 2 : 3); ++i) {
    const KeyRange part = source_part(all, i, exact_cost, a.splits, split);
    if (part.begin >= part.end) continue;
    any = true;
    stores |= part.end == position + 1;
    prefetch<W, kPlain>(view, static_cast<KeySource>(i), kv_head, part.begin, part.end, thread);
  }
  stores &= args.whole_step && args.step.v != nullptr;
  if (!kPlain && a.k_bits == 8)
    for (int i = thread; i < 256; i += W * 32)
      shared.levels8[i] = __half_as_ushort(__float2half_rn(level(a.tables, 8, i)));
  if (args.whole_step) {
#pragma unroll 1
    for (int i = thread; i < kDim / 2; i += W * 32) {
      float2 turn;
      sincosf(static_cast<float>(position) * args.step.inv_freq[i], &turn.y, &turn.x);
      shared.turns[i] = {turn.x * args.step.rope_scale, turn.y * args.step.rope_scale};
    }
    __syncthreads();
  }
  wait_for_previous_kernel();
  if (any)
    prepare_rows<W, kPlain>(args, shared, view, sequence, kv_head, first_head, heads, position, stores, warp,
                            lane);

  Softmax state;
  float o[16][4] = {};
  uint32_t q[8][4];
  int q_bits = 0;
#pragma unroll 1
  for (int i = kPlain; i < (kPlain ? 2 : 3); ++i) {
    const KeyRange part = source_part(all, i, exact_cost, a.splits, split);
    if (part.begin >= part.end) continue;
    const auto source = kPlain ? KeySource::kMain : static_cast<KeySource>(i);
    const KvRing &k = kPlain ? view.k.main : ring_of(view.k, source),
                 &v = kPlain ? view.v.main : ring_of(view.v, source);
    if (const int bits = kPlain ? 16 : k.bits; bits != q_bits) {
      q_bits = bits;
      arrange_queries<W>(shared, heads, bits, q, warp, lane);
    }
    run_source<W, kPlain>(args, shared, k, v, kv_head, part.begin, part.end, q, state, o, warp, lane);
  }

  // The sums of a head's threads; then every lane's outputs, rows g and g + 8 added.
#pragma unroll
  for (int step = 2 * W; step; step /= 2) state.total += __shfl_xor_sync(~0u, state.total, step);
  const int head = thread / (4 * W);
  __syncthreads();
  if (thread % (4 * W) == 0) {
    shared.keep[head] = state.unit / kWeightScale * (a.splits > 1 ? 1.0f : 1.0f / state.total);
    if (a.splits > 1 && head < heads) {
      float* stats = a.stats + ((first_row + head) * a.splits + split) * 2;
      stats[0] = state.top * 0.693147181f;
      stats[1] = state.total;
    }
  }
  __syncthreads();
  const int g = lane / 4, t = lane % 4;
  if (g >= heads || (a.splits > 1 && state.top == -INFINITY)) return;
  const float scale = shared.keep[g];
  float* to =
      (a.splits > 1 ? a.sums + ((first_row + g) * a.splits + split) * kDim : a.out + (first_row + g) * kDim) +
      warp * kWarpChannels + 8 * t;
#pragma unroll
  for (int f = 0; f < 4; ++f) {
    float4 x, y;
    x.x = scale * (o[4 * f][0] + o[4 * f][2]);
    x.y = scale * (o[4 * f + 1][0] + o[4 * f + 1][2]);
    x.z = scale * (o[4 * f + 2][0] + o[4 * f + 2][2]);
    x.w = scale * (o[4 * f + 3][0] + o[4 * f + 3][2]);
    y.x = scale * (o[4 * f][1] + o[4 * f][3]);
    y.y = scale * (o[4 * f + 1][1] + o[4 * f + 1][3]);
    y.z = scale * (o[4 * f + 2][1] + o[4 * f + 2][3]);
    y.w = scale * (o[4 * f + 3][1] + o[4 * f + 3][3]);
    *reinterpret_cast<float4*>(to + 32 * f) = x;
    *reinterpret_cast<float4*>(to + 32 * f + 4) = y;
  }
#endif
}

template <int W>
void launch(const DecodeArgs& args, int kv_heads, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<W>);
  const auto kernel = args.base.coded() ? decode_kernel<W, false> : decode_kernel<W, true>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "attention's shared memory");
  const dim3 grid(static_cast<unsigned>(args.base.splits), static_cast<unsigned>(kv_heads * args.head_tiles),
                  static_cast<unsigned>(args.base.sequences));
  launch_chained(kernel, grid, W * 32, kBytes, stream, args);
  check_launch("attention");
}

}  // namespace

bool decode_fits(const AttentionPlan& plan) {
  const KvView& l = plan.layout;
  const auto fits = [](int bits) { return (bits >= 2 && bits <= 4) || bits == 16; };
  return plan.tokens == 1 && (l.head_dim == 128 || l.head_dim == 256 || l.head_dim == 512) &&
         (fits(l.k.main.bits) || l.k.main.bits == 8) && fits(l.v.main.bits);
}

int decode_head_tiles(const AttentionPlan& plan) {
  return static_cast<int>((plan.heads / plan.layout.kv_heads + kHeads - 1) / kHeads);
}

int decode_blocks_per_multiprocessor(const AttentionPlan& plan) {
  return kWarpsResident * kWarpChannels / static_cast<int>(plan.layout.head_dim);
}

void launch_decode(const AttentionArgs& base, int kv_heads, const HeadStep* step, cudaStream_t stream) {
  const DecodeArgs args{base,
                        code_table(base.tables, base.k_bits),
                        code_table(base.tables, base.v_bits),
                        (base.group + kHeads - 1) / kHeads,
                        step != nullptr,
                        step ? *step : HeadStep{}};
  if (base.head_dim == 128)
    launch<1>(args, kv_heads, stream);
  else if (base.head_dim == 256)
    launch<2>(args, kv_heads, stream);
  else
    launch<4>(args, kv_heads, stream);
}

}  // namespace hlwq::cuda
