// bench --tasks: scores of lm-evaluation-harness, which the Python package runs over the same engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "terminal.h"

namespace hlwq::cli {

struct TaskRequest {
  std::string model;               ///< a path
  std::string tasks;               ///< comma-separated: names, or .yaml files
  std::optional<int64_t> fewshot;  ///< examples before each question; without it the task's own number
  std::optional<int64_t> limit;    ///< questions of each task
  OrderedJson options;             ///< of Model.from_pretrained
};

struct TaskScores {
  int exit_code = 0;  ///< of what ran; not 0: it has said why
  OrderedJson list;   ///< [{task, metric, filter, value, stderr, fewshot, samples, version}]
};

/// Throws Error(kNotFound) where the Python package is missing; kCancelled.
TaskScores run_tasks(const TaskRequest& request);

/// A row a score.
Table task_table(const OrderedJson& scores);

}  // namespace hlwq::cli
