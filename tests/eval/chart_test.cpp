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

}  // namespace
}  // namespace hlwq
