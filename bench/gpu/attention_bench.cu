// Attention on the GPU: a decode step over long caches in every form, and prompts. One JSON line a case;
// bandwidths beside what a plain read reaches in the same run.
//
//   build/gpu_attention_bench [substring of a case's name]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/attention.h"
#include "cuda/runtime.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

__device__ uint32_t mix(uint64_t i) {
  uint32_t x = static_cast<uint32_t>(i) * 0x9e3779b9u ^ static_cast<uint32_t>(i >> 32);
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}
__global__ void fill_words(uint32_t* p, uint64_t n) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < n;
       i += uint64_t{gridDim.x} * blockDim.x)
    p[i] = mix(i);
}
__global__ void fill_bf16(uint16_t* p, uint64_t n) {  // within (-2, 2)
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < n;
       i += uint64_t{gridDim.x} * blockDim.x)
    p[i] = static_cast<uint16_t>(__float_as_uint(static_cast<float>(mix(i)) * 0x1p-30f - 2.0f) >> 16);
}
__global__ void fill_floats(float* p, uint64_t n, float scale) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < n;
       i += uint64_t{gridDim.x} * blockDim.x)
    p[i] = (static_cast<float>(mix(i)) * 0x1p-31f - 1.0f) * scale;
}
__global__ void fill_half(uint16_t* p, uint64_t n, uint16_t bits) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < n;
       i += uint64_t{gridDim.x} * blockDim.x)
    p[i] = bits;
}
__global__ void read_all(const uint4* p, uint64_t n, uint32_t* out) {
  uint32_t x = 0;
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
#pragma unroll 8
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    const uint4 v = __ldcs(p + i);
    x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (x == 0x12345678) *out = x;
}

constexpr int kThreads = 256, kBlocks = 2048;

/// Median microseconds of one of `calls` calls that a captured graph holds.
template <typename Fn>
double microseconds(cudaStream_t stream, int calls, Fn&& call) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  call(0);
  check(cudaStreamSynchronize(stream), "a first call");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  for (int i = 0; i < calls; ++i) call(i);
  check(cudaStreamEndCapture(stream, &graph), "capturing");
  check(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "an event");
  check(cudaEventCreate(&end), "an event");
  std::vector<float> times;
  for (int i = 0; i < 13; ++i) {
    check(cudaEventRecord(begin, stream), "timing");
    check(cudaGraphLaunch(exec, stream), "timing");
    check(cudaEventRecord(end, stream), "timing");
    check(cudaEventSynchronize(end), "timing");
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end), "timing");
    if (i >= 3) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2] * 1000.0 / calls;
}

struct Case {
  uint64_t head_dim, kv_heads, heads, keys;
  int k_bits, v_bits;  // k_bits 0: rebuilt
  uint64_t sequences = 1, tokens = 1, tail = 0, window = 0;
};

uint64_t vector_bytes(int bits, uint64_t d) {
  return d * static_cast<uint64_t>(bits) / 8 + (bits < 16 && bits ? 2 : 0);
}

class Caches {
 public:
  /// As many caches of a case as it takes to leave the L2 cache behind.
  Caches(const Case& c, cudaStream_t stream) {
    const uint64_t vectors = c.kv_heads * c.keys;
    bytes = vectors * (vector_bytes(c.k_bits, c.head_dim) + vector_bytes(c.v_bits, c.head_dim));
    const uint64_t copies = std::clamp<uint64_t>(600'000'000 / bytes, 1, 16) * c.sequences;
    const uint64_t pairs = 64;
    if (!c.k_bits) {
      rope_ = Buffer(c.keys * 2 * pairs * 4, "rotary table");
      weight_ = Buffer(c.head_dim * 4, "weights");
      fill_floats<<<kBlocks, kThreads, 0, stream>>>(rope_.as<float>(), c.keys * 2 * pairs, 1);
      fill_floats<<<kBlocks, kThreads, 0, stream>>>(weight_.as<float>(), c.head_dim, 1);
    }
    for (uint64_t i = 0; i < copies; ++i) {
      KvView v;
      v.kv_heads = c.kv_heads;
      v.head_dim = c.head_dim;
      v.tail = c.k_bits == 16 || c.v_bits == 16 ? 0 : c.tail;
      v.k.main = ring(c.k_bits, c.head_dim, c.kv_heads, c.keys, stream);
      v.v.main = ring(c.v_bits, c.head_dim, c.kv_heads, c.keys, stream);
      if (v.tail && v.k.main.bits) v.k.exact = ring(16, c.head_dim, c.kv_heads, v.tail, stream);
      if (v.tail) v.v.exact = ring(16, c.head_dim, c.kv_heads, v.tail, stream);
      v.k_pairs = pairs;
      v.k_rope = rope_.as<float>();
      v.k_weight = weight_.as<float>();
      views.push_back(v);
    }
    device_views = Buffer(views.size() * sizeof(KvView), "views");
    check(cudaMemcpy(device_views.as<void>(), views.data(), device_views.bytes(), cudaMemcpyHostToDevice),
          "views");
  }
  std::vector<KvView> views;
  Buffer device_views;
  uint64_t bytes;

 private:
  KvRing ring(int bits, uint64_t d, uint64_t heads, uint64_t capacity, cudaStream_t stream) {
    KvRing r{.bits = bits, .capacity = capacity};
    if (!bits) return {};
    const uint64_t data = heads * capacity * d * static_cast<uint64_t>(bits) / 8;
    buffers_.emplace_back(data, "a ring");
    r.data = buffers_.back().as<void>();
    if (bits == 16) {
      fill_bf16<<<kBlocks, kThreads, 0, stream>>>(buffers_.back().as<uint16_t>(), data / 2);
      return r;
    }
    fill_words<<<kBlocks, kThreads, 0, stream>>>(buffers_.back().as<uint32_t>(), data / 4);
    buffers_.emplace_back(heads * capacity * 2, "norms");
    r.norms = buffers_.back().as<uint16_t>();
    fill_half<<<kBlocks, kThreads, 0, stream>>>(r.norms, heads * capacity, 0x4c00);  // 16
    return r;
  }
  std::vector<Buffer> buffers_;
  Buffer rope_, weight_;
};

void run(const Case& c, const KvTables& tables, int multiprocessors, double read, cudaStream_t stream) {
  Caches caches(c, stream);
  AttentionPlan plan;
  plan.heads = c.heads;
  plan.sequences = c.sequences;
  plan.tokens = c.tokens;
  plan.window = c.window;
  plan.context = c.keys;
  plan.layout = caches.views[0];
  const uint64_t rows = c.sequences * c.tokens * c.heads;
  Buffer q(rows * c.head_dim * 4, "queries"), out(rows * c.head_dim * 4, "outputs");
  Buffer scratch(attention_scratch_bytes(plan, multiprocessors), "scratch");
  fill_floats<<<kBlocks, kThreads, 0, stream>>>(q.as<float>(), rows * c.head_dim, 0.1f);
  const std::vector<uint64_t> host(c.sequences, c.keys - c.tokens);
  Buffer positions(c.sequences * 8, "positions");
  check(cudaMemcpy(positions.as<void>(), host.data(), positions.bytes(), cudaMemcpyHostToDevice),
        "positions");
  const int copies = static_cast<int>(caches.views.size() / c.sequences);
  const int calls = c.tokens > 1 ? 1 : std::max(8, copies);
  const double us = microseconds(stream, calls, [&](int i) {
    const KvView* views = caches.device_views.as<KvView>() + static_cast<uint64_t>(i % copies) * c.sequences;
    attention(plan, {views, positions.as<uint64_t>()}, tables, q.as<float>(), out.as<float>(),
              scratch.as<void>(), multiprocessors, stream);
  });
  const uint64_t seen = c.window ? std::min(c.window, c.keys) : c.keys;
  const double bytes = static_cast<double>(caches.bytes) / static_cast<double>(c.keys) *
                       static_cast<double>(seen) * static_cast<double>(c.sequences);
  std::printf(
      "{\"head_dim\": %lu, \"kv_heads\": %lu, \"heads\": %lu, \"keys\": %lu, \"k_bits\": %d, \"v_bits\": %d, "
      "\"sequences\": %lu, \"tokens\": %lu, \"tail\": %lu, \"window\": %lu, \"us\": %.2f, \"bytes\": %.0f, ",
      c.head_dim, c.kv_heads, c.heads, c.keys, c.k_bits, c.v_bits, c.sequences, c.tokens, c.tail, c.window,
      us, bytes);
  if (c.tokens == 1) {
    std::printf("\"GBps\": %.1f, \"of_read\": %.3f}\n", bytes / us * 1e-3, bytes / us * 1e-3 / read);
  } else {
    // Both products over the keys that each query sees.
    const double t = static_cast<double>(c.tokens), n = static_cast<double>(c.keys);
    const double pairs = c.window ? t * static_cast<double>(seen) : t * (n - t / 2);
    std::printf("\"TFLOPS\": %.1f}\n", 4 * pairs * static_cast<double>(c.heads * c.head_dim) / us * 1e-6);
  }
  std::fflush(stdout);
}

/// What stands between a decode step's linears: by its parts, and in two kernels.
void run_step(const Case& c, const KvTables& tables, int multiprocessors, cudaStream_t stream) {
  Caches caches(c, stream);
  AttentionPlan plan;
  plan.heads = c.heads;
  plan.window = c.window;
  plan.context = c.keys;
  plan.layout = caches.views[0];
  const uint64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  Buffer scratch(attention_scratch_bytes(plan, multiprocessors), "scratch");
  Buffer floats((7 * width + c.head_dim) * 4, "heads"),
      quantized(DeviceActivations::bytes(1, width, 128), "INT8");
  fill_floats<<<kBlocks, kThreads, 0, stream>>>(floats.as<float>(), floats.bytes() / 4, 0.1f);
  const uint64_t position = c.keys - 1;
  Buffer positions(8, "positions");
  check(cudaMemcpy(positions.as<void>(), &position, 8, cudaMemcpyHostToDevice), "positions");
  float* f = floats.as<float>();
  const HeadStep step{.tokens = 1,
                      .heads = c.heads,
                      .kv_heads = c.kv_heads,
                      .head_dim = c.head_dim,
                      .q_stride = width,
                      .kv_stride = kv_width,
                      .q = f,
                      .k = f + width,
                      .v = f + 2 * width,
                      .q_out = f + 3 * width,
                      .k_out = f + 4 * width,
                      .v_out = f + 5 * width,
                      .q_norm = f + 7 * width,
                      .k_norm = f + 7 * width,
                      .v_norm = true,
                      .inv_freq = f + 7 * width,
                      .positions = positions.as<uint64_t>()};
  float* out = f + 6 * width;
  const auto act = DeviceActivations::place(quantized.as<void>(), 1, width, 128);
  const auto sequences = [&](int i) {
    return AttentionSequences{
        caches.device_views.as<KvView>() + static_cast<uint64_t>(i) % caches.views.size(),
        positions.as<uint64_t>()};
  };
  const double parts = microseconds(stream, 64, [&](int i) {
    head_step(step, stream);
    store_kv(plan, sequences(i), tables, step.k_out, step.v_out, stream);
    attention(plan, sequences(i), tables, step.q_out, out, scratch.as<void>(), multiprocessors, stream);
    quantize_step(out, act, 2, stream);
  });
  const double whole = microseconds(stream, 64, [&](int i) {
    attention_step(step, plan, sequences(i), tables, out, false, act, 2, scratch.as<void>(), multiprocessors,
                   stream);
  });
  std::printf(
      "{\"step\": true, \"head_dim\": %lu, \"kv_heads\": %lu, \"heads\": %lu, \"keys\": %lu, \"k_bits\": %d, "
      "\"v_bits\": %d, \"us_by_parts\": %.2f, \"us\": %.2f}\n",
      c.head_dim, c.kv_heads, c.heads, c.keys, c.k_bits, c.v_bits, parts, whole);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string only = argc > 1 ? argv[1] : "";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "asking for the device");
  const int multiprocessors = properties.multiProcessorCount;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "a stream");
  double read;
  {
    const uint64_t bytes = uint64_t{2} << 30;
    Buffer b(bytes, "a buffer"), out(4, "a word");
    fill_words<<<kBlocks, kThreads, 0, stream>>>(b.as<uint32_t>(), bytes / 4);
    read = static_cast<double>(bytes) /
           microseconds(stream, 4,
                        [&](int) {
                          read_all<<<multiprocessors * 8, kThreads, 0, stream>>>(b.as<uint4>(), bytes / 16,
                                                                                 out.as<uint32_t>());
                        }) *
           1e-3;
  }
  std::printf("{\"gpu\": \"%s\", \"multiprocessors\": %d, \"read_GBps\": %.1f}\n", properties.name,
              multiprocessors, read);
  const KvTables tables = kv_tables();
  const auto go = [&](const char* group, const Case& c) {
    if (std::string(group).find(only) != std::string::npos) run(c, tables, multiprocessors, read, stream);
  };
  for (uint64_t keys : {32768, 131072}) {
    for (const auto& [k, v] : {std::pair{16, 16}, {4, 4}, {3, 3}, {2, 2}, {8, 4}}) {
      go("decode", {256, 16, 32, keys, k, v});
      go("decode", {512, 4, 32, keys, k, v});
    }
    for (int v : {16, 4, 3}) go("rebuilt", {512, 4, 32, keys, 0, v});
  }
  go("decode", {128, 8, 32, 32768, 16, 16});
  go("decode", {128, 8, 32, 32768, 4, 4});
  go("window", {256, 16, 32, 4096, 16, 16, 1, 1, 0, 1024});
  go("window", {256, 16, 32, 4096, 16, 16, 16, 1, 0, 1024});
  go("tail", {512, 4, 32, 32768, 8, 4, 1, 1, 1024});
  go("tail", {512, 4, 32, 32768, 0, 4, 1, 1, 1024});
  go("batch", {512, 4, 32, 8192, 4, 4, 16});
  if (std::string("step").find(only) != std::string::npos)
    for (uint64_t keys : {128, 1024, 8192})
      for (int bits : {16, 4, 3}) run_step({256, 16, 32, keys, bits, bits}, tables, multiprocessors, stream);
  for (uint64_t tokens : {512, 2048}) {
    for (int bits : {16, 4}) {
      go("prompt", {256, 16, 32, tokens, bits, bits, 1, tokens});
      go("prompt", {512, 4, 32, tokens, bits, bits, 1, tokens});
      go("prompt", {512, 4, 32, 16384, bits, bits, 1, tokens});
      go("prompt", {512, 4, 32, tokens, 0, bits, 1, tokens});
    }
    go("prompt", {256, 16, 32, 8192, 16, 16, 1, tokens, 0, 1024});
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
