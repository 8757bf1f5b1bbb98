#include "eval/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace hlwq {
namespace {

constexpr double kWidth = SvgCanvas::kWidth, kHeight = SvgCanvas::kHeight, kLeft = SvgCanvas::kLeft,
                 kRight = SvgCanvas::kRight, kTop = SvgCanvas::kTop, kBottom = SvgCanvas::kBottom,
                 kFont = SvgCanvas::kFont, kGlyph = SvgCanvas::kGlyph, kRadius = SvgCanvas::kRadius;

std::string tick_text(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
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
  Drawing(const Chart& chart, SvgScheme scheme) : chart_(chart), canvas_(chart.title, scheme) { fit_axes(); }

  std::string svg() {
    axes();
    lines();
    for (size_t s = 0; s < chart_.series.size(); ++s)
      for (const ChartPoint& p : chart_.series[s].points)
        if (drawable(p)) obstacles_.push_back(around(x_of(p.x), y_of(p.y), kRadius + 1));
    for (size_t s = 0; s < chart_.series.size(); ++s)
      for (const ChartPoint& p : chart_.series[s].points)
        if (drawable(p)) point(s, p);
    return canvas_.finish();
  }

 private:
  bool drawable(const ChartPoint& p) const {
    return std::isfinite(p.y) && std::isfinite(p.x) && (!chart_.y_log || p.y > 0) &&
           (!chart_.x_log || p.x > 0);
  }
  static Box around(double x, double y, double r) { return {x - r, y - r, x + r, y + r}; }

  /// Where values lie on their axis before it is stretched over the paper.
  double x_scale(double x) const { return chart_.x_log ? std::log10(x) : x; }
  double y_scale(double y) const { return chart_.y_log ? std::log10(y) : y; }

  void fit_axes() {
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (const ChartSeries& s : chart_.series)
      for (const ChartPoint& p : s.points) {
        if (!drawable(p)) continue;
        x0 = std::min(x0, x_scale(p.x)), x1 = std::max(x1, x_scale(p.x));
        y0 = std::min(y0, y_scale(p.y)), y1 = std::max(y1, y_scale(p.y));
      }
    if (x0 > x1) x0 = chart_.x_log ? 0 : 4, x1 = x0 + 1, y0 = chart_.y_log ? -2 : 0, y1 = y0 + 1;
    const double x_least = chart_.x_log ? 0.1 : std::min(0.25, x1 > 0 ? 0.1 * x1 : 0.25);
    const double x_room = std::max(x_least, 0.06 * (x1 - x0)), y_room = std::max(0.1, 0.07 * (y1 - y0));
    x_min_ = x0 - x_room, x_max_ = x1 + x_room;
    y_min_ = y0 - y_room, y_max_ = y1 + y_room;
    if (!chart_.y_log) y_min_ = 0, y_max_ = y1 > 0 ? 1.08 * y1 : 1;
  }
  double x_at(double scaled) const {
    return kLeft + (scaled - x_min_) / (x_max_ - x_min_) * (kWidth - kLeft - kRight);
  }
  double y_at(double scaled) const {
    return kHeight - kBottom - (scaled - y_min_) / (y_max_ - y_min_) * (kHeight - kTop - kBottom);
  }
  double x_of(double x) const { return x_at(x_scale(x)); }
  double y_of(double y) const { return y_at(y_scale(y)); }

  // 1, 2, 5 of each power of ten; only powers where there are many.
  static std::vector<ChartTick> log_ticks(double min, double max) {
    std::vector<ChartTick> ticks;
    for (int power = static_cast<int>(std::floor(min)); power <= static_cast<int>(std::ceil(max)); ++power)
      for (const int lead : {1, 2, 5}) {
        if (lead > 1 && max - min >= 3.2) continue;
        const double value = lead * std::pow(10.0, power);
        ticks.push_back({value, tick_text(value)});
      }
    return ticks;
  }

  static std::vector<ChartTick> linear_ticks(double min, double max, double step) {
    std::vector<ChartTick> ticks;
    for (double k = std::ceil(min / step); k * step <= max; ++k)
      ticks.push_back({k * step, tick_text(k * step)});
    return ticks;
  }

  std::vector<ChartTick> x_ticks() const {
    if (!chart_.x_ticks.empty()) return chart_.x_ticks;
    if (chart_.x_log) return log_ticks(x_min_, x_max_);
    const double span = x_max_ - x_min_;
    const double step = span > 12 || span < 1 ? axis_step(span) : span > 4 ? 1 : span > 1.6 ? 0.5 : 0.25;
    return linear_ticks(x_min_, x_max_, step);
  }

  std::vector<ChartTick> y_ticks() const {
    if (!chart_.y_ticks.empty()) return chart_.y_ticks;
    return chart_.y_log ? log_ticks(y_min_, y_max_) : linear_ticks(0, y_max_, axis_step(y_max_));
  }

  void axes() {
    const double bottom = kHeight - kBottom, right = kWidth - kRight;
    for (const ChartTick& t : x_ticks()) {
      const double x = x_of(t.value);
      if (!(x >= kLeft && x <= right)) continue;
      canvas_.rule(x, kTop, x, bottom, "grid", 1);
      canvas_.text(x, bottom + 18, t.label, "middle");
    }
    for (const ChartTick& t : y_ticks()) {
      const double y = y_of(t.value);
      if (!(y >= kTop && y <= bottom)) continue;
      canvas_.rule(kLeft, y, right, y, "grid", 1);
      canvas_.text(kLeft - 8, y + 4, t.label, "end");
    }
    canvas_.frame(chart_.x_label, chart_.y_label);
    std::vector<std::string> names;
    std::vector<bool> filled;
    for (const ChartSeries& s : chart_.series) {
      names.push_back(s.name);
      filled.push_back(s.line);
    }
    canvas_.legend(names, filled, false);
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
        canvas_.rule(seg.x0, seg.y0, seg.x1, seg.y1, SvgCanvas::line_style(s), 1.8);
      }
    }
  }

  // The point, and its label in the first place around it (then further off) that covers least.
  void point(size_t series, const ChartPoint& p) {
    const double x = x_of(p.x), y = y_of(p.y);
    canvas_.mark(series, chart_.series[series].line, x, y);
    if (p.label.empty()) return;
    const double w = static_cast<double>(SvgCanvas::glyphs(p.label)) * kGlyph, h = kFont;
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
      canvas_.rule(x, y, lx, ly, SvgCanvas::line_style(series), 0.8);
    }
    canvas_.text(best.left, best.bottom - 2, p.label, "start");
  }

  const Chart& chart_;
  SvgCanvas canvas_;
  double x_min_ = 0, x_max_ = 1, y_min_ = 0, y_max_ = 1;
  std::vector<Box> obstacles_;
  std::vector<Segment> segments_;
};

}  // namespace

std::string chart_svg(const Chart& chart, SvgScheme scheme) { return Drawing(chart, scheme).svg(); }

double axis_step(double most) {
  if (!(most > 0)) return 1;
  const double power = std::pow(10.0, std::floor(std::log10(most / 10)));
  for (const double lead : {1.0, 2.0, 5.0})
    if (most <= 10 * lead * power) return lead * power;
  return 10 * power;
}

std::string bar_chart_svg(const BarChart& chart, SvgScheme scheme) {
  SvgCanvas canvas(chart.title, scheme);
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  double most = 0;
  for (const ChartBar& bar : chart.bars) {
    double sum = 0;
    for (const double v : bar.values) sum += v;
    most = std::max(most, sum);
  }
  most = most > 0 ? 1.08 * most : 1;
  const auto height = [&](double v) { return v / most * (bottom - kTop); };
  const double step = axis_step(most);
  for (double k = 0; k * step <= most; ++k) {
    canvas.rule(kLeft, bottom - height(k * step), right, bottom - height(k * step), "grid", 1);
    canvas.text(kLeft - 8, bottom - height(k * step) + 4, tick_text(k * step), "end");
  }
  // One place a bar, and half a place between groups.
  double places = 0.5;
  for (size_t i = 0; i < chart.bars.size(); ++i)
    places += i + 1 < chart.bars.size() && chart.bars[i + 1].group == chart.bars[i].group ? 1 : 1.5;
  const double place = (right - kLeft) / places, width = 0.72 * place;
  double x = kLeft + 0.5 * place, group_from = x;
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const ChartBar& bar = chart.bars[i];
    double y = bottom;
    for (size_t p = 0; p < bar.values.size(); ++p) {
      y -= height(bar.values[p]);
      if (bar.values[p] > 0) canvas.bar(p, x + (place - width) / 2, y, width, height(bar.values[p]));
    }
    canvas.text(x + place / 2, y - 5, bar.total, "middle", " font-size=\"11\"");
    canvas.text(x + place / 2, bottom + 15, bar.label, "middle", " font-size=\"11\"");
    x += place;
    if (i + 1 == chart.bars.size() || chart.bars[i + 1].group != bar.group) {
      canvas.text((group_from + x) / 2, bottom + 31, bar.group, "middle", " font-weight=\"600\"");
      x += 0.5 * place;
      group_from = x;
    }
  }
  canvas.frame(chart.x_label, chart.y_label);
  canvas.legend(chart.parts, std::vector<bool>(chart.parts.size(), true), true);
  return canvas.finish();
}

}  // namespace hlwq
