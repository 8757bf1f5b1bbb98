#include "quant/quantize.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <span>

#include "base/file.h"
#include "quant/checkpoint_plan.h"
#include "quant/companions.h"
#include "quant/model_card.h"
#include "quant/published_layout.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSlabBytes =
    16u << 20;  // of decoded floats: enough rows for all cores, small beside any tensor

/// Writes the planned tensors one after another, in slabs of rows.
class Streamer {
 public:
  Streamer(const ModelSource& source, const QuantizeOptions& options, const CheckpointPlan& plan,
           SafetensorsWriter& writer, ThreadPool& pool, const Progress& progress)
      : source_(source), options_(options), plan_(plan), writer_(writer), pool_(pool), progress_(progress) {
    for (const PlannedTensor& p : plan.tensors) total_ += p.source->data.size();
  }

  void write_codebooks() {
    if (options_.layout == CheckpointLayout::kNative) {
      for (const Codebook& c : plan_.codebooks)
        writer_.append(c.values.data(), c.values.size() * sizeof(float));
      return;
    }
    for (const PlannedTensor& p : plan_.tensors) {
      if (!p.format) continue;
      const uint64_t rows = p.source->rows(), cols = p.source->cols(), blocks = p.format->row_blocks(cols);
      const uint64_t meta[5] = {rows, blocks, kPublishedBlock, rows * blocks * kPublishedBlock, cols};
      writer_.append(meta, sizeof meta);
    }
  }

  /// `next` (may be null) is what will be written after `p`.
  QuantizedTensor write(const PlannedTensor& p, const PlannedTensor* next) {
    const Tensor& t = *p.source;
    next_ = next ? next->source : nullptr;
    QuantizedTensor report;
    report.name = t.name;
    report.bytes = p.bytes();
    report.elements = t.elements();
    report.note = p.note;
    report.unfit = p.unfit;
    progress_.step(done_, total_, t.name);
    if (p.format) {
      const CodecStats stats = write_quantized(p);
      report.bits = p.format->bits;
      report.block = p.format->block;
      report.lags = p.format->lags;
      report.mse = stats.relative_mse();
      report.cosine = stats.cosine();
    } else {
      write_kept(p);
    }
    source_.tensors->drop(t);
    return report;
  }

 private:
  uint64_t slab_rows(const Tensor& t) const {
    const uint64_t row = std::max<uint64_t>(1, t.cols()) * sizeof(float);
    return std::clamp<uint64_t>(kSlabBytes / row, 1, std::max<uint64_t>(1, t.rows()));
  }

  // Rows [first, first + n) are done: their mapped pages may go. Permuted rows are not contiguous; they wait
  // for the end.
  void finish_rows(const Tensor& t, uint64_t first, uint64_t n) {
    const uint64_t row = t.row_bytes();
    if (t.rope_heads == 0) {
      Tensor part = t;
      part.data = t.data.subspan(first * row, n * row);
      source_.tensors->drop(part);
    }
    done_ += n * row;
    progress_.step(done_, total_, t.name);
  }

  // While rows [first, first + n) are worked on, the rows after them, or the next tensor's first, are read.
  void prefetch_after(const Tensor& t, uint64_t end) const {
    const bool last = end >= t.rows();
    if (last && !next_) return;
    const Tensor& from = last ? *next_ : t;
    const uint64_t begin = last ? 0 : end * t.row_bytes();
    const uint64_t bytes = slab_rows(from) * from.row_bytes();
    prefetch(from.data.subspan(begin, std::min<uint64_t>(bytes, from.data.size() - begin)));
  }

  void decode(const Tensor& t, uint64_t first, uint64_t n) {
    floats_.resize(n * t.cols());
    const uint64_t grain = std::clamp<uint64_t>(65536 / std::max<uint64_t>(t.cols(), 1), 1, 1024);
    pool_.parallel_for(n, grain, [&](size_t begin, size_t end, int) {
      decode_rows(t, first + begin, end - begin, floats_.data() + begin * t.cols());
    });
  }

  CodecStats write_quantized(const PlannedTensor& p) {
    const Tensor& t = *p.source;
    const HlwqFormat& f = *p.format;
    const uint64_t rows = t.rows(), cols = t.cols(), slab = slab_rows(t), blocks = f.row_blocks(cols);
    const Codebook& codebook = plan_.codebook(f.bits, f.lags);
    norms_.resize(rows * blocks);
    const Rounded rounded = find_rounded(p);
    if (options_.encoder && !rounded.codes) return write_encoded(p);
    CodecStats stats;
    for (uint64_t first = 0; first < rows; first += slab) {
      const uint64_t n = std::min(slab, rows - first);
      prefetch_after(t, first + n);
      decode(t, first, n);
      codes_.resize(n * f.row_bytes(cols));
      if (rounded.codes) {
        std::memcpy(codes_.data(), rounded.codes + first * f.row_bytes(cols), codes_.size());
        std::memcpy(norms_.data() + first * blocks, rounded.norms + first * blocks * sizeof(uint16_t),
                    n * blocks * sizeof(uint16_t));
        stats += compare_rows(f, codebook, first, n, cols);
      } else {
        stats += encode_rows(f, codebook, options_.norm, floats_.data(), n, cols, t.name, first, pool_,
                             codes_.data(), norms_.data() + first * blocks);
      }
      if (options_.layout == CheckpointLayout::kPublished) republish(f, n * blocks);
      writer_.append(codes_.data(), codes_.size());
      finish_rows(t, first, n);
    }
    writer_.append(norms_.data(), norms_.size() * sizeof(uint16_t));
    return stats;
  }

  /// The same, encoded by options_.encoder.
  CodecStats write_encoded(const PlannedTensor& p) {
    const Tensor& t = *p.source;
    const HlwqFormat& f = *p.format;
    const uint64_t blocks = f.row_blocks(t.cols());
    CodecStats total;
    const auto done = [&](uint64_t first, uint64_t n, const uint8_t* codes, const uint16_t* norms,
                          const CodecStats& stats) {
      const uint64_t bytes = n * f.row_bytes(t.cols());
      std::copy_n(norms, n * blocks, norms_.data() + first * blocks);
      if (options_.layout == CheckpointLayout::kPublished) {
        codes_.assign(codes, codes + bytes);
        republish(f, n * blocks);
        codes = codes_.data();
      }
      writer_.append(codes, bytes);
      total += stats;
      finish_rows(t, first, n);
    };
    options_.encoder->encode({t, f, plan_.codebook(f.bits, f.lags), options_.norm, slab_rows(t),
                              [&](uint64_t end) { prefetch_after(t, end); }, done},
                             pool_);
    writer_.append(norms_.data(), norms_.size() * sizeof(uint16_t));
    return total;
  }

  /// Where a tensor's codes and norms lie when they were chosen elsewhere; null otherwise.
  struct Rounded {
    const std::byte* codes = nullptr;
    const std::byte* norms = nullptr;
  };
  Rounded find_rounded(const PlannedTensor& p) const {
    const Tensor& t = *p.source;
    for (const TensorSource* source : options_.rounded) {
      const Tensor* codes = source->find(codes_name(t.name));
      const Tensor* norms = source->find(norms_name(t.name));
      if (!codes || !norms) continue;
      const uint64_t rows = t.rows(), cols = t.cols();
      if (codes->dtype != DType::kU8 ||
          codes->shape != std::vector<uint64_t>{rows, p.format->row_bytes(cols)} ||
          norms->dtype != DType::kF16 ||
          norms->shape != std::vector<uint64_t>{rows, p.format->row_blocks(cols)})
        throw Error(ErrorCode::kInvalidFile,
                    "the calibrated codes of " + t.name + " do not have the format that the policy gives it");
      return {codes->data.data(), norms->data.data()};
    }
    return {};
  }

  /// Errors of the codes and norms at hand against the decoded rows first .. first + n.
  CodecStats compare_rows(const HlwqFormat& f, const Codebook& codebook, uint64_t first, uint64_t n,
                          uint64_t cols) {
    std::vector<CodecStats> stats(n);
    pool_.parallel_for(n, 16, [&](size_t begin, size_t end, int) {
      std::vector<float> row(cols);
      for (size_t r = begin; r < end; ++r) {
        decode_row(f, codebook, codes_.data() + r * f.row_bytes(cols),
                   norms_.data() + (first + r) * f.row_blocks(cols), cols, row.data());
        for (uint64_t i = 0; i < cols; ++i) {
          const double w = floats_[r * cols + i], d = row[i];
          stats[r] += {w * w, (w - d) * (w - d), w * d, d * d};
        }
      }
    });
    CodecStats total;
    for (const CodecStats& s : stats) total += s;
    return total;
  }

  void republish(const HlwqFormat& f, uint64_t blocks) {
    published_.resize(codes_.size());
    pool_.parallel_for(blocks, 1024, [&](size_t begin, size_t end, int) {
      to_published(f.bits, end - begin, codes_.data() + begin * f.block_bytes(),
                   published_.data() + begin * f.block_bytes());
    });
    codes_.swap(published_);
  }

  void write_kept(const PlannedTensor& p) {
    const Tensor& t = *p.source;
    const uint64_t rows = t.rows(), slab = slab_rows(t), row = t.row_bytes();
    if (t.elements() == 0) return;
    for (uint64_t first = 0; first < rows; first += slab) {
      const uint64_t n = std::min(slab, rows - first);
      prefetch_after(t, first + n);
      if (!p.copy_rows) {
        decode(t, first, n);
        writer_.append(floats_.data(), floats_.size() * sizeof(float));
      } else if (t.rope_heads == 0) {
        writer_.append(t.data.data() + first * row, n * row);
      } else {
        for (uint64_t r = first; r < first + n; ++r)
          writer_.append(t.data.data() + t.stored_row(r) * row, row);
      }
      finish_rows(t, first, n);
    }
  }

  const ModelSource& source_;
  const QuantizeOptions& options_;
  const CheckpointPlan& plan_;
  SafetensorsWriter& writer_;
  ThreadPool& pool_;
  const Progress& progress_;
  const Tensor* next_ = nullptr;
  uint64_t done_ = 0, total_ = 0;
  std::vector<float> floats_;
  std::vector<uint8_t> codes_, published_;
  std::vector<uint16_t> norms_;
};

/// Everything that is not a tensor.
void write_companions(const ModelSource& source, const QuantizeOptions& options, const CheckpointPlan& plan,
                      const QuantizeResult& result, const fs::path& dir) {
  write_side_files(source, options.tokenizer_json, dir);
  OrderedJson config = source.config.is_object() ? source.config : OrderedJson::object();
  if (options.layout == CheckpointLayout::kNative) {
    config["quantization_config"] = quantization_config(plan, options);
  } else {
    // Published tools hand config.json to transformers, which refuses methods it does not know; they read
    // these instead.
    const std::string text = pretty(published_config(plan, options, base_model_name(source, options)));
    write_text(dir / "hlwq_config.json", text);
    write_text(dir / "polar_config.json", text);
  }
  write_text(dir / "config.json", pretty(config));
  if (!options.policy_json.empty()) write_text(dir / "hlwq_policy.json", options.policy_json);
  write_text(dir / "README.md", model_card(source, options, result));
}

}  // namespace

uint64_t predict_quantized_bytes(const ModelSource& source, const QuantizeOptions& options) {
  return plan_checkpoint(source, options).bytes;
}

QuantizeResult quantize_model(const ModelSource& source, const QuantizeOptions& options, const fs::path& out,
                              ThreadPool& pool, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const CheckpointPlan plan = plan_checkpoint(source, options);
  check_disk(source, out, plan.bytes);

  QuantizeResult result;
  std::map<const Tensor*, QuantizedTensor> reports;
  AtomicDirectory directory(out, options.replace);
  {
    SafetensorsWriter writer(directory.path(), plan.specs, {{"format", "pt"}}, options.max_shard_bytes);
    Streamer streamer(source, options, plan, writer, pool, progress);
    streamer.write_codebooks();
    for (size_t i = 0; i < plan.tensors.size(); ++i)
      reports[plan.tensors[i].source] =
          streamer.write(plan.tensors[i], i + 1 < plan.tensors.size() ? &plan.tensors[i + 1] : nullptr);
    writer.finish();
  }
  for (const Tensor& t : source.tensors->tensors()) {
    result.tensors.push_back(std::move(reports.at(&t)));
    result.bytes_in += t.data.size();
    result.elements += t.elements();
  }
  result.bytes_out = plan.bytes;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_companions(source, options, plan, result, directory.path());
  directory.commit();
  return result;
}

}  // namespace hlwq
