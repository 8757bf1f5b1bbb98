#include "engine/engine.h"

#include <unistd.h>

namespace hlwq {

Engine::Engine(const EngineOptions& options)
    : kernels_(&select_kernels(detect_cpu(), options.isa)), pool_(options.threads) {}

uint64_t physical_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 0;
}

}  // namespace hlwq
