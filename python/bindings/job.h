// Work that runs on a thread of its own while Python waits: never touches Python, so that it needs no GIL.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/progress.h"

namespace hlwq::python {

/// One piece of work: its worker reports here, other threads wait, look and stop it.
class Job {
 public:
  /// Something that happened, in order: a piece of text, a thought, a tool call.
  struct Event {
    std::string kind, text;
  };
  struct Report {
    uint64_t done = 0, total = 0;
    std::string what;
    uint64_t count = 0;  ///< how many reports there were
  };

  // For the worker.
  void emit(const std::string& kind, const std::string& text);
  Progress progress();
  const std::atomic<bool>* cancelled() const { return &cancelled_; }
  std::string result;  ///< read after the end only

  // For everybody else.
  void cancel() { cancelled_ = true; }
  /// Waits at most `time` for the next event or the end; true when there is one of them.
  bool wait(std::chrono::milliseconds time, bool events);
  bool pop(Event& event);  ///< false when there is none
  bool finished() const { return finished_; }
  void join();
  Report report() const;
  /// Throws what the work threw; after the end only.
  void rethrow() const;

 private:
  friend class Worker;
  void run(const std::function<void(Job&)>& work);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> events_;
  Report report_;
  std::exception_ptr error_;
  std::atomic<bool> cancelled_{false}, finished_{false};
};

/// A thread that runs jobs one after another, so that what they share needs no lock.
class Worker {
 public:
  Worker();
  ~Worker() { stop(); }
  Worker(const Worker&) = delete;

  /// Throws Error(kUnsupported) in a process that was forked from the one that made this: its threads are
  /// not there.
  std::shared_ptr<Job> start(std::function<void(Job&)> work);
  /// Cancels what runs and what waits, and ends the thread; start() then throws Error(kCancelled).
  void stop();
  bool forked() const { return ::getpid() != process_; }

 private:
  void loop();

  struct Entry {
    std::shared_ptr<Job> job;
    std::function<void(Job&)> work;
  };
  const pid_t process_ = ::getpid();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Entry> waiting_;
  std::shared_ptr<Job> running_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace hlwq::python
