#include "job.h"

namespace hlwq::python {

void Job::emit(const std::string& kind, const std::string& text) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back({kind, text});
  }
  changed_.notify_all();
}

Progress Job::progress() {
  Progress p;
  p.cancelled = &cancelled_;
  p.report = [this](uint64_t done, uint64_t total, const std::string& what) {
    const std::lock_guard lock(mutex_);
    report_ = {done, total, what, report_.count + 1};
  };
  return p;
}

bool Job::wait(std::chrono::milliseconds time, bool events) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] { return finished_ || (events && !events_.empty()); });
}

bool Job::pop(Event& event) {
  const std::lock_guard lock(mutex_);
  if (events_.empty()) return false;
  event = std::move(events_.front());
  events_.pop_front();
  return true;
}

void Job::join() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return finished_.load(); });
}

Job::Report Job::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

void Job::rethrow() const {
  if (error_) std::rethrow_exception(error_);
}

void Job::run(const std::function<void(Job&)>& work) {
  try {
    if (cancelled_) throw Error(ErrorCode::kCancelled, "stopped before it began");
    work(*this);
  } catch (...) {
    error_ = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  changed_.notify_all();
}

Worker::Worker() : thread_([this] { loop(); }) {}

void Worker::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    if (running_) running_->cancel();
    for (Entry& e : waiting_) e.job->cancel();
  }
  wake_.notify_all();
  thread_.join();
}

std::shared_ptr<Job> Worker::start(std::function<void(Job&)> work) {
  if (forked())
    throw Error(ErrorCode::kUnsupported,
                "this model was loaded before the process forked, and its threads stayed behind: load it in "
                "the child, or start processes with 'spawn'");
  auto job = std::make_shared<Job>();
  {
    const std::lock_guard lock(mutex_);
    if (stop_) throw Error(ErrorCode::kCancelled, "the model was closed");
    waiting_.push_back({job, std::move(work)});
  }
  wake_.notify_all();
  return job;
}

void Worker::loop() {
  for (;;) {
    Entry entry;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      entry = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = entry.job;
    }
    entry.job->run(entry.work);
    entry.work = nullptr;  // before anybody who waits may drop what it holds
    const std::lock_guard lock(mutex_);
    running_.reset();
  }
}

}  // namespace hlwq::python
