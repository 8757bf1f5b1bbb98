#include "files_jobs.h"

#include <cstdlib>

#include "eval/quantize_request.h"
#include "hub/pull.h"

namespace hlwq::python {
namespace {

OrderedJson to_json(const QuantizeResult& result) {
  OrderedJson tensors = OrderedJson::array();
  for (const QuantizedTensor& t : result.tensors)
    tensors.push_back({{"name", t.name},
                       {"bits", t.bits},
                       {"lags", t.lags},
                       {"block", t.block},
                       {"bytes", t.bytes},
                       {"elements", t.elements},
                       {"mse", t.mse},
                       {"cosine", t.cosine},
                       {"note", t.note}});
  return {{"tensors", std::move(tensors)},
          {"bytes_in", result.bytes_in},
          {"bytes_out", result.bytes_out},
          {"bits_per_weight", result.bits_per_weight()},
          {"seconds", result.seconds}};
}

template <typename T>
void read(const Fields& fields, const char* key, std::optional<T>& value) {
  T found{};
  if (!fields.find(key)) return;
  fields.read(key, found);
  value = found;
}

QuantizeRequest quantize_request(const OrderedJson& json) {
  QuantizeRequest r;
  const Fields f(json);
  std::string out;
  f.read("model", r.model);
  f.read("out", out);
  r.out = out;
  f.read("policy", r.policy);
  read(f, "bits", r.bits);
  read(f, "lags", r.lags);
  read(f, "bpw", r.bpw);
  read(f, "size", r.size);
  f.read("sensitivity", r.sensitivity);
  f.read("write_policy", r.write_policy);
  f.read("layout", r.layout);
  f.read("codebook", r.codebook);
  f.read("norm", r.norm);
  f.read("pad", r.pad);
  f.read("replace", r.replace);
  f.read("calibrate", r.calibrate);
  f.read("calibration_tokens", r.calibration_tokens);
  f.read("base_model", r.base_model);
  f.read("device", r.device);
  f.read("threads", r.threads);
  return r;
}

HubSettings hub_environment() {
  HubSettings settings = hub_settings([](const std::string& name) {
    const char* text = std::getenv(name.c_str());
    return text ? std::optional<std::string>(text) : std::nullopt;
  });
  settings.user_agent = "hlwq-python/" HLWQ_VERSION;
  return settings;
}

}  // namespace

std::shared_ptr<Job> start_quantize(Worker& worker, const OrderedJson& json) {
  return worker.start([request = quantize_request(json)](Job& job) {
    QuantizeWatch watch;
    watch.stage = [&](const std::string& stage) {
      Progress p = job.progress();
      p.report = [stage, report = p.report](uint64_t done, uint64_t total, const std::string&) {
        report(done, total, stage);
      };
      return p;
    };
    watch.note = [&](const std::string& text) { job.emit("note", text); };
    job.result = dump(to_json(quantize(request, watch)));
  });
}

std::shared_ptr<Job> start_pull(Worker& worker, const std::string& text) {
  return worker.start([text](Job& job) {
    const auto repository = parse_repository(text);
    if (!repository)
      throw Error(ErrorCode::kInvalidArgument,
                  "'" + text + "' is no repository: owner/name, owner/name@revision");
    const HubSettings settings = hub_environment();
    auto path = find_cached(settings, *repository, FileSet::kModel);
    if (!path) {
      if (settings.offline)
        throw Error(ErrorCode::kNotFound,
                    text + " is neither a file or directory nor (wholly) in the cache " +
                        settings.cache.string() + ", and HF_HUB_OFFLINE forbids to download it");
      job.emit("note",
               "downloading " + text + " from " + settings.endpoint + " into " + settings.cache.string());
      path = pull(settings, *repository, {}, job.progress()).path;
    }
    job.result = path->string();
  });
}

bool is_repository(const std::string& text) { return parse_repository(text).has_value(); }

}  // namespace hlwq::python
