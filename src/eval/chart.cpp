#include "eval/chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace hlwq {
namespace {

constexpr double kWidth = 900, kHeight = 560, kLeft = 84, kRight = 28, kTop = 80, kBottom = 64;
constexpr double kFont = 12, kGlyph = 0.56 * kFont;  // mean advance of a sans-serif font
constexpr double kRadius = 4.5;

// Distinct for colour-blind readers too (Okabe and Ito's order); brighter on dark ground.
constexpr std::array<const char*, 8> kLight = {"#0072b2", "#d55e00", "#008a63", "#b0508a",
                                               "#7a6a00", "#2a9fd0", "#555555", "#8a3b1c"};
constexpr std::array<const char*, 8> kDark = {"#56b4e9", "#ff9a4d", "#2fd0a0", "#e79ac6",
                                              "#e6d84a", "#9ad8ff", "#bbbbbb", "#e0a080"};

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

std::string tick_text(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}

size_t glyphs(const std::string& utf8) {
  return static_cast<size_t>(std::count_if(
      utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

struct Box {
  double left, top, right, bottom;
};

double overlap(const Box& a, const Box& b) {
  const double w = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double h = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return w > 0 && h > 0 ? w * h : 0;
}

struct Segment {
  double x0, y0, x1, y1;
};

// Length of the part of a segment that lies in a box (Liang-Barsky).
double length_inside(const Segment& s, const Box& b) {
  double from = 0, to = 1;
  const double dx = s.x1 - s.x0, dy = s.y1 - s.y0;
  for (const auto& [p, q] : {std::pair{-dx, s.x0 - b.left}, std::pair{dx, b.right - s.x0},
                             std::pair{-dy, s.y0 - b.top}, std::pair{dy, b.bottom - s.y0}}) {
    if (p == 0) {
      if (q < 0) return 0;
    } else if (p < 0) {
      from = std::max(from, q / p);
    } else {
      to = std::min(to, q / p);
    }
  }
  return to > from ? (to - from) * std::hypot(dx, dy) : 0;
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart) : chart_(chart) { fit_axes(); }

  std::string svg() {
    head();
    axes();
    lines();
    for (size_t s = 0; s < chart_.series.size(); ++s)
      for (const ChartPoint& p : chart_.series[s].points)
        if (drawable(p)) obstacles_.push_back(around(x_of(p.x), y_of(p.y), kRadius + 1));
    for (size_t s = 0; s < chart_.series.size(); ++s)
      for (const ChartPoint& p : chart_.series[s].points)
        if (drawable(p)) point(s, p);
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  static bool drawable(const ChartPoint& p) { return p.y > 0 && std::isfinite(p.y) && std::isfinite(p.x); }
  static Box around(double x, double y, double r) { return {x - r, y - r, x + r, y + r}; }
  static std::string style(char kind, size_t series) { return kind + std::to_string(series % kLight.size()); }

  void fit_axes() {
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (const ChartSeries& s : chart_.series)
      for (const ChartPoint& p : s.points) {
        if (!drawable(p)) continue;
        x0 = std::min(x0, p.x), x1 = std::max(x1, p.x);
        y0 = std::min(y0, std::log10(p.y)), y1 = std::max(y1, std::log10(p.y));
      }
    if (x0 > x1) x0 = 4, x1 = 5, y0 = -2, y1 = -1;
    const double x_room = std::max(0.25, 0.06 * (x1 - x0)), y_room = std::max(0.1, 0.07 * (y1 - y0));
    x_min_ = x0 - x_room, x_max_ = x1 + x_room;
    y_min_ = y0 - y_room, y_max_ = y1 + y_room;
  }
  double x_of(double x) const { return kLeft + (x - x_min_) / (x_max_ - x_min_) * (kWidth - kLeft - kRight); }
  double y_of(double y) const {
    return kHeight - kBottom - (std::log10(y) - y_min_) / (y_max_ - y_min_) * (kHeight - kTop - kBottom);
  }

  void head() {
    out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(kWidth) + " " +
           number(kHeight) + "\" width=\"" + number(kWidth) + "\" height=\"" + number(kHeight) +
           "\" font-family=\"system-ui, sans-serif\" font-size=\"" + number(kFont) +
           "\" role=\"img\">\n<title>" + escaped(chart_.title) + "</title>\n<style>\n" +
           scheme("#ffffff", "#1f2328", "#d8dce0", kLight) + "@media (prefers-color-scheme: dark) {\n" +
           scheme("#0d1117", "#e6edf3", "#30363d", kDark) + "}\n</style>\n";
    out_ += "<rect width=\"100%\" height=\"100%\" class=\"ground\"/>\n";
    text(kLeft, 24, chart_.title, "start", " font-size=\"16\" font-weight=\"600\"");
  }

  // Classes rather than CSS variables: simple renderers know only these.
  static std::string scheme(const char* ground, const char* ink, const char* grid,
                            const std::array<const char*, 8>& colours) {
    const std::string g = ground, i = ink;
    std::string css =
        ".ground{fill:" + g + "}.ink{fill:" + i + "}.axis{stroke:" + i + "}.grid{stroke:" + grid + "}";
    for (size_t k = 0; k < colours.size(); ++k) {
      const std::string n = std::to_string(k), c = colours[k];
      css += ".l" + n + "{stroke:" + c + "}.f" + n + "{stroke:" + c + ";fill:" + c + "}.h" + n +
             "{stroke:" + c + ";fill:" + g + "}";
    }
    return css + "\n";
  }

  void text(double x, double y, const std::string& content, const char* anchor,
            const std::string& more = "") {
    out_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor +
            "\" class=\"ink\"" + more + ">" + escaped(content) + "</text>\n";
  }

  void rule(double x0, double y0, double x1, double y1, const std::string& style, double width) {
    out_ += "<line x1=\"" + number(x0) + "\" y1=\"" + number(y0) + "\" x2=\"" + number(x1) + "\" y2=\"" +
            number(y1) + "\" class=\"" + style + "\" stroke-width=\"" + number(width) + "\"/>\n";
  }

  void axes() {
    const double bottom = kHeight - kBottom, right = kWidth - kRight;
    const double step = x_max_ - x_min_ > 4 ? 1 : x_max_ - x_min_ > 1.6 ? 0.5 : 0.25;
    for (double x = std::ceil(x_min_ / step) * step; x <= x_max_; x += step) {
      rule(x_of(x), kTop, x_of(x), bottom, "grid", 1);
      text(x_of(x), bottom + 18, tick_text(x), "middle");
    }
    // 1, 2, 5 of each power of ten; only powers where there are many.
    const bool fine = y_max_ - y_min_ < 3.2;
    for (int power = static_cast<int>(std::floor(y_min_)); power <= static_cast<int>(std::ceil(y_max_));
         ++power)
      for (const int lead : {1, 2, 5}) {
        const double y = lead * std::pow(10.0, power);
        if ((lead > 1 && !fine) || std::log10(y) < y_min_ || std::log10(y) > y_max_) continue;
        rule(kLeft, y_of(y), right, y_of(y), "grid", 1);
        text(kLeft - 8, y_of(y) + 4, tick_text(y), "end");
      }
    rule(kLeft, bottom, right, bottom, "axis", 1);
    rule(kLeft, kTop, kLeft, bottom, "axis", 1);
    text((kLeft + right) / 2, kHeight - 18, chart_.x_label, "middle");
    const std::string middle = number((kTop + bottom) / 2);
    text(20, (kTop + bottom) / 2, chart_.y_label, "middle", " transform=\"rotate(-90 20 " + middle + ")\"");
    double x = kLeft, y = 44;
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      const std::string& name = chart_.series[s].name;
      const double width = 16 + static_cast<double>(glyphs(name)) * kGlyph + 24;
      if (x > kLeft && x + width > right) x = kLeft, y += 20;
      mark(s, x + 6, y);
      text(x + 16, y + 4, name, "start");
      x += width;
    }
  }

  // A dot; hollow for a series that has no line.
  void mark(size_t series, double x, double y) {
    const bool filled = chart_.series[series].line;
    out_ += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"" + number(kRadius) +
            "\" class=\"" + style(filled ? 'f' : 'h', series) + "\" stroke-width=\"1.6\"/>\n";
  }

  void lines() {
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      if (!chart_.series[s].line) continue;
      std::vector<ChartPoint> points;
      for (const ChartPoint& p : chart_.series[s].points)
        if (drawable(p)) points.push_back(p);
      std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
      for (size_t i = 1; i < points.size(); ++i) {
        const Segment seg{x_of(points[i - 1].x), y_of(points[i - 1].y), x_of(points[i].x), y_of(points[i].y)};
        segments_.push_back(seg);
        rule(seg.x0, seg.y0, seg.x1, seg.y1, style('l', s), 1.8);
      }
    }
  }

  // The point, and its label in the first place around it (then further off) that covers least.
  void point(size_t series, const ChartPoint& p) {
    const double x = x_of(p.x), y = y_of(p.y);
    mark(series, x, y);
    const double w = static_cast<double>(glyphs(p.label)) * kGlyph, h = kFont;
    Box best{};
    double best_cost = INFINITY, best_distance = 0;
    for (const double distance : {8.0, 18.0, 32.0, 48.0})
      for (int k = 0; k < 16; ++k) {
        const double angle = (k * 22.5 - 45) * M_PI / 180;  // from upper right on, clockwise in the picture
        const double cx = x + std::cos(angle) * (distance + w / 2),
                     cy = y + std::sin(angle) * (distance + h / 2);
        const Box box{cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2};
        double cost = 0.4 * distance + 0.1 * k;
        const Box inside{kLeft + 2, kTop + 2, kWidth - kRight, kHeight - kBottom - 2};
        cost += 20 * (w * h - overlap(box, inside));
        for (const Box& other : obstacles_) cost += 6 * overlap(box, other);
        for (const Segment& seg : segments_) cost += 1.5 * length_inside(seg, box);
        if (cost < best_cost) best_cost = cost, best = box, best_distance = distance;
      }
    obstacles_.push_back(best);
    if (best_distance > 20) {  // too far to be seen as this point's: a thin leader
      const double lx = std::clamp(x, best.left, best.right), ly = std::clamp(y, best.top, best.bottom);
      rule(x, y, lx, ly, style('l', series), 0.8);
    }
    text(best.left, best.bottom - 2, p.label, "start");
  }

  const Chart& chart_;
  std::string out_;
  double x_min_ = 0, x_max_ = 1, y_min_ = 0, y_max_ = 1;
  std::vector<Box> obstacles_;
  std::vector<Segment> segments_;
};

}  // namespace

std::string chart_svg(const Chart& chart) { return Drawing(chart).svg(); }

}  // namespace hlwq
