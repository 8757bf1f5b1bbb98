// The key/value cache of a model really allocated, every page touched, beside what `hlwq info` predicts.
//   kv_memory_bench [CONFIG.json] [CONTEXT]    (Gemma 4 31B and 262144 without arguments, from the source
//   tree)
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "base/json.h"
#include "hlwq/error.h"
#include "model/config_reader.h"
#include "model/kv_cache.h"

namespace hlwq {
namespace {

uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    uint64_t kilobytes = 0;
    if (key == "MemAvailable:" && meminfo >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

void touch(KvCache& cache, const ModelSpec& spec) {
  // The cosines and sines of rebuilt keys, else written as a sequence grows.
  if (const KvView view = cache.view(0); view.k_rope)
    std::memset(const_cast<float*>(view.k_rope), 1, cache.context() * 2 * view.k_pairs * sizeof(float));
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const KvView view = cache.view(i);
    for (const KvStore* s : {&view.k, &view.v})
      for (const KvRing* r : {&s->main, &s->exact, &s->sinks}) {
        if (!r->bits) continue;
        const uint64_t slots = view.kv_heads * r->capacity;
        std::memset(r->data, 1, slots * view.head_dim * static_cast<uint64_t>(r->bits) / 8);
        if (r->norms) std::memset(r->norms, 1, slots * 2);
      }
  }
}

int run(const std::string& config, uint64_t context) {
  const ModelSpec spec = model_spec(read_ordered_json(config));
  struct Case {
    const char* name;
    KvSettings settings;
  };
  KvSettings both = KvSettings::bf16(), q3 = KvSettings::uniform(3), q4 = KvSettings::uniform(4);
  both.share = q3.share = q4.share = KvShare::kOff;
  const Case cases[] = {{"BF16, keys and values", both},        {"BF16", KvSettings::bf16()},
                        {"Q4 everywhere, keys and values", q4}, {"Q3 everywhere, keys and values", q3},
                        {"--kv-bits 4", KvSettings::preset(4)}, {"--kv-bits 3", KvSettings::preset(3)},
                        {"--kv-bits 2", KvSettings::preset(2)}};
  std::printf("%-32s %14s %14s %8s\n", "cache", "predicted", "resident", "ratio");
  for (const Case& c : cases) {
    const uint64_t predicted = KvCache::bytes(spec, context, 256, c.settings);
    if (predicted + (uint64_t{1} << 30) > available_bytes()) {
      std::printf("%-32s %14llu  not run: only %llu bytes of memory are free\n", c.name,
                  static_cast<unsigned long long>(predicted),
                  static_cast<unsigned long long>(available_bytes()));
      continue;
    }
    const uint64_t before = resident_bytes();
    KvCache cache(spec, context, 256, c.settings);
    touch(cache, spec);
    const uint64_t resident = resident_bytes() - before;
    std::printf("%-32s %14llu %14llu %8.4f\n", c.name, static_cast<unsigned long long>(predicted),
                static_cast<unsigned long long>(resident),
                static_cast<double>(resident) / static_cast<double>(predicted));
  }
  return 0;
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  try {
    return hlwq::run(argc > 1 ? argv[1] : HLWQ_SOURCE "/tests/golden/configs/gemma-4-31B.json",
                     argc > 2 ? std::stoull(argv[2]) : 262144);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kv_memory_bench: %s\n", e.what());
    return 1;
  }
}
