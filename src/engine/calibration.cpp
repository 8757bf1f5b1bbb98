#include "engine/calibration.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/file.h"
#include "io/safetensors_writer.h"
#include "quant/calibrated_rounding.h"
#include "quant/checkpoint_plan.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSlabBytes = 16u << 20;  // of decoded weights at a time
constexpr const char* kNote = "calibration.json";

/// Adds up the inputs of the matrices that are to be rounded. Matrices with one input share its moments,
/// under the first one's name.
class MomentCollector : public LinearObserver {
 public:
  MomentCollector(const std::set<std::string>& wanted, int threads) : wanted_(wanted), threads_(threads) {}

  void observe(std::span<const LinearJob> jobs) override {
    std::set<std::pair<const LinearInput*, std::string>> done;
    std::map<const LinearInput*, std::string> first;
    for (const LinearJob& job : jobs) {
      if (!job.weight.dense || !wanted_.contains(job.weight.dense->name)) continue;
      const std::string& name = job.weight.dense->name;
      const std::string& leader =
          leader_.try_emplace(name, first.try_emplace(job.input, name).first->second).first->second;
      if (!done.emplace(job.input, leader).second) continue;
      const auto moments = moments_.try_emplace(leader, job.input->cols()).first;
      moments->second.add(job.input->x(), job.input->tokens(), threads_);
    }
  }

  std::map<std::string, InputMoments>& moments() { return moments_; }
  /// Names whose inputs are summed under `leader`.
  std::vector<std::string> members(const std::string& leader) const {
    std::vector<std::string> names;
    for (const auto& [name, of] : leader_)
      if (of == leader) names.push_back(name);
    return names;
  }

 private:
  const std::set<std::string>& wanted_;
  int threads_;
  std::map<std::string, std::string> leader_;
  std::map<std::string, InputMoments> moments_;
};

/// FNV-1a.
class Digest {
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3ull;
  }
  void add(const std::string& text) { add(text.c_str(), text.size() + 1); }
  std::string text() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash_));
    return out;
  }

 private:
  uint64_t hash_ = 0xcbf29ce484222325ull;
};

std::string settings_id(const CheckpointPlan& plan, const CalibrationWindows& windows,
                        const CalibrationOptions& options) {
  Digest d;
  for (const PlannedTensor& p : plan.tensors) {
    d.add(p.source->name);
    if (!p.format) continue;
    d.add(format_label(*p.format) + "/" + std::to_string(p.format->block));
    // The weights themselves, sampled: another model of the same shape must not pass for this one.
    const auto bytes = p.source->data;
    for (size_t i = 0; i < bytes.size(); i += 1 + bytes.size() / 64) d.add(&bytes[i], 1);
  }
  for (const Codebook& c : plan.codebooks) d.add(c.values.data(), c.values.size() * sizeof(float));
  d.add(&options.window, sizeof options.window);
  for (const auto& w : windows) d.add(w.data(), w.size() * sizeof(int32_t));
  d.add(&options.damping, sizeof options.damping);
  d.add(&options.tied_identity, sizeof options.tied_identity);
  return d.text();
}

class Calibrator {
 public:
  Calibrator(const Model& model, const QuantizeOptions& options, const CalibrationWindows& windows,
             const CalibrationOptions& calibration, Engine& engine, const fs::path& work,
             const Progress& progress)
      : model_(model),
        plan_(plan_checkpoint(model.source(), options)),
        windows_(windows),
        options_(calibration),
        engine_(engine),
        work_(work),
        progress_(progress),
        id_(settings_id(plan_, windows, calibration)) {
    for (const PlannedTensor& p : plan_.tensors)
      if (p.format) formats_.emplace(p.source->name, &p);
    for (const auto& [name, planned] : formats_) wanted_.insert(name);
    total_ = (layers() + 1) * (windows_.size() + kRoundingShare * windows_.size());
  }

  CalibratedTensors run() {
    uint64_t layer = open_work();
    for (; layer < layers(); ++layer) {
      done_ = layer * (1 + kRoundingShare) * windows_.size();
      MomentCollector collector(wanted_, engine_.threads());
      run_layer(layer, &collector);
      round(collector, layer, "layer " + std::to_string(layer + 1) + " of " + std::to_string(layers()));
      save_progress(layer + 1);
    }
    done_ = layers() * (1 + kRoundingShare) * windows_.size();
    round_head();
    CalibratedTensors result;
    for (uint64_t i = 0; i <= layers(); ++i)
      if (!rounded_[i].empty()) result.layers.push_back(open_layer(i));
    return result;
  }

 private:
  static constexpr uint64_t kRoundingShare = 2;  // of a layer's time, against running the text through it

  uint64_t layers() const { return model_.spec().layers.size(); }
  uint64_t hidden() const { return model_.spec().hidden; }
  fs::path layer_path(uint64_t layer) const {
    std::string digits = std::to_string(layer);
    return work_ / ("layer-" + std::string(5 - std::min<size_t>(5, digits.size()), '0') + digits);
  }

  Error damaged(const fs::path& path, const std::string& why) const {
    return Error(ErrorCode::kInvalidFile, path.string() + " is damaged (" + why + "): remove " +
                                              work_.string() + " to start the calibration anew");
  }

  /// A note of this program's; an empty object when there is none.
  Json read_note(const fs::path& path) const {
    if (!fs::exists(path)) return Json::object();
    Json note;
    try {
      note = parse_json(read_file(path, 64u << 20), path.string(), {});
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInvalidFile) throw;
      throw damaged(path, e.what());
    }
    if (!note.is_object() || !note.contains("calibration") || !note["calibration"].is_string())
      throw damaged(path, "it does not say whose it is");
    return note;
  }
  static void write_note(const fs::path& path, const Json& note) {
    AtomicFile file(path);
    file.write(note.dump());
    file.commit();
  }

  /// Makes the work directory, or finds what an earlier run left there. The layer to go on with; the states
  /// are those before it.
  uint64_t open_work() {
    rounded_.resize(layers() + 1);
    if (fs::exists(work_) && !(fs::is_directory(work_) && fs::is_empty(work_))) {
      const Json note = read_note(work_ / kNote);
      if (note.empty())
        throw Error(ErrorCode::kInvalidArgument, work_.string() +
                                                     " is in the way: it is not the work of a calibration; "
                                                     "move it or choose another output");
      if (note["calibration"] == id_) return resume();
      if (!options_.restart)
        throw Error(ErrorCode::kInvalidArgument,
                    work_.string() +
                        " holds an unfinished calibration with other settings: repeat that command to finish "
                        "it, or remove the directory");
      std::error_code ec;
      fs::remove_all(work_, ec);
    }
    std::error_code ec;
    fs::create_directories(work_, ec);
    if (ec) throw Error(ErrorCode::kIo, "cannot create " + work_.string() + ": " + ec.message());
    write_note(work_ / kNote, {{"calibration", id_}});
    embed();
    return 0;
  }

  uint64_t resume() {
    const fs::path path = work_ / "states" / kNote;
    const Json note = read_note(path);
    if (note.empty()) {
      embed();
      return 0;
    }
    if (note["calibration"] != id_ || !note.contains("rounded") || !note["rounded"].is_array() ||
        note["rounded"].size() > layers())
      throw damaged(path, "it belongs to other settings");
    const uint64_t layer = note["rounded"].size();
    for (uint64_t i = 0; i < layer; ++i) {
      for (const Json& name : note["rounded"][i])
        if (!name.is_string() || !formats_.contains(name.get<std::string>()))
          throw damaged(path, "unknown tensors");
        else
          rounded_[i].push_back(name.get<std::string>());
      if (!rounded_[i].empty()) open_layer(i);
    }
    if (!shares_caches()) {
      load_states();
      return layer;
    }
    // Later layers read keys and values of earlier ones, which only running these again brings back.
    embed();
    for (uint64_t i = 0; i < layer; ++i) run_layer(i, nullptr);
    return layer;
  }

  /// A finished layer's file, with everything in it that should be.
  std::unique_ptr<TensorSource> open_layer(uint64_t layer) const {
    const fs::path dir = layer_path(layer);
    std::unique_ptr<TensorSource> file;
    try {
      file = open_safetensors(dir);
    } catch (const Error& e) {
      throw damaged(dir, e.what());
    }
    for (const std::string& name : rounded_[layer]) {
      const PlannedTensor& p = *formats_.at(name);
      const uint64_t rows = p.source->rows(), cols = p.source->cols();
      const Tensor* codes = file->find(codes_name(name));
      const Tensor* norms = file->find(norms_name(name));
      if (!codes || !norms || codes->dtype != DType::kU8 || norms->dtype != DType::kF16 ||
          codes->shape != std::vector<uint64_t>{rows, p.format->row_bytes(cols)} ||
          norms->shape != std::vector<uint64_t>{rows, p.format->row_blocks(cols)})
        throw damaged(dir, name + " is missing or has another shape");
    }
    return file;
  }

  bool shares_caches() const {
    const auto& all = model_.spec().layers;
    return std::any_of(all.begin(), all.end(), [](const LayerSpec& l) { return l.kv_from >= 0; });
  }

  // Layers that read another's keys and values need every window's cache whole; for all others one is enough.
  KvCache& cache(size_t window) {
    const size_t i = shares_caches() ? window : 0;
    while (caches_.size() <= i)
      caches_.push_back(
          std::make_unique<KvCache>(model_.spec(), options_.window, options_.window, KvSettings{}));
    return *caches_[i];
  }

  void embed() {
    states_.resize(windows_.size());
    for (size_t w = 0; w < windows_.size(); ++w) {
      model_.transformer().begin(engine_.compute(), cache(w), windows_[w], workspace_);
      states_[w].assign(workspace_.x.begin(),
                        workspace_.x.begin() + static_cast<ptrdiff_t>(windows_[w].size() * hidden()));
    }
  }

  void run_layer(uint64_t layer, MomentCollector* collector) {
    Compute compute = engine_.compute();
    compute.observer = collector;
    for (size_t w = 0; w < windows_.size(); ++w) {
      progress_.step(done_++, total_,
                     "layer " + std::to_string(layer + 1) + " of " + std::to_string(layers()) + ": inputs");
      model_.transformer().begin(engine_.compute(), cache(w), windows_[w], workspace_);
      std::copy(states_[w].begin(), states_[w].end(), workspace_.x.begin());
      model_.transformer().run_layer(compute, cache(w), layer, windows_[w].size(), workspace_);
      std::copy_n(workspace_.x.begin(), states_[w].size(), states_[w].begin());
    }
  }

  void round_head() {
    const std::string name =
        model_.spec().tied ? model_.spec().prefix + "embed_tokens.weight" : "lm_head.weight";
    if (!wanted_.contains(name)) return;
    std::map<std::string, InputMoments> moments;
    InputMoments& m = moments.try_emplace(name, hidden()).first->second;
    for (size_t w = 0; w < windows_.size(); ++w) {
      progress_.step(done_++, total_, "output head: inputs");
      workspace_.reserve(model_.spec(), windows_[w].size());
      std::copy(states_[w].begin(), states_[w].end(), workspace_.x.begin());
      const auto normed = model_.transformer().finish(engine_.compute(), windows_[w].size(), workspace_);
      m.add(normed.data(), windows_[w].size(), engine_.threads());
    }
    if (model_.spec().tied) m.blend_identity(options_.tied_identity);
    write_layer(layers(), {{&m, {name}}}, "output head");
  }

  void round(MomentCollector& collector, uint64_t layer, const std::string& what) {
    std::vector<std::pair<InputMoments*, std::vector<std::string>>> groups;
    for (auto& [leader, moments] : collector.moments())
      groups.emplace_back(&moments, collector.members(leader));
    write_layer(layer, groups, what);
  }

  /// `groups`: moments, and the matrices that see them.
  void write_layer(uint64_t layer,
                   const std::vector<std::pair<InputMoments*, std::vector<std::string>>>& groups,
                   const std::string& what) {
    std::vector<TensorSpec> specs;
    for (const auto& [moments, names] : groups)
      for (const std::string& name : names) {
        rounded_[layer].push_back(name);
        const PlannedTensor& p = *formats_.at(name);
        const uint64_t rows = p.source->rows(), cols = p.source->cols();
        specs.push_back({codes_name(name), DType::kU8, {rows, p.format->row_bytes(cols)}});
        specs.push_back({norms_name(name), DType::kF16, {rows, p.format->row_blocks(cols)}});
      }
    if (specs.empty()) return;
    uint64_t weights = 0, rounded = 0;
    for (const auto& [moments, names] : groups)
      for (const std::string& name : names) weights += formats_.at(name)->source->elements();
    const uint64_t begin = done_;
    AtomicDirectory directory(layer_path(layer), true);
    SafetensorsWriter writer(directory.path(), specs, {{"format", "pt"}}, ~uint64_t{0});
    for (const auto& [moments, names] : groups) {
      std::unique_ptr<RoundingPlan> plan;
      for (const std::string& name : names) {
        const PlannedTensor& p = *formats_.at(name);
        if (!plan || plan->block() != p.format->block)
          plan = std::make_unique<RoundingPlan>(*moments, p.format->block, options_.damping,
                                                *engine_.compute().pool);
        const auto step = [&](uint64_t done) {
          const uint64_t share =
              kRoundingShare * windows_.size() * (rounded + done) / std::max<uint64_t>(1, weights);
          progress_.step(begin + share, total_, what + ": rounding " + name);
        };
        round_tensor(p, *plan, writer, step);
        rounded += p.source->elements();
      }
    }
    writer.finish();
    directory.commit();
  }

  template <class Step>
  void round_tensor(const PlannedTensor& p, const RoundingPlan& plan, SafetensorsWriter& writer,
                    const Step& step) {
    const Tensor& t = *p.source;
    const HlwqFormat& f = *p.format;
    const uint64_t rows = t.rows(), cols = t.cols();
    const uint64_t slab = std::clamp<uint64_t>(kSlabBytes / (cols * sizeof(float)), 1, rows);
    const Codebook& codebook = plan_.codebook(f.bits, f.lags);
    std::vector<float> floats(slab * cols);
    std::vector<uint8_t> codes(slab * f.row_bytes(cols));
    std::vector<uint16_t> norms(rows * f.row_blocks(cols));
    ThreadPool& pool = *engine_.compute().pool;
    for (uint64_t first = 0; first < rows; first += slab) {
      step(first * cols);
      const uint64_t n = std::min(slab, rows - first);
      pool.parallel_for(n, 64, [&](size_t b, size_t e, int) {
        decode_rows(t, first + b, e - b, floats.data() + b * cols);
      });
      round_rows(f, codebook, plan, floats.data(), n, cols, t.name, first, pool, codes.data(),
                 norms.data() + first * f.row_blocks(cols));
      writer.append(codes.data(), n * f.row_bytes(cols));
    }
    writer.append(norms.data(), norms.size() * sizeof(uint16_t));
  }

  uint64_t tokens() const {
    uint64_t n = 0;
    for (const auto& w : windows_) n += w.size();
    return n;
  }

  void save_progress(uint64_t layer) {
    AtomicDirectory directory(work_ / "states", true);
    if (!shares_caches()) {
      SafetensorsWriter writer(directory.path(), {{"states", DType::kF32, {tokens(), hidden()}}}, {},
                               ~uint64_t{0});
      for (const auto& s : states_) writer.append(s.data(), s.size() * sizeof(float));
      writer.finish();
    }
    Json names = Json::array();
    for (uint64_t i = 0; i < layer; ++i) names.push_back(rounded_[i]);
    write_note(directory.path() / kNote, {{"calibration", id_}, {"rounded", std::move(names)}});
    directory.commit();
  }

  void load_states() {
    const fs::path dir = work_ / "states";
    std::unique_ptr<TensorSource> file;
    try {
      file = open_safetensors(dir);
    } catch (const Error& e) {
      throw damaged(dir, e.what());
    }
    const Tensor* found = file->find("states");
    if (!found || found->dtype != DType::kF32 || found->shape != std::vector<uint64_t>{tokens(), hidden()})
      throw damaged(dir, "the states are missing or have another shape");
    const Tensor& t = *found;
    states_.clear();
    uint64_t at = 0;
    for (const auto& w : windows_) {
      std::vector<float>& s = states_.emplace_back(w.size() * hidden());
      std::memcpy(s.data(), t.data.data() + at * sizeof(float), s.size() * sizeof(float));
      at += s.size();
    }
  }

  const Model& model_;
  const CheckpointPlan plan_;
  const CalibrationWindows& windows_;
  const CalibrationOptions& options_;
  Engine& engine_;
  const fs::path work_;
  const Progress& progress_;
  const std::string id_;
  std::map<std::string, const PlannedTensor*> formats_;
  std::set<std::string> wanted_;
  std::vector<std::vector<std::string>> rounded_;  // names, by layer; the output head comes last
  uint64_t done_ = 0, total_ = 0;
  std::vector<std::vector<float>> states_;
  std::vector<std::unique_ptr<KvCache>> caches_;
  Workspace workspace_;
};

}  // namespace

std::vector<const TensorSource*> CalibratedTensors::sources() const {
  std::vector<const TensorSource*> all;
  for (const auto& l : layers) all.push_back(l.get());
  return all;
}

CalibratedTensors calibrate(const Model& model, const QuantizeOptions& options,
                            const CalibrationWindows& windows, const CalibrationOptions& calibration,
                            Engine& engine, const fs::path& work, const Progress& progress) {
  if (options.layout != CheckpointLayout::kNative)
    throw Error(ErrorCode::kInvalidArgument, "calibrated rounding writes the native layout only");
  if (windows.empty()) throw Error(ErrorCode::kInvalidArgument, "the calibration text is empty");
  for (const auto& w : windows)
    if (w.empty() || w.size() > calibration.window)
      throw Error(ErrorCode::kInvalidArgument, "a calibration window has no tokens or too many");
  return Calibrator(model, options, windows, calibration, engine, work, progress).run();
}

}  // namespace hlwq
