// Speed of a layer's experts on the GPU at the size of the 26B-A4B's (128 experts of 704, 8 a token, hidden
// 2816), on random codes; JSON lines: tokens, format, microseconds of each step, GB/s of the codes that are
// read.
//
//   gpu_experts_bench
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <set>
#include <vector>

#include "cuda/activations.h"
#include "cuda/expert_routing.h"
#include "cuda/linear.h"
#include "quant/codebook.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

constexpr uint64_t kExperts = 128, kTop = 8, kHidden = 2816, kInner = 704;

// Median microseconds of `fn`, in runs of ten.
double time_us(cudaStream_t stream, const std::function<void()>& fn) {
  cudaEvent_t a, b;
  cudaEventCreate(&a), cudaEventCreate(&b);
  std::vector<float> all;
  for (int round = 0; round < 9; ++round) {
    cudaEventRecord(a, stream);
    for (int i = 0; i < 10; ++i) fn();
    cudaEventRecord(b, stream);
    check(cudaEventSynchronize(b), "waiting");
    float ms;
    cudaEventElapsedTime(&ms, a, b);
    if (round >= 2) all.push_back(ms * 100);
  }
  cudaEventDestroy(a), cudaEventDestroy(b);
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

struct Stack {
  Stack(const HlwqFormat& f, const LookupTables& tables, const Codebook& codebook, uint64_t rows,
        uint64_t cols)
      : codes(rows * f.row_bytes(cols), "codes"), norms(rows * f.row_blocks(cols) * 2, "norms") {
    check(cudaMemset(codes.as<void>(), 0x5a, codes.bytes()), "filling");
    check(cudaMemset(norms.as<void>(), 0x11, norms.bytes()), "filling");
    matrix = {f, rows, cols, codes.as<uint8_t>(), norms.as<uint16_t>(), &tables, &codebook};
  }
  uint64_t bytes() const { return codes.bytes() + norms.bytes(); }
  Buffer codes, norms;
  DeviceMatrix matrix;
};

void run(cudaStream_t stream, const HlwqFormat& f, uint64_t tokens) {
  const Codebook codebook = standard_codebook(f.bits, f.lags);
  const LookupTables tables = make_lookup_tables(codebook);
  const Stack gate_up(f, tables, codebook, kExperts * 2 * kInner, kHidden),
      down(f, tables, codebook, kExperts * kHidden, kInner);
  const uint64_t slots = tokens * kTop;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> host(tokens * kExperts);
  for (float& s : host) s = normal(random);
  const Buffer scores(host.size() * 4, "scores"), scale(kExperts * 4, "scale"), x(tokens * kHidden * 4, "x"),
      in(DeviceActivations::bytes(tokens, kHidden, f.block), "in"), up(slots * 2 * kInner * 4, "up"),
      inner(DeviceActivations::bytes(slots, kInner, f.block), "inner"), out(slots * kHidden * 4, "out"),
      norm(kHidden * 4, "norm"), memory(ExpertRouting::bytes(kExperts, kTop, tokens), "routing");
  check(cudaMemcpy(scores.as<void>(), host.data(), scores.bytes(), cudaMemcpyHostToDevice), "copying");
  for (const Buffer* b : {&scale, &x, &norm}) check(cudaMemset(b->as<void>(), 0x3c, b->bytes()), "filling");
  ExpertRouting routing(kExperts, kTop, tokens, memory.as<void>());
  const DeviceActivations a = DeviceActivations::place(in.as<void>(), tokens, kHidden, f.block),
                          g = DeviceActivations::place(inner.as<void>(), slots, kInner, f.block);
  quantize_step(x.as<float>(), a, f.lags, stream);
  const double route =
      time_us(stream, [&] { routing.choose(scores.as<float>(), scale.as<float>(), tokens, stream); });
  std::vector<uint32_t> chosen(slots);
  check(cudaMemcpyAsync(chosen.data(), routing.chosen(), slots * 4, cudaMemcpyDeviceToHost, stream),
        "copying");
  check(cudaStreamSynchronize(stream), "waiting");
  const double used = static_cast<double>(std::set<uint32_t>(chosen.begin(), chosen.end()).size()) / kExperts;
  const double first = time_us(stream, [&] {
    linear_grouped(a, gate_up.matrix, 2 * kInner, routing.from_tokens(), routing.max_tiles(),
                   routing.tile_tokens(), up.as<float>(), stream);
  });
  const double gated = time_us(stream, [&] {
    gated_step(up.as<float>(), up.as<float>() + kInner, 2 * kInner, slots, kInner, Activation::kGeluTanh, &g,
               f.lags, nullptr, stream);
  });
  const double second = time_us(stream, [&] {
    linear_grouped(g, down.matrix, kHidden, routing.from_places(), routing.max_tiles(), routing.tile_tokens(),
                   out.as<float>(), stream);
  });
  const double sum = time_us(stream, [&] {
    add_experts({.tokens = tokens,
                 .width = kHidden,
                 .top_k = kTop,
                 .outputs = out.as<float>(),
                 .weights = routing.weights(),
                 .places = routing.places(),
                 .norm = norm.as<float>(),
                 .dense_norm = norm.as<float>(),
                 .dense = x.as<float>()},
                stream);
  });
  std::printf(
      "{\"experts\": \"q%d-l%d\", \"tokens\": %lu, \"experts_used\": %.2f, \"route_us\": %.1f, "
      "\"gate_up_us\": %.1f, \"gate_up_GB/s\": %.0f, \"gated_us\": %.1f, \"down_us\": %.1f, "
      "\"down_GB/s\": %.0f, \"sum_us\": %.1f, \"TOP/s\": %.1f}\n",
      f.bits, f.lags, tokens, used, route, first, used * gate_up.bytes() / first / 1e3, gated, second,
      used * down.bytes() / second / 1e3, sum, 6.0 * slots * kHidden * kInner / (first + second) / 1e6);
}

}  // namespace

int main() {
  try {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "device");
    std::printf("{\"device\": \"%s\"}\n", device.name);
    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "stream");
    for (auto [bits, lags] : {std::pair{5, 1}, {5, 2}, {4, 2}})
      for (uint64_t tokens : {1, 8, 64, 512}) run(stream, {bits, lags, 128}, tokens);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "experts_bench: %s\n", e.what());
    return 1;
  }
}
