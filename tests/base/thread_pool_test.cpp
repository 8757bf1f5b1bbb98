// Loops cover their range exactly once, exceptions arrive, and thousands of short calls neither hang nor lose
// work.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <stdexcept>

namespace hlwq {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, CoversEveryIndexOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (size_t n : {0, 1, 2, 3, 63, 64, 65, 1000})
    for (size_t grain : {0, 1, 7, 64, 5000}) {
      std::vector<std::atomic<int>> seen(n);
      pool.parallel_for(n, grain, [&](size_t begin, size_t end, int thread) {
        EXPECT_LT(begin, end);
        EXPECT_LE(end - begin, std::max<size_t>(grain, 1));
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, GetParam());
        for (size_t i = begin; i < end; ++i) ++seen[i];
      });
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(seen[i], 1) << i << " of " << n << " by " << grain;
    }
}

TEST_P(ThreadPoolTest, RethrowsAndStaysUsable) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 50; ++round) {
    const auto bad = static_cast<size_t>(round);
    EXPECT_THROW(pool.parallel_for(50, 1,
                                   [&](size_t begin, size_t, int) {
                                     if (begin == bad) throw std::runtime_error("bad");
                                   }),
                 std::runtime_error);
    std::atomic<size_t> sum = 0;
    pool.parallel_for(100, 3, [&](size_t begin, size_t end, int) { sum += end - begin; });
    ASSERT_EQ(sum, 100u);
  }
}

TEST_P(ThreadPoolTest, EveryThreadMayThrowAtOnce) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 200; ++round)
    EXPECT_THROW(pool.parallel_for(64, 1, [](size_t, size_t, int) { throw std::logic_error("all"); }),
                 std::logic_error);
}

TEST_P(ThreadPoolTest, ManyShortCalls) {
  ThreadPool pool(GetParam());
  std::vector<uint32_t> counts(
      16);  // not atomic: each index belongs to one call of fn, and the call orders the rest
  constexpr uint32_t kCalls = 2000;
  for (uint32_t call = 0; call < kCalls; ++call)
    pool.parallel_for(16, 1, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) ++counts[i];
    });
  for (uint32_t c : counts) EXPECT_EQ(c, kCalls);
}

TEST_P(ThreadPoolTest, WakesWorkersThatSleep) {
  ThreadPool pool(GetParam());
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than workers spin
    std::atomic<size_t> sum = 0;
    pool.parallel_for(100, 1, [&](size_t begin, size_t end, int) { sum += end - begin; });
    ASSERT_EQ(sum, 100u);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 5),
                         [](const auto& test) { return std::to_string(test.param); });

TEST(ThreadPool, StartsAndStopsOftenWithoutWork) {
  for (int i = 0; i < 200; ++i) ThreadPool pool(4);
}

TEST(ThreadPool, DefaultsToTheProcessorsItMayUse) {
  EXPECT_GE(available_processors(), 1);
  EXPECT_EQ(ThreadPool().threads(), available_processors());
}

}  // namespace
}  // namespace hlwq
