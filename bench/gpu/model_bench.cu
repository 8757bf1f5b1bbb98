// A whole model on the GPU: load, decode at several contexts, prefill, memory; and logits of a prompt for a
// comparison elsewhere. JSON lines. The cache of a decode measurement is not computed: its positions are
// taken as filled (zeros).
//
//   gpu_model_bench MODEL [--contexts 128,8192,...] [--kv 16,4,3] [--prefill 512,4096] [--chunk N] [--ids
//   FILE --logits OUT --rows N]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/cpu.h"
#include "cuda/sequence.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<uint64_t> numbers(const std::string& list) {
  std::vector<uint64_t> out;
  std::stringstream in(list);
  for (std::string part; std::getline(in, part, ',');) out.push_back(std::stoull(part));
  return out;
}

uint64_t used_bytes() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory");
  return total - free;
}

__global__ void read_kernel(const uint4* p, size_t n, uint32_t* out) {
  uint32_t x = 0;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    const uint4 v = __ldg(p + i);
    x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (x == 0x12345679) *out = x;
}

double read_bandwidth() {
  const Buffer big(uint64_t{2} << 30, "big"), out(4, "out");
  check(cudaMemset(big.as<void>(), 1, big.bytes()), "filling");
  std::vector<double> gb;
  for (int i = 0; i < 12; ++i) {
    check(cudaDeviceSynchronize(), "waiting");
    const auto start = Clock::now();
    for (int j = 0; j < 4; ++j)
      read_kernel<<<132 * 8, 512>>>(big.as<uint4>(), big.bytes() / 16, out.as<uint32_t>());
    check(cudaDeviceSynchronize(), "waiting");
    gb.push_back(4 * static_cast<double>(big.bytes()) / seconds_since(start) / 1e9);
  }
  std::sort(gb.begin(), gb.end());
  return gb[gb.size() / 2];
}

// Bytes of the cache that one token's attention reads at a context length.
double cache_bytes(const ModelSpec& spec, uint64_t length, uint64_t context, const KvSettings& kv) {
  double bytes = 0;
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& l = spec.layers[i];
    const KvLayerPlan plan = kv_layer_plan(spec, i, context, kv);
    const double seen = static_cast<double>(l.window ? std::min(l.window, length) : length);
    const double exact = std::min(seen, static_cast<double>(plan.tail));
    for (int bits : {plan.format.k_bits, plan.format.v_bits}) {
      if (bits == 0) continue;
      const double coded = bits < 16 ? seen - exact : seen;
      bytes += static_cast<double>(l.kv_heads) *
               (coded * (static_cast<double>(l.head_dim) * bits / 8 + (bits < 16 ? 2 : 0)) +
                (bits < 16 ? exact * static_cast<double>(l.head_dim) * 2 : 0));
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string path, ids_file, logits_file;
  std::vector<uint64_t> contexts, kvs{16}, prefills;
  uint64_t chunk = 512, rows = 64;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (a == "--contexts")
      contexts = numbers(value());
    else if (a == "--kv")
      kvs = numbers(value());
    else if (a == "--prefill")
      prefills = numbers(value());
    else if (a == "--chunk")
      chunk = std::stoull(value());
    else if (a == "--ids")
      ids_file = value();
    else if (a == "--logits")
      logits_file = value();
    else if (a == "--rows")
      rows = std::stoull(value());
    else
      path = a;
  }
  check(cudaFree(nullptr), "starting the GPU");
  const double bandwidth = read_bandwidth();
  const uint64_t before = used_bytes();
  std::printf("{\"gpu\": \"%s\", \"read_gb_s\": %.0f, \"runtime_bytes\": %llu}\n",
              device_info(0).name.c_str(), bandwidth, static_cast<unsigned long long>(before));
  auto start = Clock::now();
  const auto model = Model::load(path);
  const double headers = seconds_since(start);
  start = Clock::now();
  const auto gpu = std::make_shared<const GpuModel>(*model, 0, ~uint64_t{0});
  const double load = seconds_since(start);
  std::printf("{\"load_s\": %.2f, \"open_s\": %.2f, \"weight_bytes\": %llu, \"gb_s\": %.2f}\n", load, headers,
              static_cast<unsigned long long>(gpu->bytes()), static_cast<double>(gpu->bytes()) / load / 1e9);
  std::fflush(stdout);
  ThreadPool pool;
  const Compute compute{&select_kernels(detect_cpu(), ""), &pool, nullptr};
  const ModelSpec& spec = model->spec();

  if (!ids_file.empty()) {
    std::ifstream in(ids_file);
    std::vector<int32_t> ids;
    for (int32_t id; in >> id;) ids.push_back(id);
    GpuSequence s(gpu, compute, ids.size() + 8, ids.size(), KvSettings::bf16());
    s.forward(ids, {});
    rows = std::min<uint64_t>(rows, ids.size());
    std::vector<float> states(rows * spec.hidden), logits(rows * spec.vocab);
    s.states(ids.size() - rows, rows, states.data());
    s.logits(states.data(), rows, logits.data());
    std::ofstream(logits_file, std::ios::binary)
        .write(reinterpret_cast<const char*>(logits.data()),
               static_cast<std::streamsize>(logits.size() * sizeof(float)));
  }
  for (uint64_t bits : kvs) {
    const KvSettings kv = KvSettings::preset(static_cast<int>(bits));
    for (uint64_t length : contexts) {
      const uint64_t context = std::min<uint64_t>(spec.max_context, length + 64);
      const uint64_t begin = std::min(length, context - 40);
      try {
        GpuSequence s(gpu, compute, context, 16, kv);
        s.assume_filled(begin);
        std::vector<float> logits(spec.vocab);
        std::vector<double> ms;
        for (int i = 0; i < 36; ++i) {
          const int32_t id = 100 + i;
          const auto at = Clock::now();
          s.forward({&id, 1}, {});
          s.last_logits(logits.data());
          if (i >= 6) ms.push_back(seconds_since(at) * 1e3);
        }
        std::sort(ms.begin(), ms.end());
        const double median = ms[ms.size() / 2];
        const double bytes = static_cast<double>(gpu->bytes()) + cache_bytes(spec, begin, context, kv);
        std::printf(
            "{\"decode_at\": %llu, \"kv\": \"%s\", \"ms\": %.3f, \"tok_s\": %.1f, \"gb_s\": %.0f, "
            "\"of_bound\": %.3f, \"kv_bytes\": %llu, \"used_bytes\": %llu}\n",
            static_cast<unsigned long long>(begin), describe(kv).c_str(), median, 1e3 / median,
            bytes / median / 1e6, bytes / median / 1e6 / bandwidth,
            static_cast<unsigned long long>(s.kv_bytes()), static_cast<unsigned long long>(used_bytes()));
      } catch (const Error& e) {
        std::printf("{\"decode_at\": %llu, \"kv\": \"%s\", \"error\": \"%s\"}\n",
                    static_cast<unsigned long long>(length), describe(kv).c_str(), e.what());
      }
      std::fflush(stdout);
    }
  }
  for (uint64_t tokens : prefills) {
    GpuSequence s(gpu, compute, tokens + 8, std::min(chunk, tokens), KvSettings::bf16());
    std::vector<int32_t> ids(tokens);
    for (size_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>((i * 7919 + 13) % spec.vocab);
    std::vector<double> times;
    std::vector<float> logits(spec.vocab);
    for (int i = 0; i < (tokens > 8192 ? 1 : 3); ++i) {
      s.truncate(0);
      const auto at = Clock::now();
      for (uint64_t done = 0; done < tokens; done += chunk)
        s.forward(std::span(ids).subspan(done, std::min(chunk, tokens - done)), {});
      s.last_logits(logits.data());
      times.push_back(seconds_since(at));
    }
    const double best = *std::min_element(times.begin(), times.end());
    std::printf("{\"prefill\": %llu, \"chunk\": %llu, \"s\": %.3f, \"tok_s\": %.0f, \"used_bytes\": %llu}\n",
                static_cast<unsigned long long>(tokens), static_cast<unsigned long long>(chunk), best,
                static_cast<double>(tokens) / best, static_cast<unsigned long long>(used_bytes()));
    std::fflush(stdout);
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "gpu_model_bench: %s\n", e.what());
  return 1;
}
