#include "eval/quantize_request.h"

#include <cstdio>
#include <map>

#include "base/file.h"
#include "engine/calibration.h"
#include "engine/device.h"
#include "eval/sensitivity.h"
#include "quant/allocation.h"
#include "text/tokenizer.h"

namespace hlwq {
namespace {

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

class Work {
 public:
  Work(const QuantizeRequest& request, const QuantizeWatch& watch) : r_(request), watch_(watch) {
    make_options();
    encoder_ = make_tensor_encoder(device());
    if (encoder_ && !r_.calibrate.empty())
      refuse(name("calibrate") + " rounds on the CPU only: leave " + name("device") + " out");
    if (!r_.calibrate.empty() && (r_.layout != "native" || r_.norm != "corrected"))
      refuse(name("calibrate") + " goes with the native layout and corrected norms only");
    options_.encoder = encoder_.get();
  }

  QuantizeResult run() {
    if (r_.bpw || r_.size) allocate_bits();
    if (!r_.calibrate.empty()) return calibrate_and_write();
    const ModelSource source = open_model(r_.model);
    ThreadPool pool(r_.threads);
    return write(source, pool);
  }

 private:
  [[noreturn]] static void refuse(const std::string& message) { throw RequestError(message); }
  std::string name(const char* option) const { return r_.prefix + option; }
  Progress stage(const char* title) const { return watch_.stage ? watch_.stage(title) : Progress{}; }

  template <typename Make>
  static auto asked(Make&& make) {
    try {
      return make();
    } catch (const Error& e) {
      if (e.code() == ErrorCode::kInvalidArgument) refuse(e.what());
      throw;
    }
  }
  Device device() const {
    return asked([&] { return parse_device(r_.device); });
  }

  void check_choices() const {
    const auto one_of = [&](const char* option, const std::string& value,
                            std::initializer_list<const char*> all) {
      std::string list;
      for (const char* each : all) {
        if (value == each) return;
        list += (list.empty() ? "" : ", ") + std::string(each);
      }
      refuse(name(option) + " is one of " + list + ", not '" + value + "'");
    };
    one_of("layout", r_.layout, {"native", "published"});
    one_of("codebook", r_.codebook, {"converged", "published-a", "published-b"});
    one_of("norm", r_.norm, {"corrected", "published"});
    if (r_.out.empty()) refuse("quantizing needs a directory to write to");
    if (r_.bits && !r_.policy.empty())
      refuse(name("bits") + " and " + name("policy") + " exclude each other");
    if (r_.bits && (*r_.bits < 2 || *r_.bits > 8)) refuse(name("bits") + " goes from 2 to 8");
    if (r_.bpw && r_.size) refuse(name("bpw") + " and " + name("size") + " exclude each other");
    if ((r_.bpw || r_.size) && (r_.bits || !r_.policy.empty()))
      refuse(name("bpw") + " and " + name("size") + " choose the widths themselves: leave " + name("bits") +
             " and " + name("policy") + " out");
    if (r_.lags && (*r_.lags < 1 || *r_.lags > 3)) refuse(name("lags") + " goes from 1 to 3");
  }

  void make_options() {
    check_choices();
    if (r_.layout == "published") options_.layout = CheckpointLayout::kPublished;
    const bool plain_tables =
        r_.layout == "published" || r_.codebook != "converged" || r_.norm == "published";
    if (plain_tables && r_.lags.value_or(1) > 1)
      refuse("coupled codebooks go with the native layout, and with our own tables and norms");
    std::string policy = r_.bits ? "q" + std::to_string(*r_.bits) : r_.policy.empty() ? "default" : r_.policy;
    // A policy that was named in full, or a file, says itself how many lags it wants.
    const bool ours = r_.bits || r_.policy.empty();
    const int64_t lags = r_.lags.value_or(ours && !plain_tables ? 2 : 1);
    if (policy.ends_with(".json")) {
      if (r_.lags) refuse("a policy file gives each rule its own \"lags\": leave " + name("lags") + " out");
      // Beside the checkpoint, so that a choice can be found and repeated.
      options_.policy_json = read_file(policy);
      options_.policy = QuantPolicy::from_json(options_.policy_json, policy);
    } else {
      if (lags > 1) policy += "-l" + std::to_string(lags);
      options_.policy = asked([&] { return QuantPolicy::named(policy); });
    }
    if (r_.norm == "published") options_.norm = NormRule::kPublished;
    if (r_.codebook == "published-a") options_.codebook = CodebookKind::kPublishedA;
    if (r_.codebook == "published-b") options_.codebook = CodebookKind::kPublishedB;
    options_.pad = r_.pad;
    options_.replace = r_.replace;
    options_.base_model = r_.base_model;
  }

  QuantizeResult calibrate_and_write() {
    // Calibrating takes long: what is in the way of the output is better said before.
    { AtomicDirectory output(r_.out, r_.replace); }
    EngineOptions machine;
    machine.threads = r_.threads;
    Engine engine(machine);
    const auto model = Model::load(r_.model);
    CalibrationOptions calibration;
    calibration.restart = r_.replace;
    const CalibrationWindows windows = calibration_windows(*model, calibration);
    uint64_t tokens = 0;
    for (const auto& w : windows) tokens += w.size();
    options_.calibration = {{"text", r_.calibrate == "builtin" ? "builtin" : "file"}, {"tokens", tokens}};
    const std::filesystem::path work = work_directory();
    CalibratedTensors tensors =
        calibrate(*model, options_, windows, calibration, engine, work, stage("calibrating"));
    options_.rounded = tensors.sources();
    QuantizeResult result = write(model->source(), *engine.compute().pool);
    tensors.layers.clear();
    std::error_code ec;
    std::filesystem::remove_all(work, ec);
    return result;
  }

  /// Beside the output, whatever form its path has.
  std::filesystem::path work_directory() const {
    std::filesystem::path path = std::filesystem::absolute(r_.out).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    return path += ".calibration";
  }

  CalibrationWindows calibration_windows(const Model& model, const CalibrationOptions& options) const {
    const uint64_t tokens = r_.calibration_tokens;
    if (r_.calibrate == "builtin")
      return plain_windows(model, builtin_calibration_text(), options.window, tokens);
    const std::string text = read_file(r_.calibrate, 1u << 30);
    if (r_.calibrate.ends_with(".json") || r_.calibrate.ends_with(".jsonl"))
      return json_windows(model, text, r_.calibrate, options.window, tokens);
    return plain_windows(model, text, options.window, tokens);
  }

  /// Makes options_.policy from bpw or size.
  void allocate_bits() {
    const auto model = Model::load(r_.model);
    const TensorSource& source = *model->source().tensors;
    std::vector<AllocationItem> items;
    uint64_t weights = 0;
    for (const Tensor& t : source.tensors())
      if (const QuantDecision d = options_.policy.decide(t, options_.pad); d.format) {
        items.push_back({t.name, t.rows(), t.cols(), d.format->block, 0});
        weights += t.elements();
      }
    // Measuring takes long: a budget that cannot be met is better said before.
    const int lags = static_cast<int>(r_.lags.value_or(2));
    const uint64_t budget = byte_budget(model->source(), items, weights, lags);
    const std::map<std::string, double> sensitivity = sensitivities(*model);
    for (AllocationItem& item : items) {
      const auto it = sensitivity.find(item.name);
      if (it == sensitivity.end())
        throw Error(ErrorCode::kInvalidFile,
                    r_.sensitivity + " says nothing of " + item.name +
                        ": it was measured on another model; remove it to measure anew");
      item.sensitivity = it->second;
    }
    const Allocation allocation = allocate(items, lags, budget);
    const double rate = 8 * static_cast<double>(allocation.bytes) / static_cast<double>(weights);
    const std::string target =
        r_.bpw ? fixed(*r_.bpw, 3) + " bits per weight" : std::to_string(*r_.size) + " bytes";
    const OrderedJson about{{"made by", "hlwq quantize"},
                            {"target", target},
                            {"bits per weight", fixed(rate, 4)},
                            {"predicted KL", fixed(allocation.predicted_kl, 5)}};
    options_.policy_json = policy_json(items, allocation, about);
    options_.policy = QuantPolicy::from_json(options_.policy_json, "the chosen policy");
    if (!r_.write_policy.empty()) {
      AtomicFile file(r_.write_policy);
      file.write(options_.policy_json);
      file.commit();
    }
    if (watch_.note)
      watch_.note(fixed(rate, 3) + " bits per weight over " + std::to_string(items.size()) +
                  " tensors, predicted KL " + fixed(allocation.predicted_kl, 4) + " nats per token");
  }

  /// What bpw or size leave for the items' codes and norms.
  uint64_t byte_budget(const ModelSource& source, const std::vector<AllocationItem>& items, uint64_t weights,
                       int lags) const {
    const auto [least, most] = allocation_range(items, lags);
    const uint64_t other = fixed_bytes(source, items, lags);
    const double given = r_.bpw ? *r_.bpw / 8 * static_cast<double>(weights)
                                : static_cast<double>(*r_.size) - static_cast<double>(other);
    // More bytes than 8 bits everywhere take are left over; a rate that high must be a slip.
    if (given < static_cast<double>(least) || (r_.bpw && *r_.bpw > 9)) {
      const auto rate = [&](uint64_t bytes) {
        return fixed(8 * static_cast<double>(bytes) / static_cast<double>(weights), 3);
      };
      refuse(
          (r_.bpw ? name("bpw") + " " + fixed(*r_.bpw, 3) : name("size") + " " + std::to_string(*r_.size)) +
          ": this model goes from " + name("bpw") + " " + rate(least) + " to " + rate(most) + ", which is " +
          name("size") + " " + std::to_string(least + other) + " to " + std::to_string(most + other));
    }
    return static_cast<uint64_t>(given);
  }

  /// Bytes of everything that is not one of `items`, with every table that a choice may need.
  uint64_t fixed_bytes(const ModelSource& source, const std::vector<AllocationItem>& items, int lags) const {
    uint64_t coded = 0, tables = 0;
    for (const AllocationItem& item : items) coded += item_bytes(item, HlwqFormat{8, 1, item.block});
    for (const HlwqFormat& f : allocation_formats(lags))
      tables += static_cast<uint64_t>(f.lags) * static_cast<uint64_t>(f.levels()) * sizeof(float);
    QuantizeOptions eight = options_;
    eight.policy = QuantPolicy::named("q8");
    return predict_quantized_bytes(source, eight) - coded + tables;
  }

  std::map<std::string, double> sensitivities(const Model& model) const {
    std::map<std::string, double> result;
    if (!r_.sensitivity.empty() && std::filesystem::exists(r_.sensitivity)) {
      const Json json = parse_json(read_file(r_.sensitivity), r_.sensitivity);
      if (!json.is_object())
        throw Error(ErrorCode::kInvalidFile, r_.sensitivity + ": not an object of numbers");
      for (const auto& [tensor, value] : json.items()) {
        if (!value.is_number() || !(value.get<double>() >= 0))
          throw Error(ErrorCode::kInvalidFile, r_.sensitivity + ": \"" + tensor + "\" is no sensitivity");
        result[tensor] = value.get<double>();
      }
      return result;
    }
    EngineOptions machine;
    machine.threads = r_.threads;
    Engine engine(machine);
    SensitivityOptions options;
    options.pad = r_.pad;
    const CalibrationWindows windows = plain_windows(model, builtin_calibration_text(), 256, 512);
    result = measure_sensitivity(model, options_.policy, windows, options, engine, stage("sensitivity"));
    if (!r_.sensitivity.empty()) {
      AtomicFile file(r_.sensitivity);
      file.write(OrderedJson(result).dump(1) + "\n");
      file.commit();
    }
    return result;
  }

  QuantizeResult write(const ModelSource& source, ThreadPool& pool) {
    if (!source.tensors) throw Error(ErrorCode::kNotFound, r_.model + " has a config but no weights");
    if (source.tokenizer_json.empty() && source.gguf_metadata.contains("tokenizer.ggml.model"))
      options_.tokenizer_json = tokenizer_json_from_gguf(source.gguf_metadata);
    QuantizeResult result = quantize_model(source, options_, r_.out, pool, stage("quantizing"));
    for (const QuantizedTensor& t : result.tensors)
      if (t.unfit && watch_.note) watch_.note("note: " + t.name + " stays as it is: " + t.note);
    return result;
  }

  const QuantizeRequest& r_;
  const QuantizeWatch& watch_;
  QuantizeOptions options_;
  std::unique_ptr<TensorEncoder> encoder_;
};

}  // namespace

void check(const QuantizeRequest& request) { Work(request, {}); }

QuantizeResult quantize(const QuantizeRequest& request, const QuantizeWatch& watch) {
  return Work(request, watch).run();
}

}  // namespace hlwq
