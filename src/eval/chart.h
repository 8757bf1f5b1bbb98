// A scatter chart with lines, as SVG text: bits per weight against KL divergence.
#pragma once

#include <string>
#include <vector>

namespace hlwq {

struct ChartPoint {
  double x = 0, y = 0;
  std::string label;
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
  bool line = true;  ///< joins the points from left to right
};

struct Chart {
  std::string title, x_label, y_label;
  std::vector<ChartSeries> series;  ///< at most eight get colours of their own
};

/// x linear, y logarithmic; points whose y is not above zero are left out. Labels stand clear of each other
/// and of the points wherever there is room. Colours follow the reader's light or dark scheme.
std::string chart_svg(const Chart& chart);

}  // namespace hlwq
