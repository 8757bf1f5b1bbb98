#include "eval/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "quant/codec.h"

namespace hlwq {
namespace {

/// A source in which some tensors' values are replaced.
class OverlaidTensors : public TensorSource {
 public:
  explicit OverlaidTensors(const TensorSource& base) : tensors_(base.tensors()) { build_index(); }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor&) const override {}

  void replace(const std::string& name, std::vector<float> values) {
    Tensor& t = at(name);
    std::vector<float>& kept = values_[name] = std::move(values);
    t.dtype = DType::kF32;
    t.rope_heads = 0;
    t.add = 0;
    t.data = std::as_bytes(std::span(kept));
  }

 private:
  Tensor& at(const std::string& name) {
    return *std::find_if(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; });
  }
  std::vector<Tensor> tensors_;
  std::map<std::string, std::vector<float>> values_;
};

/// The layer that a tensor belongs to, from "...layers.N...."; -1: none.
int64_t layer_of(const std::string& name) {
  const size_t at = name.find("layers.");
  if (at == std::string::npos || at + 7 >= name.size() || name[at + 7] < '0' || name[at + 7] > '9') return -1;
  return std::strtoll(name.c_str() + at + 7, nullptr, 10);
}

/// The name without its layer's number: tensors of one kind.
std::string kind_of(const std::string& name) {
  const size_t at = name.find("layers.");
  if (layer_of(name) < 0) return name;
  const size_t end = name.find('.', at + 7);
  return name.substr(0, at) + (end == std::string::npos ? "" : name.substr(end));
}

/// Tensors that are disturbed together.
struct Probe {
  std::vector<const Tensor*> tensors;
  int64_t first_layer = -1;
};

std::vector<Probe> make_probes(const std::vector<const Tensor*>& tensors, uint64_t evaluations) {
  std::map<std::string, std::vector<const Tensor*>> kinds;
  for (const Tensor* t : tensors) kinds[kind_of(t->name)].push_back(t);
  const uint64_t each = std::max<uint64_t>(1, evaluations / std::max<size_t>(1, kinds.size()));
  std::vector<Probe> probes;
  for (auto& [kind, members] : kinds) {
    std::sort(members.begin(), members.end(),
              [](const Tensor* a, const Tensor* b) { return layer_of(a->name) < layer_of(b->name); });
    const uint64_t bins = std::min<uint64_t>(each, members.size());
    for (uint64_t b = 0; b < bins; ++b) {
      Probe p;
      p.tensors.assign(members.begin() + static_cast<ptrdiff_t>(b * members.size() / bins),
                       members.begin() + static_cast<ptrdiff_t>((b + 1) * members.size() / bins));
      p.first_layer = layer_of(p.tensors.front()->name);
      probes.push_back(std::move(p));
    }
  }
  return probes;
}

class Meter {
 public:
  Meter(const Model& model, const std::vector<std::vector<int32_t>>& windows,
        const SensitivityOptions& options, Engine& engine)
      : model_(model), windows_(windows), options_(options), engine_(engine) {
    for (const auto& w : windows) longest_ = std::max<uint64_t>(longest_, w.size());
    const auto& layers = model.spec().layers;
    shared_kv_ = std::any_of(layers.begin(), layers.end(), [](const LayerSpec& l) { return l.kv_from >= 0; });
    states_.resize(windows.size());
    base_.resize(windows.size());
    for (size_t w = 0; w < windows.size(); ++w) base_[w] = run(model.transformer(), w, -1, &states_[w]);
  }

  /// Mean KL(base || transformer), which differs from the base in layers >= first_layer and, when that is -1,
  /// anywhere.
  double divergence(const Transformer& transformer, int64_t first_layer) {
    double kl = 0;
    uint64_t rows = 0;
    const uint64_t vocab = model_.spec().vocab;
    for (size_t w = 0; w < windows_.size(); ++w) {
      const std::vector<float> logits = run(transformer, w, shared_kv_ ? -1 : first_layer, nullptr);
      for (uint64_t r = 0; r < logits.size() / vocab; ++r, ++rows)
        kl += row_divergence(base_[w].data() + r * vocab, logits.data() + r * vocab, vocab);
    }
    return kl / static_cast<double>(std::max<uint64_t>(1, rows));
  }

 private:
  static double row_divergence(const float* base, const float* other, uint64_t n) {
    const float base_top = *std::max_element(base, base + n), top = *std::max_element(other, other + n);
    double base_sum = 0, sum = 0, product = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const double p = std::exp(static_cast<double>(base[i]) - base_top);
      base_sum += p;
      sum += std::exp(static_cast<double>(other[i]) - top);
      product += p * (static_cast<double>(base[i]) - other[i]);
    }
    return std::max(0.0, product / base_sum - (base_top + std::log(base_sum)) + (top + std::log(sum)));
  }

  /// Logits at the chosen positions. `states` gets the inputs of every layer.
  std::vector<float> run(const Transformer& transformer, size_t w, int64_t first_layer,
                         std::vector<std::vector<float>>* states) {
    const Compute compute = engine_.compute();
    const auto& ids = windows_[w];
    const uint64_t hidden = model_.spec().hidden, tokens = ids.size();
    KvCache cache(model_.spec(), longest_, longest_, KvSettings{});
    transformer.begin(compute, cache, ids, workspace_);
    const uint64_t first = static_cast<uint64_t>(std::max<int64_t>(0, first_layer));
    if (first_layer >= 0) std::copy(states_[w][first].begin(), states_[w][first].end(), workspace_.x.begin());
    for (uint64_t i = first; i < model_.spec().layers.size(); ++i) {
      if (states)
        states->emplace_back(workspace_.x.begin(),
                             workspace_.x.begin() + static_cast<ptrdiff_t>(tokens * hidden));
      transformer.run_layer(compute, cache, i, tokens, workspace_);
    }
    const auto normed = transformer.finish(compute, tokens, workspace_);
    const uint64_t rows = std::min(options_.positions, tokens);
    std::vector<float> chosen(rows * hidden), logits(rows * model_.spec().vocab);
    for (uint64_t r = 0; r < rows; ++r)
      std::copy_n(normed.begin() + static_cast<ptrdiff_t>((r + 1) * tokens / rows * hidden - hidden), hidden,
                  chosen.begin() + static_cast<ptrdiff_t>(r * hidden));
    transformer.logits(compute, chosen.data(), rows, logits.data());
    return logits;
  }

  const Model& model_;
  const std::vector<std::vector<int32_t>>& windows_;
  const SensitivityOptions& options_;
  Engine& engine_;
  uint64_t longest_ = 1;
  bool shared_kv_ = false;
  std::vector<std::vector<std::vector<float>>> states_;  // [window][layer]
  std::vector<std::vector<float>> base_;
  Workspace workspace_;
};

/// The tensor's values as the probe's format would store them, and the relative error of that.
std::pair<std::vector<float>, double> disturbed(const Tensor& t, const HlwqFormat& format, ThreadPool& pool) {
  const Codebook codebook = standard_codebook(format.bits, format.lags);
  const uint64_t rows = t.rows(), cols = t.cols(), slab = std::clamp<uint64_t>((4u << 20) / cols, 1, rows);
  std::vector<float> values(rows * cols);
  std::vector<uint8_t> codes(slab * format.row_bytes(cols));
  std::vector<uint16_t> norms(slab * format.row_blocks(cols));
  CodecStats stats;
  for (uint64_t first = 0; first < rows; first += slab) {
    const uint64_t n = std::min(slab, rows - first);
    float* at = values.data() + first * cols;
    decode_rows(t, first, n, at);
    stats += encode_rows(format, codebook, NormRule::kCorrected, at, n, cols, t.name, first, pool,
                         codes.data(), norms.data());
    for (uint64_t r = 0; r < n; ++r)
      decode_row(format, codebook, codes.data() + r * format.row_bytes(cols),
                 norms.data() + r * format.row_blocks(cols), cols, at + r * cols);
  }
  return {std::move(values), stats.relative_mse()};
}

}  // namespace

std::map<std::string, double> measure_sensitivity(const Model& model, const QuantPolicy& policy,
                                                  const std::vector<std::vector<int32_t>>& windows,
                                                  const SensitivityOptions& options, Engine& engine,
                                                  const Progress& progress) {
  std::vector<const Tensor*> tensors;
  std::map<std::string, int> blocks;
  for (const Tensor& t : model.source().tensors->tensors())
    if (const QuantDecision d = policy.decide(t, options.pad); d.format) {
      tensors.push_back(&t);
      blocks[t.name] = d.format->block;
    }
  const std::vector<Probe> probes = make_probes(tensors, options.evaluations);
  progress.step(0, probes.size(), "the unquantised model");
  Meter meter(model, windows, options, engine);
  std::map<std::string, double> result;
  for (size_t i = 0; i < probes.size(); ++i) {
    const Probe& probe = probes[i];
    progress.step(i, probes.size(), probe.tensors.front()->name);
    ModelSource overlaid;
    overlaid.kind = model.source().kind;
    overlaid.path = model.source().path;
    overlaid.config = model.source().config;
    auto overlay = std::make_unique<OverlaidTensors>(*model.source().tensors);
    double error = 0, elements = 0;
    for (const Tensor* t : probe.tensors) {
      HlwqFormat format = options.probe;
      format.block = blocks.at(t->name);
      auto [values, mse] = disturbed(*t, format, *engine.compute().pool);
      overlay->replace(t->name, std::move(values));
      error += mse * static_cast<double>(t->elements());
      elements += static_cast<double>(t->elements());
    }
    overlaid.tensors = std::move(overlay);
    WeightStore store(overlaid);
    const Transformer transformer(model.spec(), store);
    const double kl = meter.divergence(transformer, probe.first_layer);
    // A group's damage is shared by its members in proportion to their size.
    for (const Tensor* t : probe.tensors) {
      const double share = static_cast<double>(t->elements()) / elements;
      result[t->name] = error > 0 ? kl / (error / elements) * share : 0;
    }
  }
  return result;
}

}  // namespace hlwq
