// What bench --compare prints and writes: table, Markdown, JSON and chart of its rows.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "engine/plan.h"
#include "eval/chart.h"
#include "eval/compare.h"

namespace hlwq::cli {

struct CompareReport {
  std::string model;    ///< as the user named it
  ModelFacts facts;     ///< of it
  uint64_t window = 0;  ///< tokens
  std::string backend;
  std::vector<CompareRow> rows;

  std::string table() const;
  std::string markdown() const;
  OrderedJson json() const;
  Chart chart() const;       ///< bits per weight against divergence
  Chart size_chart() const;  ///< the same by size
};

}  // namespace hlwq::cli
