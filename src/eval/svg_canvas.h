// The paper that charts are drawn on: SVG text whose colours follow the reader's light or dark scheme.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq {

/// For whom a picture is: a page has both schemes, renderers to pixels know no media queries and get one.
enum class SvgScheme { kReader, kLight, kDark };

class SvgCanvas {
 public:
  static constexpr double kWidth = 900, kHeight = 560, kLeft = 84, kRight = 28, kTop = 80, kBottom = 64;
  static constexpr double kFont = 12, kGlyph = 0.56 * kFont;  ///< mean advance of a sans-serif font
  static constexpr double kRadius = 4.5;
  static constexpr size_t kColours = 8;

  SvgCanvas(const std::string& title, SvgScheme scheme);

  /// `anchor` is "start", "middle" or "end"; `more` are further attributes.
  void text(double x, double y, const std::string& content, const char* anchor, const std::string& more = "");
  void rule(double x0, double y0, double x1, double y1, const std::string& style, double width);
  /// A dot in a series' colour.
  void mark(size_t series, bool filled, double x, double y);
  void bar(size_t series, double x, double y, double width, double height);
  /// The frame's two lines and what they stand for.
  void frame(const std::string& x_label, const std::string& y_label);
  /// Names beside their dots or squares, in rows above the frame.
  void legend(const std::vector<std::string>& names, const std::vector<bool>& filled, bool squares);

  static std::string line_style(size_t series) { return "l" + std::to_string(series % kColours); }
  static size_t glyphs(const std::string& utf8);

  std::string finish();

 private:
  std::string out_;
};

}  // namespace hlwq
