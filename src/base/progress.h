// How long work reports and is interrupted, without the library printing anything.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "hlwq/error.h"

namespace hlwq {

/// Passed into long operations. `report` (may be empty) gets (done, total, what is being done);
/// `cancelled` (may be null) is polled between pieces of work.
struct Progress {
  std::function<void(uint64_t done, uint64_t total, const std::string& what)> report;
  const std::atomic<bool>* cancelled = nullptr;

  void step(uint64_t done, uint64_t total, const std::string& what) const {
    if (cancelled && *cancelled) throw Error(ErrorCode::kCancelled, "interrupted");
    if (report) report(done, total, what);
  }
};

}  // namespace hlwq
