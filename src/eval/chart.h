// Charts as SVG text: dots and lines on two axes, and stacked bars.
#pragma once

#include <string>
#include <vector>

#include "eval/svg_canvas.h"

namespace hlwq {

struct ChartPoint {
  double x = 0, y = 0;
  std::string label;  ///< may be empty
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
  bool line = true;  ///< joins the points from left to right
};

struct ChartTick {
  double value = 0;
  std::string label;
};

struct Chart {
  std::string title, x_label, y_label;
  std::vector<ChartSeries> series;  ///< at most eight get colours of their own
  bool x_log = false, y_log = true;
  std::vector<ChartTick> x_ticks = {}, y_ticks = {};  ///< empty: chosen
};

/// Points that a logarithmic axis cannot show are left out; a linear y axis begins at zero. Labels stand
/// clear of each other and of the points wherever there is room. Colours follow the reader's light or dark
/// scheme.
std::string chart_svg(const Chart& chart, SvgScheme scheme = SvgScheme::kReader);

/// One bar: its parts from the bottom up.
struct ChartBar {
  std::string label, group;    ///< beneath it; bars of one group stand together over its name
  std::vector<double> values;  ///< one for each of BarChart::parts
  std::string total;           ///< above it
};

struct BarChart {
  std::string title, x_label, y_label;
  std::vector<std::string> parts;
  std::vector<ChartBar> bars;
};

std::string bar_chart_svg(const BarChart& chart, SvgScheme scheme = SvgScheme::kReader);

/// Round steps for an axis from 0 to `most`: 1, 2 or 5 times a power of ten, at most ten of them.
double axis_step(double most);

}  // namespace hlwq
