#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>

namespace hlwq {
namespace {

constexpr int kSpins = 4000;  // some tens of microseconds: longer than the gap between two layers' loops

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int threads) {
  const int n = threads > 0 ? threads : available_processors();
  for (int t = 1; t < n; ++t) workers_.emplace_back([this, t] { work(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  ++generation_;
  generation_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::run_chunks(int thread) {
  try {
    for (;;) {
      const size_t begin = next_.fetch_add(grain_);
      if (begin >= n_) return;
      (*fn_)(begin, std::min(begin + grain_, n_), thread);
    }
  } catch (...) {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
    next_ = n_;
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) relax();
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    run_chunks(thread);
    if (running_.fetch_sub(1) == 1) running_.notify_one();
  }
}

void ThreadPool::parallel_for(size_t n, size_t grain, const std::function<void(size_t, size_t, int)>& fn) {
  if (n == 0) return;
  grain = std::max<size_t>(grain, 1);
  if (workers_.empty() || n <= grain) {
    for (size_t begin = 0; begin < n; begin += grain) fn(begin, std::min(begin + grain, n), 0);
    return;
  }
  fn_ = &fn;
  n_ = n;
  grain_ = grain;
  next_ = 0;
  error_ = nullptr;
  running_ = static_cast<int>(workers_.size());
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  run_chunks(0);
  for (int i = 0; i < kSpins && running_.load(std::memory_order_acquire) != 0; ++i) relax();
  for (int left; (left = running_.load(std::memory_order_acquire)) != 0;)
    running_.wait(left, std::memory_order_acquire);
  if (error_) std::rethrow_exception(error_);
}

}  // namespace hlwq
