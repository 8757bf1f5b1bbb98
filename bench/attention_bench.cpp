// Decode attention over a long cache, all threads: every form of storage beside BF16, and the bytes that each
// reads.
//   attention_bench [--benchmark_filter=full]
// Shapes are those of Gemma 4 31B: "full" 32 query heads on 4 KV heads of 512, "sliding" 32 on 16 of 256
// without its window, so that 32K tokens are read. Names are shape/keys:values/tokens.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>

#include "model/kv_cache.h"

namespace hlwq {
namespace {

struct Shape {
  const char* name;
  uint64_t kv_heads, head_dim;
};
constexpr uint64_t kHeads = 32, kChunk = 256;

struct Form {
  const char* name;
  int bits;
  bool shared;
};

void decode_attention(benchmark::State& state, Shape shape, Form form, uint64_t tokens) {
  ModelSpec spec;
  spec.heads = kHeads;
  spec.qk_norm = spec.v_norm = true;
  RopeSpec rope{.inv_freq = std::vector<float>(shape.head_dim / 2, 0.0f)};
  for (uint64_t i = 0; i < shape.head_dim / 8; ++i) rope.inv_freq[i] = 1.0f / static_cast<float>(i + 1);
  spec.ropes = {rope};
  spec.layers = {{.head_dim = shape.head_dim, .kv_heads = shape.kv_heads, .k_is_v = form.shared}};
  KvSettings settings = KvSettings::uniform(form.bits);
  settings.share = form.shared ? KvShare::kOn : KvShare::kOff;
  KvCache cache(spec, tokens, kChunk, settings);
  ThreadPool pool;
  const Compute compute{&select_kernels(detect_cpu(), ""), &pool};
  const uint64_t width = shape.kv_heads * shape.head_dim;
  std::mt19937 random(1);
  std::normal_distribution<float> gauss;
  std::vector<float> chunk(kChunk * width), q(kHeads * shape.head_dim), out(q.size()),
      norm(shape.head_dim, 1.0f);
  for (float& x : chunk) x = gauss(random);
  for (float& x : q) x = 0.1f * gauss(random);
  while (cache.length() < tokens) {
    cache.store(compute, 0, kChunk, form.shared ? nullptr : chunk.data(), chunk.data());
    cache.advance(kChunk);
  }
  AttentionScratch scratch;
  const AttentionShape one{kHeads, tokens - 1, 1, 0, 1};
  for (auto _ : state) {
    attention(compute, cache.view(0, norm.data()), one, q.data(), out.data(), scratch);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(
      static_cast<int64_t>(static_cast<uint64_t>(state.iterations()) * cache.allocated_bytes()));
  state.counters["MB"] = static_cast<double>(cache.allocated_bytes()) / 1e6;
}

void register_all() {
  static constexpr Shape kShapes[] = {{"full", 4, 512}, {"sliding", 16, 256}};
  static constexpr Form kForms[] = {{"bf16", 16, false},   {"q4", 4, false},          {"q3", 3, false},
                                    {"q2", 2, false},      {"bf16_v_only", 16, true}, {"q4_v_only", 4, true},
                                    {"q3_v_only", 3, true}};
  for (const Shape& shape : kShapes)
    for (const Form& form : kForms) {
      if (form.shared && shape.head_dim == 256) continue;
      for (uint64_t tokens : {4096, 32768})
        benchmark::RegisterBenchmark(
            (std::string(shape.name) + "/" + form.name + "/" + std::to_string(tokens)).c_str(),
            decode_attention, shape, form, tokens)
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
    }
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  hlwq::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
