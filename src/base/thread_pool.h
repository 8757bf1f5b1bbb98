// A fixed set of worker threads for data-parallel loops. One owner, no global state.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace hlwq {

/// parallel_for runs on the caller and threads()-1 workers. Calls must not nest and come from one thread at a
/// time. Workers spin briefly between calls (a decode step is hundreds of short loops) and then sleep.
class ThreadPool {
 public:
  /// threads <= 0: one per processor this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls fn(begin, end, thread) on disjoint ranges that cover [0, n); ranges are handed out in chunks of
  /// `grain`. Which thread gets a chunk varies; results must not depend on it. The first exception is
  /// rethrown here.
  void parallel_for(size_t n, size_t grain, const std::function<void(size_t, size_t, int)>& fn);

 private:
  void work(int thread);
  void run_chunks(int thread);

  std::vector<std::thread> workers_;
  const std::function<void(size_t, size_t, int)>* fn_ = nullptr;
  size_t n_ = 0, grain_ = 1;
  std::atomic<size_t> next_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

/// Processors this process may use (affinity respected), at least 1.
int available_processors();

}  // namespace hlwq
