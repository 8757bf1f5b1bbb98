// The chart of `hlwq bench --compare` from figures at hand: reads JSON from standard input, writes SVG to
// standard output.
//
//   {"title": "...", "x": "...", "y": "...", "series": [{"name": "...", "line": true, "points": [[4.1, 0.05,
//   "label"]]}]}
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>

#include "base/json.h"
#include "eval/chart.h"

int main() {
  try {
    const std::string text(std::istreambuf_iterator<char>(std::cin), {});
    const hlwq::Json json = hlwq::parse_json(text, "standard input");
    hlwq::Chart chart{json.at("title"), json.at("x"), json.at("y"), {}};
    for (const auto& s : json.at("series")) {
      hlwq::ChartSeries series{s.at("name"), {}, s.at("line")};
      for (const auto& p : s.at("points")) series.points.push_back({p.at(0), p.at(1), p.at(2)});
      chart.series.push_back(std::move(series));
    }
    std::fputs(hlwq::chart_svg(chart).c_str(), stdout);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "draw_chart: %s\n", e.what());
    return 1;
  }
}
