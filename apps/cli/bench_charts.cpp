#include "bench_charts.h"

#include <algorithm>
#include <cstdio>

#include "base/file.h"
#include "engine/engine.h"
#include "eval/svg_png.h"
#include "hlwq/error.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

constexpr std::pair<int, const char*> kCaches[] = {{16, "BF16"}, {4, "Q4"}, {3, "Q3"}, {2, "Q2"}};

/// Megabytes for what is small, gigabytes for the rest.
struct Unit {
  double bytes;
  const char* name;
};
Unit unit_for(uint64_t most) { return most >= 1'000'000'000 ? Unit{1e9, "GB"} : Unit{1e6, "MB"}; }

std::string amount(double v) { return fixed(v, v < 9.95 ? 2 : v < 99.5 ? 1 : 0); }

MemoryPlan plan(const ModelSpec& spec, const ModelFacts& facts, uint64_t context, int kv_bits) {
  return plan_memory(spec, facts.weight_bytes, facts.vision_bytes, context, kCpuChunk,
                     KvSettings::preset(kv_bits));
}

void write_text_file(const std::filesystem::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace

std::string short_count(uint64_t tokens) {
  if (tokens >= 1u << 20 && tokens % (1u << 20) == 0) return std::to_string(tokens >> 20) + "M";
  if (tokens >= 1024 && tokens % 1024 == 0) return std::to_string(tokens >> 10) + "K";
  return std::to_string(tokens);
}

std::string title_name(const std::string& model) {
  std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

BarChart memory_chart(const std::string& model, const ModelSpec& spec, const ModelFacts& facts) {
  std::vector<uint64_t> contexts;
  for (const uint64_t c : {4096, 32768, 131072})
    if (c < spec.max_context) contexts.push_back(c);
  contexts.push_back(spec.max_context);
  const bool vision = facts.vision_bytes > 0;
  BarChart chart{
      "Memory by component: " + title_name(model), "bits of the key/value cache, by context", "", {}, {}};
  chart.parts = {"weights"};
  if (vision) chart.parts.push_back("image encoder");
  chart.parts.insert(chart.parts.end(), {"key/value cache", "activations and logits"});
  const Unit unit = unit_for(plan(spec, facts, spec.max_context, 16).total);
  chart.y_label = std::string("memory, ") + unit.name;
  for (const uint64_t context : contexts)
    for (const auto& [bits, name] : kCaches) {
      const MemoryPlan p = plan(spec, facts, context, bits);
      ChartBar bar{name, short_count(context), {}, amount(static_cast<double>(p.total) / unit.bytes)};
      std::vector<uint64_t> parts = {p.weights};
      if (vision) parts.push_back(p.vision);
      parts.insert(parts.end(), {p.kv, p.scratch});
      for (const uint64_t part : parts) bar.values.push_back(static_cast<double>(part) / unit.bytes);
      chart.bars.push_back(std::move(bar));
    }
  return chart;
}

Chart context_chart(const std::string& model, const ModelSpec& spec, const ModelFacts& facts) {
  std::vector<uint64_t> contexts;
  for (uint64_t c = 1024; c < spec.max_context; c *= 2) contexts.push_back(c);
  contexts.push_back(spec.max_context);
  const Unit unit = unit_for(plan(spec, facts, spec.max_context, 16).total);
  Chart chart{"Context by the bits of the key/value cache: " + title_name(model),
              std::string("memory, ") + unit.name + " (weights, cache, activations)",
              "tokens of context (log scale)",
              {}};
  for (const auto& [bits, name] : kCaches) {
    ChartSeries series{name, {}};
    for (const uint64_t context : contexts)
      series.points.push_back({static_cast<double>(plan(spec, facts, context, bits).total) / unit.bytes,
                               static_cast<double>(context), ""});
    series.points.back().label = std::string(name) + ": " + amount(series.points.back().x) + " " + unit.name;
    chart.series.push_back(std::move(series));
  }
  for (const uint64_t context : contexts)
    chart.y_ticks.push_back({static_cast<double>(context), short_count(context)});
  return chart;
}

Chart speed_chart(const std::string& model, const std::vector<DepthSpeed>& speeds,
                  const std::string& backend) {
  Chart chart{"Speed by context: " + title_name(model) + " (" + backend + ")",
              "tokens in the context",
              "tokens per second (log scale)",
              {{"answering, one token at a time", {}}, {"reading a prompt", {}}}};
  for (const DepthSpeed& s : speeds) {
    const auto depth = static_cast<double>(s.depth);
    chart.series[0].points.push_back({depth, s.decode_tok_s, amount(s.decode_tok_s)});
    if (s.prefill_tok_s > 0)
      chart.series[1].points.push_back({depth, s.prefill_tok_s, amount(s.prefill_tok_s)});
    chart.x_ticks.push_back({depth, short_count(s.depth)});
  }
  // Close depths would print over each other.
  const double least = speeds.empty() ? 0 : static_cast<double>(speeds.back().depth) / 24;
  for (size_t i = chart.x_ticks.size(); i-- > 1;)
    if (chart.x_ticks[i].value - chart.x_ticks[i - 1].value < least) chart.x_ticks[i - 1].label.clear();
  return chart;
}

ChartFiles::ChartFiles(const std::string& path) : path_(path) {
  const auto extension = path_.extension();
  directory_ = extension != ".svg" && extension != ".png";
  if (extension != ".png") return;
  if (const std::string why = why_no_png(); !why.empty()) throw Error(ErrorCode::kUnsupported, why);
}

void ChartFiles::write(const std::string& name, const std::function<std::string(SvgScheme)>& draw) {
  Progress progress;
  progress.cancelled = &interrupted();
  if (!directory_) {
    if (path_.extension() == ".png")
      write_png(draw(SvgScheme::kLight), path_, progress);
    else
      write_text_file(path_, draw(SvgScheme::kReader));
    written_.push_back(path_.string());
    return;
  }
  std::error_code ec;
  std::filesystem::create_directories(path_, ec);
  if (ec) throw Error(ErrorCode::kIo, "cannot make the directory " + path_.string() + ": " + ec.message());
  const auto svg = path_ / (name + ".svg"), png = path_ / (name + ".png");
  write_text_file(svg, draw(SvgScheme::kReader));
  written_.push_back(svg.string());
  if (const std::string why = why_no_png(); !why.empty()) {
    if (!noted_) std::fprintf(stderr, "hlwq: note: no PNG: %s\n", why.c_str());
    noted_ = true;
    return;
  }
  write_png(draw(SvgScheme::kLight), png, progress);
  written_.push_back(png.string());
}

}  // namespace hlwq::cli
