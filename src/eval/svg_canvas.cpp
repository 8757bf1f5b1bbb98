#include "eval/svg_canvas.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace hlwq {
namespace {

// Distinct for colour-blind readers too (Okabe and Ito's order); brighter on dark ground.
constexpr std::array<const char*, SvgCanvas::kColours> kLightColours = {
    "#0072b2", "#d55e00", "#008a63", "#b0508a", "#7a6a00", "#2a9fd0", "#555555", "#8a3b1c"};
constexpr std::array<const char*, SvgCanvas::kColours> kDarkColours = {
    "#56b4e9", "#ff9a4d", "#2fd0a0", "#e79ac6", "#e6d84a", "#9ad8ff", "#bbbbbb", "#e0a080"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;  // XML forbids control characters
    }
  return out;
}

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", v);
  return text;
}

// Classes rather than CSS variables: simple renderers know only these.
std::string rules(const char* ground, const char* ink, const char* grid,
                  const std::array<const char*, SvgCanvas::kColours>& colours) {
  const std::string g = ground, i = ink;
  std::string css =
      ".ground{fill:" + g + "}.ink{fill:" + i + "}.axis{stroke:" + i + "}.grid{stroke:" + grid + "}";
  for (size_t k = 0; k < colours.size(); ++k) {
    const std::string n = std::to_string(k), c = colours[k];
    css += ".l" + n + "{stroke:" + c + "}.f" + n + "{stroke:" + c + ";fill:" + c + "}.h" + n +
           "{stroke:" + c + ";fill:" + g + "}.b" + n + "{fill:" + c + "}";
  }
  return css + "\n";
}

std::string style_sheet(SvgScheme scheme) {
  const std::string light = rules("#ffffff", "#1f2328", "#d8dce0", kLightColours);
  const std::string dark = rules("#0d1117", "#e6edf3", "#30363d", kDarkColours);
  if (scheme == SvgScheme::kDark) return dark;
  return scheme == SvgScheme::kLight ? light
                                     : light + "@media (prefers-color-scheme: dark) {\n" + dark + "}\n";
}

}  // namespace

size_t SvgCanvas::glyphs(const std::string& utf8) {
  return static_cast<size_t>(std::count_if(
      utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

SvgCanvas::SvgCanvas(const std::string& title, SvgScheme scheme) {
  out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(kWidth) + " " + number(kHeight) +
         "\" width=\"" + number(kWidth) + "\" height=\"" + number(kHeight) +
         "\" font-family=\"system-ui, sans-serif\" font-size=\"" + number(kFont) +
         "\" role=\"img\">\n<title>" + escaped(title) + "</title>\n<style>\n" + style_sheet(scheme) +
         "</style>\n<rect width=\"100%\" height=\"100%\" class=\"ground\"/>\n";
  text(kLeft, 24, title, "start", " font-size=\"16\" font-weight=\"600\"");
}

void SvgCanvas::text(double x, double y, const std::string& content, const char* anchor,
                     const std::string& more) {
  out_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor +
          "\" class=\"ink\"" + more + ">" + escaped(content) + "</text>\n";
}

void SvgCanvas::rule(double x0, double y0, double x1, double y1, const std::string& style, double width) {
  out_ += "<line x1=\"" + number(x0) + "\" y1=\"" + number(y0) + "\" x2=\"" + number(x1) + "\" y2=\"" +
          number(y1) + "\" class=\"" + style + "\" stroke-width=\"" + number(width) + "\"/>\n";
}

void SvgCanvas::mark(size_t series, bool filled, double x, double y) {
  out_ += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"" + number(kRadius) + "\" class=\"" +
          (filled ? "f" : "h") + std::to_string(series % kColours) + "\" stroke-width=\"1.6\"/>\n";
}

void SvgCanvas::bar(size_t series, double x, double y, double width, double height) {
  out_ += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) + "\" height=\"" +
          number(height) + "\" class=\"b" + std::to_string(series % kColours) + "\"/>\n";
}

void SvgCanvas::frame(const std::string& x_label, const std::string& y_label) {
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  rule(kLeft, bottom, right, bottom, "axis", 1);
  rule(kLeft, kTop, kLeft, bottom, "axis", 1);
  text((kLeft + right) / 2, kHeight - 13, x_label, "middle");
  const std::string middle = number((kTop + bottom) / 2);
  text(20, (kTop + bottom) / 2, y_label, "middle", " transform=\"rotate(-90 20 " + middle + ")\"");
}

void SvgCanvas::legend(const std::vector<std::string>& names, const std::vector<bool>& filled, bool squares) {
  double x = kLeft, y = 44;
  for (size_t s = 0; s < names.size(); ++s) {
    const double width = 16 + static_cast<double>(glyphs(names[s])) * kGlyph + 24;
    if (x > kLeft && x + width > kWidth - kRight) x = kLeft, y += 20;
    if (squares)
      bar(s, x + 1, y - 5, 10, 10);
    else
      mark(s, filled[s], x + 6, y);
    text(x + 16, y + 4, names[s], "start");
    x += width;
  }
}

std::string SvgCanvas::finish() {
  out_ += "</svg>\n";
  return std::move(out_);
}

}  // namespace hlwq
