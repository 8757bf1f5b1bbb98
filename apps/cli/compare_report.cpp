#include "compare_report.h"

#include <algorithm>
#include <functional>

#include "bench_charts.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

const std::vector<std::string>& header() {
  static const std::vector<std::string> kHeader = {"variant",   "family", "size",  "bits/weight", "mean KL",
                                                   "median KL", "p99 KL", "top-1", "perplexity"};
  return kHeader;
}

const EvalResult* first_result(const std::vector<CompareRow>& rows) {
  for (const CompareRow& r : rows)
    if (r.missing.empty()) return &r.result;
  return nullptr;
}

// The figures as text, the base first; rows without figures are left to the caller.
std::vector<std::vector<std::string>> cells(const CompareReport& report) {
  std::vector<std::vector<std::string>> all;
  if (const EvalResult* r = first_result(report.rows))
    all.push_back({"the model itself", "", format_bytes(report.facts.weight_bytes),
                   fixed(report.facts.bits_per_weight, 3), "0", "0", "0", "100 %", fixed(r->base_ppl, 4)});
  for (const CompareRow& row : report.rows) {
    if (!row.missing.empty()) continue;
    const EvalResult& r = row.result;
    all.push_back({row.name, row.family, format_bytes(row.weight_bytes), fixed(row.bits_per_weight, 3),
                   fixed(r.kl_mean, 5), fixed(r.kl_median, 5), fixed(r.kl_p99, 4),
                   fixed(100 * r.top1, 2) + " %", fixed(r.ppl, 4)});
  }
  return all;
}

std::string protocol(const CompareReport& report) {
  const EvalResult* r = first_result(report.rows);
  if (!r) return "";
  return "KL divergence from " + report.model + " in nats a token, over " + format_count(r->tokens) +
         " tokens in " + format_count(r->windows) + " windows of " + format_count(report.window) + " (" +
         report.backend + ").";
}

Chart divergence_chart(const CompareReport& report, const std::string& x_label,
                       const std::function<double(const CompareRow&)>& x) {
  Chart chart{"Size and divergence: " + title_name(report.model),
              x_label,
              "mean KL divergence, nats per token (log scale)",
              {}};
  for (const CompareRow& row : report.rows) {
    if (!row.missing.empty()) continue;
    auto series = std::find_if(chart.series.begin(), chart.series.end(),
                               [&](const ChartSeries& s) { return s.name == row.family; });
    if (series == chart.series.end())
      series = chart.series.insert(series, {row.family, {}, row.family != "other"});
    series->points.push_back({x(row), row.result.kl_mean, row.name});
  }
  return chart;
}

}  // namespace

std::string CompareReport::table() const {
  Table table(header());
  for (auto& row : cells(*this)) table.add(std::move(row));
  std::string text = table.str();
  for (const CompareRow& row : rows)
    if (!row.missing.empty()) text += row.name + ": not measured: " + row.missing + "\n";
  return text + "\n" + protocol(*this) + "\n";
}

std::string CompareReport::markdown() const {
  Table table(header());
  for (auto& row : cells(*this)) table.add(std::move(row));
  std::string text = protocol(*this) + "\n\n" + table.markdown();
  for (const CompareRow& row : rows)
    if (!row.missing.empty()) text += "\n" + row.name + ": not measured: " + row.missing + "\n";
  return text;
}

OrderedJson CompareReport::json() const {
  OrderedJson variants = OrderedJson::array();
  for (const CompareRow& row : rows) {
    OrderedJson v{{"name", row.name}, {"family", row.family}};
    if (!row.missing.empty()) {
      v["missing"] = row.missing;
    } else {
      v["weight_bytes"] = row.weight_bytes;
      v["bits_per_weight"] = row.bits_per_weight;
      v["kl_mean"] = row.result.kl_mean;
      v["kl_median"] = row.result.kl_median;
      v["kl_p99"] = row.result.kl_p99;
      v["top1"] = row.result.top1;
      v["ppl"] = row.result.ppl;
    }
    variants.push_back(std::move(v));
  }
  OrderedJson out{{"model", model},
                  {"weight_bytes", facts.weight_bytes},
                  {"bits_per_weight", facts.bits_per_weight},
                  {"window", window},
                  {"windows", nullptr},
                  {"tokens", nullptr},
                  {"ppl", nullptr},
                  {"backend", backend}};
  if (const EvalResult* r = first_result(rows)) {
    out["windows"] = r->windows;
    out["tokens"] = r->tokens;
    out["ppl"] = r->base_ppl;
  }
  out["variants"] = std::move(variants);
  return out;
}

Chart CompareReport::chart() const {
  return divergence_chart(*this, "bits per weight",
                          [](const CompareRow& row) { return row.bits_per_weight; });
}

Chart CompareReport::size_chart() const {
  const bool large = facts.weight_bytes >= 1'000'000'000;
  return divergence_chart(
      *this, std::string("size of the text model's weights, ") + (large ? "GB" : "MB"),
      [large](const CompareRow& row) { return static_cast<double>(row.weight_bytes) / (large ? 1e9 : 1e6); });
}

}  // namespace hlwq::cli
