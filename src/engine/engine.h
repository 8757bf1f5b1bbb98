// The machine's side of running a model: threads and kernels.
#pragma once

#include <cstdint>
#include <string>

#include "base/thread_pool.h"
#include "ops/linear.h"

namespace hlwq {

struct EngineOptions {
  int threads = 0;       ///< <= 0: every processor this process may use
  std::string isa = {};  ///< force "scalar", "avx2" or "avx512"; empty: the fastest that runs
};

/// Owns the thread pool; used by one thread at a time.
class Engine {
 public:
  /// Throws Error(kInvalidArgument | kUnsupported) for an isa that is unknown or does not run here.
  explicit Engine(const EngineOptions& options = {});
  Compute compute() { return {kernels_, &pool_, nullptr}; }
  std::string backend() const { return "cpu/" + std::string(kernels_->name); }  ///< "cpu/avx2"
  int threads() const { return pool_.threads(); }

 private:
  const Kernels* kernels_;
  ThreadPool pool_;
};

/// Physical memory of this machine in bytes.
uint64_t physical_memory();

}  // namespace hlwq
