#include "quant/export.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/file.h"
#include "base/half.h"
#include "quant/companions.h"
#include "quant/export_plan.h"
#include "quant/int4.h"
#include "quant/model_card.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSlabBytes = 16u << 20;  // of decoded floats

/// Writes the planned tensors one after another, in slabs of rows.
class Exporter {
 public:
  Exporter(const ModelSource& source, const ExportOptions& options, const ExportPlan& plan,
           SafetensorsWriter& writer, ThreadPool& pool, const Progress& progress)
      : source_(source), options_(options), plan_(plan), writer_(writer), pool_(pool), progress_(progress) {
    for (const PlannedExport& p : plan.tensors) total_ += p.weight->stored_bytes();
  }

  std::vector<ExportedWeight> run() {
    write_shapes();
    std::vector<ExportedWeight> reports;
    bool scales_written = false;
    for (size_t i = 0; i < plan_.tensors.size(); ++i) {
      const PlannedExport& p = plan_.tensors[i];
      const bool wide = p.int4.empty() && info(p.dtype).block_bytes >= 4;
      if (p.int4.empty() && !wide && !scales_written) {
        write_late_scales();
        scales_written = true;
      }
      next_ = i + 1 < plan_.tensors.size() ? plan_.tensors[i + 1].weight : nullptr;
      reports.push_back(write(p));
    }
    if (!scales_written) write_late_scales();
    return reports;
  }

 private:
  void write_shapes() {
    for (const PlannedExport& p : plan_.tensors)
      for (const ExportPart& part : p.int4) {
        const int64_t shape[2] = {static_cast<int64_t>(part.rows), static_cast<int64_t>(p.weight->cols())};
        writer_.append(shape, sizeof shape);
      }
  }

  void write_late_scales() {
    for (const std::vector<uint16_t>& scales : late_scales_)
      writer_.append(scales.data(), scales.size() * sizeof(uint16_t));
  }

  ExportedWeight write(const PlannedExport& p) {
    const SourceWeight& w = *p.weight;
    ExportedWeight report;
    report.name = w.name;
    report.int4 = !p.int4.empty();
    report.elements = w.elements();
    report.note = p.note;
    progress_.step(done_, total_, w.name);
    const uint64_t before = done_;
    if (report.int4) {
      CodecStats stats;
      for (const ExportPart& part : p.int4) {
        stats += write_int4(w, part);
        const uint64_t groups = w.cols() / static_cast<uint64_t>(options_.group);
        report.bytes += part.rows * (w.cols() / 2 + 2 * groups) + 2 * sizeof(int64_t);
      }
      report.mse = stats.relative_mse();
    } else {
      report.bytes = w.elements() * info(p.dtype).block_bytes;
      if (p.dtype == DType::kBF16) {
        write_bf16(w);
      } else {
        writer_.append(w.tensor->data.data(), w.tensor->data.size());
      }
    }
    for (const Tensor* t : w.parts) source_.tensors->drop(*t);
    done_ = before + w.stored_bytes();
    progress_.step(done_, total_, w.name);
    return report;
  }

  uint64_t slab_rows(const SourceWeight& w) const {
    const uint64_t row = std::max<uint64_t>(1, w.cols()) * sizeof(float);
    return std::clamp<uint64_t>(kSlabBytes / row, 1, std::max<uint64_t>(1, w.rows()));
  }

  /// What share of a part belongs to rows [first, first + n).
  static std::span<const std::byte> rows_of(const SourceWeight& w, const Tensor& part, uint64_t first,
                                            uint64_t n) {
    const uint64_t row = part.data.size() / std::max<uint64_t>(1, w.rows());
    return part.data.subspan(first * row, std::min(n, w.rows() - first) * row);
  }

  /// Decodes rows while the kernel reads those after them.
  void decode(const SourceWeight& w, uint64_t first, uint64_t n) {
    const uint64_t end = first + n;
    const SourceWeight* from = end < w.rows() ? &w : next_;
    if (from)
      for (const Tensor* t : from->parts)
        prefetch(rows_of(*from, *t, from == &w ? end : 0, slab_rows(*from)));
    floats_.resize(n * w.cols());
    pool_.parallel_for(n, grain(w), [&](size_t begin, size_t stop, int) {
      w.decode(first + begin, stop - begin, floats_.data() + begin * w.cols());
    });
  }

  static uint64_t grain(const SourceWeight& w) {
    return std::clamp<uint64_t>(65536 / std::max<uint64_t>(w.cols(), 1), 1, 1024);
  }

  /// Rows [first, first + n) are done: their mapped pages may go. Permuted rows wait for the end.
  void finish_rows(const SourceWeight& w, uint64_t first, uint64_t n) {
    for (const Tensor* t : w.parts) {
      if (t->rope_heads != 0) continue;
      Tensor part = *t;
      part.data = rows_of(w, *t, first, n);
      source_.tensors->drop(part);
    }
    done_ += w.stored_bytes() / std::max<uint64_t>(1, w.rows()) * n;
    progress_.step(done_, total_, w.name);
  }

  void write_bf16(const SourceWeight& w) {
    if (w.elements() == 0) return;
    const uint64_t cols = w.cols(), slab = slab_rows(w);
    for (uint64_t first = 0; first < w.rows(); first += slab) {
      const uint64_t n = std::min(slab, w.rows() - first);
      decode(w, first, n);
      halves_.resize(n * cols);
      pool_.parallel_for(n, grain(w), [&](size_t begin, size_t end, int) {
        for (size_t i = begin * cols; i < end * cols; ++i) halves_[i] = float_to_bf16(floats_[i]);
      });
      writer_.append(halves_.data(), halves_.size() * sizeof(uint16_t));
      finish_rows(w, first, n);
    }
  }

  CodecStats write_int4(const SourceWeight& w, const ExportPart& part) {
    const uint64_t cols = w.cols(), groups = cols / static_cast<uint64_t>(options_.group),
                   slab = slab_rows(w);
    halves_.resize(part.rows * groups);
    CodecStats total;
    for (uint64_t done = 0; done < part.rows; done += slab) {
      const uint64_t n = std::min(slab, part.rows - done), first = part.first + done;
      decode(w, first, n);
      words_.resize(n * cols / 8);
      std::vector<CodecStats> stats(n);
      pool_.parallel_for(n, grain(w), [&](size_t begin, size_t end, int) {
        for (size_t r = begin; r < end; ++r) {
          const std::span<const float> row(floats_.data() + r * cols, cols);
          check_finite(row, w.name, first + r);
          stats[r] = round_int4_row(row, options_.group, words_.data() + r * cols / 8,
                                    halves_.data() + (done + r) * groups);
        }
      });
      for (const CodecStats& s : stats) total += s;
      writer_.append(words_.data(), words_.size() * sizeof(uint32_t));
      finish_rows(w, first, n);
    }
    if (scales_keep_alignment(part, cols, options_.group))
      writer_.append(halves_.data(), halves_.size() * sizeof(uint16_t));
    else
      late_scales_.push_back(halves_);
    return total;
  }

  static void check_finite(std::span<const float> row, const std::string& name, uint64_t r) {
    for (size_t i = 0; i < row.size(); ++i)
      if (!std::isfinite(row[i]))
        throw Error(ErrorCode::kInvalidArgument, name + " holds a value that is not finite in row " +
                                                     std::to_string(r) + ", column " + std::to_string(i) +
                                                     "; it cannot be rounded");
  }

  const ModelSource& source_;
  const ExportOptions& options_;
  const ExportPlan& plan_;
  SafetensorsWriter& writer_;
  ThreadPool& pool_;
  const Progress& progress_;
  const SourceWeight* next_ = nullptr;
  uint64_t done_ = 0, total_ = 0;
  std::vector<float> floats_;
  std::vector<uint32_t> words_;
  std::vector<uint16_t> halves_;
  std::vector<std::vector<uint16_t>> late_scales_;
};

}  // namespace

ExportResult export_model(const ModelSource& source, const ExportOptions& options, const fs::path& out,
                          ThreadPool& pool, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const SourceWeights weights(source);
  const ExportPlan plan = plan_export(weights, options);
  check_disk(source, out, plan.bytes);

  ExportResult result;
  AtomicDirectory directory(out, options.replace);
  {
    SafetensorsWriter writer(directory.path(), plan.specs, {{"format", "pt"}}, options.max_shard_bytes);
    result.weights = Exporter(source, options, plan, writer, pool, progress).run();
    writer.finish();
  }
  for (const SourceWeight& w : weights.weights()) {
    result.bytes_in += w.stored_bytes();
    result.elements += w.elements();
  }
  result.bytes_out = plan.bytes;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_side_files(source, options.tokenizer_json, directory.path());
  write_text(directory.path() / "config.json", pretty(export_config(source.config, plan, options)));
  write_text(directory.path() / "README.md", export_card(source, options, result));
  directory.commit();
  return result;
}

}  // namespace hlwq
