// The chart: every point is there, labels stand apart, names are escaped.
#include "eval/chart.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

namespace hlwq {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t i = 0; (i = text.find(part, i)) != std::string::npos; i += part.size()) ++n;
  return n;
}

TEST(Chart, DrawsEveryPointThatALogAxisHas) {
  const std::string svg = chart_svg(
      {"A <title>",
       "x",
       "y & z",
       {{"one", {{4, 0.1, "a"}, {5, 0.02, "b"}, {6, 0, "zero"}}}, {"alone", {{4.5, 0.05, "c"}}, false}}});
  EXPECT_EQ(count(svg, "<circle"), 3u + 2u) << "points and legend";
  for (const char* label : {">a<", ">b<", ">c<", ">one<", ">alone<", "A &lt;title&gt;", "y &amp; z"})
    EXPECT_NE(svg.find(label), std::string::npos) << label;
  EXPECT_EQ(svg.find(">zero<"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0u);
}

TEST(Chart, StandsNothingToDraw) {
  EXPECT_EQ(count(chart_svg({"t", "x", "y", {}}), "<circle"), 0u);
  const std::string one = chart_svg({"t", "x", "y", {{"s", {{4, 0.1, "only"}}}}});
  EXPECT_EQ(count(one, "nan") + count(one, "inf"), 0u);
}

TEST(Chart, LabelsOfAClusterDoNotOverlap) {
  ChartSeries s{"family", {}};
  for (int i = 0; i < 8; ++i)
    s.points.push_back({4.1 + 0.01 * i, 0.05 + 0.001 * i, "q4-name" + std::to_string(i)});
  s.points.push_back({3, 0.5, "far"});
  s.points.push_back({6, 0.005, "away"});
  const std::string svg = chart_svg({"t", "x", "y", {s}});
  const std::regex label(R"re(<text x="([-0-9.]+)" y="([-0-9.]+)"[^>]*>q4-name)re");
  std::vector<std::pair<double, double>> at;
  for (std::sregex_iterator i(svg.begin(), svg.end(), label), end; i != end; ++i)
    at.emplace_back(std::stod((*i)[1]), std::stod((*i)[2]));
  ASSERT_EQ(at.size(), 8u);
  for (size_t i = 0; i < at.size(); ++i)
    for (size_t j = 0; j < i; ++j)  // 8 glyphs of 6.7 wide, 12 high
      EXPECT_TRUE(std::abs(at[i].first - at[j].first) > 50 || std::abs(at[i].second - at[j].second) > 11)
          << i << " " << j;
}

TEST(Chart, LinearAxesBeginAtZeroAndShowIt) {
  Chart chart{"t", "x", "y", {{"s", {{0, 0, "origin"}, {100, 50, "top"}}}}};
  chart.y_log = false;
  const std::string svg = chart_svg(chart);
  EXPECT_EQ(count(svg, "<circle"), 1u + 2u) << "a zero is drawn on a linear axis";
  for (const char* tick : {">0<", ">10<", ">50<", ">100<"})
    EXPECT_NE(svg.find(tick), std::string::npos) << tick;
}

TEST(Chart, GivenTicksReplaceTheChosenOnes) {
  Chart chart{"t", "x", "y", {{"s", {{1, 1024, ""}, {4, 4096, ""}}}}};
  chart.x_log = true;
  chart.y_ticks = {{1024, "1K"}, {4096, "4K"}, {1e9, "beyond"}};
  const std::string svg = chart_svg(chart);
  EXPECT_NE(svg.find(">1K<"), std::string::npos);
  EXPECT_NE(svg.find(">4K<"), std::string::npos);
  EXPECT_EQ(svg.find(">beyond<"), std::string::npos);
}

TEST(Chart, SchemesOfPagesAndOfPictures) {
  const Chart chart{"t", "x", "y", {{"s", {{1, 1, "p"}}}}};
  EXPECT_NE(chart_svg(chart).find("prefers-color-scheme"), std::string::npos);
  for (const SvgScheme scheme : {SvgScheme::kLight, SvgScheme::kDark})
    EXPECT_EQ(chart_svg(chart, scheme).find("prefers-color-scheme"), std::string::npos);
  EXPECT_NE(chart_svg(chart, SvgScheme::kLight), chart_svg(chart, SvgScheme::kDark));
}

TEST(Chart, StackedBarsHaveTheHeightsOfTheirValues) {
  BarChart chart{"t",
                 "x",
                 "MB",
                 {"a", "b"},
                 {{"one", "g", {30, 10}, "40"}, {"two", "g", {20, 0}, "20"}, {"three", "h", {5, 5}, "10"}}};
  const std::string svg = bar_chart_svg(chart);
  const std::regex bar(
      R"re(<rect x="[0-9.]+" y="([0-9.]+)" width="([0-9.]+)" height="([0-9.]+)" class="b([01])"/>)re");
  std::vector<double> tops, heights;
  for (std::sregex_iterator i(svg.begin(), svg.end(), bar), end; i != end; ++i) {
    if ((*i)[2] == "10.0" && (*i)[3] == "10.0") continue;  // the legend's squares
    tops.push_back(std::stod((*i)[1]));
    heights.push_back(std::stod((*i)[3]));
  }
  ASSERT_EQ(heights.size(), 5u) << "a part of nothing is not drawn";
  // Coordinates have one digit after the point.
  EXPECT_NEAR(heights[0] / heights[1], 3, 0.01);
  EXPECT_NEAR(heights[0] / heights[2], 1.5, 0.01);
  EXPECT_NEAR(heights[3], heights[4], 0.11);
  EXPECT_NEAR(tops[1] + heights[1], tops[0], 0.11) << "parts stand on each other";
  for (const char* text : {">one<", ">g<", ">h<", ">40<", ">a<", ">b<", ">MB<"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  EXPECT_EQ(count(bar_chart_svg({"t", "x", "y", {"a"}, {}}), "nan"), 0u);
}

TEST(Chart, AxisSteps) {
  for (const auto& [most, step] :
       {std::pair{10.0, 1.0}, {11.0, 2.0}, {75.0, 10.0}, {45.0, 5.0}, {0.3, 0.05}, {0.0, 1.0}})
    EXPECT_DOUBLE_EQ(axis_step(most), step) << most;
}

}  // namespace
}  // namespace hlwq
