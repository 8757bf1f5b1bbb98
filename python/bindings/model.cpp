#include "model.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "engine/plan.h"
#include "request.h"

namespace hlwq::python {
namespace {

constexpr uint64_t kLogitRows = 32;  // positions whose logits are held at a time

SamplingParams sampling(const Model& model, const OrderedJson& request) {
  SamplingParams p = sampling_defaults(model.source().generation_config);
  const Fields fields(request);
  fields.read("temperature", p.temperature);
  fields.read("top_k", p.top_k);
  fields.read("top_p", p.top_p);
  fields.read("min_p", p.min_p);
  fields.read("repetition_penalty", p.repetition_penalty);
  fields.read("presence_penalty", p.presence_penalty);
  fields.read("frequency_penalty", p.frequency_penalty);
  fields.read("seed", p.seed);
  if (const OrderedJson* bias = fields.find("logit_bias"))
    for (const auto& entry : *bias) {
      const auto id = entry.at(0).get<int64_t>();
      if (id < 0 || static_cast<uint64_t>(id) >= model.spec().vocab)
        throw Error(ErrorCode::kInvalidArgument, "logit_bias: " + std::to_string(id) +
                                                     " is no token of this model, which has " +
                                                     std::to_string(model.spec().vocab));
      p.logit_bias[static_cast<int32_t>(id)] = entry.at(1).get<float>();
    }
  validate(p);
  return p;
}

ImageOptions image_options(const OrderedJson& options) {
  ImageOptions o;
  const OrderedJson* tokens = Fields(options).find("image_tokens");
  if (!tokens) return o;
  if (*tokens == "auto") {
    o.budget = ImageOptions::Budget::kAuto;
  } else if (tokens->is_number_unsigned()) {
    o.budget = ImageOptions::Budget::kFixed;
    o.tokens = tokens->get<uint64_t>();
  } else {
    throw Error(ErrorCode::kInvalidArgument,
                "image_tokens is 70, 140, 280, 560, 1120 or 'auto', not " + tokens->dump());
  }
  return o;
}

OrderedJson to_json(const std::vector<TokenLogprobs>& logprobs) {
  OrderedJson list = OrderedJson::array();
  for (const TokenLogprobs& p : logprobs) {
    OrderedJson top = OrderedJson::array();
    for (const TokenLogprob& t : p.top) top.push_back(OrderedJson::array({t.id, t.logprob}));
    list.push_back({{"id", p.chosen.id}, {"logprob", p.chosen.logprob}, {"top", std::move(top)}});
  }
  return list;
}

OrderedJson to_json(const GenerateResult& r) {
  return {{"text", r.text},
          {"thinking", r.thinking},
          {"tool_calls", tool_calls_json(r.tool_calls)},
          {"message", assistant_message(r)},
          {"ids", r.ids},
          {"finish_reason", r.finish_reason},
          {"thinking_tokens", r.thinking_tokens},
          {"thinking_cut", r.thinking_cut},
          {"cut_call", r.cut_call},
          {"notes", r.notes},
          {"logprobs", to_json(r.logprobs)},
          {"timing",
           {{"prefill_tokens", r.timing.prefill_tokens},
            {"prefill_s", r.timing.prefill_s},
            {"decode_tokens", r.timing.decode_tokens},
            {"decode_s", r.timing.decode_s}}}};
}

OrderedJson to_json(const MemoryPlan& p) {
  return {{"context", p.context}, {"weights", p.weights}, {"kv", p.kv},
          {"vision", p.vision},   {"scratch", p.scratch}, {"total", p.total}};
}

}  // namespace

LoadedModel::LoadedModel(const std::string& path, const OrderedJson& options)
    : path_(path), options_(options), worker_(std::make_unique<Worker>()) {
  const Fields fields(options_);
  int bits = 16;
  fields.read("kv_bits", bits);
  kv_ = KvSettings::preset(bits);
  fields.read("ctx", asked_context_);
  fields.read("vision", vision_);
}

void LoadedModel::close() {
  worker_->stop();
  session_.reset();
  scorer_.reset();
  scored_.clear();
  encoder_.reset();
  engine_.reset();
}

std::shared_ptr<Job> LoadedModel::load() {
  return worker_->start([this](Job&) { open(); });
}

void LoadedModel::open() {
  EngineOptions engine;
  const Fields fields(options_);
  fields.read("threads", engine.threads);
  fields.read("isa", engine.isa);
  fields.read("device", engine.device);
  fields.read("gpu_layers", engine.gpu_layers);
  engine.note = [this](const std::string& text) {
    const std::lock_guard lock(notes_mutex_);
    notes_.push_back(text);
  };
  engine_.emplace(engine);
  ImageOptions images = image_options(options_);
  images.read = [this, limit = images.limits.max_bytes](const std::string& path) {
    if (images_)
      if (const auto file = images_->find(path); file != images_->end()) return file->second;
    return read_file(path, limit);
  };
  auto model = Model::load(path_);
  if (asked_context_ > model->spec().max_context)
    throw Error(ErrorCode::kInvalidArgument, "ctx " + std::to_string(asked_context_) +
                                                 " is beyond the model's context of " +
                                                 std::to_string(model->spec().max_context) + " tokens");
  if (vision_ && model->vision()) {
    try {
      encoder_.emplace(model, images);
    } catch (const Error& e) {  // a model whose images cannot be prepared still talks
      if (fields.find("image_tokens")) throw;
      why_no_images_ = e.what();
    }
  }
  model_ = std::move(model);
  asked_context_ = context();
}

uint64_t LoadedModel::chunk() const { return engine_->uses_gpu() ? kGpuChunk : kCpuChunk; }

uint64_t LoadedModel::context() {
  if (asked_context_) return asked_context_;
  return engine_->default_context(*model_, std::max(chunk(), image_tokens()), kv_, image_tokens());
}

Session& LoadedModel::session() {
  if (!session_) {
    SessionOptions options;
    options.context = asked_context_;
    options.kv = kv_;
    options.image_tokens = image_tokens();
    session_.emplace(model_, *engine_, options);
  }
  return *session_;
}

ImageEncoder& LoadedModel::encoder() {
  model_->require_vision();
  if (!vision_)
    throw Error(ErrorCode::kUnsupported, "the model was loaded with vision=False, so it takes no images");
  if (!encoder_) throw Error(ErrorCode::kUnsupported, why_no_images_);
  return *encoder_;
}

ChatOptions LoadedModel::chat_options(const OrderedJson& request) const {
  ChatOptions options;
  const Fields fields(request);
  if (const OrderedJson* tools = fields.find("tools")) options.tools = *tools;
  if (const OrderedJson* extra = fields.find("template")) options.extra = *extra;
  fields.read("add_generation_prompt", options.add_generation_prompt);
  return options;
}

Prompt LoadedModel::make_prompt(Job& job, const OrderedJson& request, bool templated) {
  if (templated) {
    const OrderedJson& messages = request["messages"];
    if (image_paths(messages).empty()) return {chat_ids(*model_, messages, chat_options(request)), {}};
    return encoder()
        .chat(*engine_, messages, chat_options(request), session().context(), job.progress())
        .prompt;
  }
  if (request.contains("ids")) return {request["ids"].get<std::vector<int32_t>>(), {}};
  bool special = false;
  Fields(request).read("special", special);
  return {model_->tokenizer().encode(request["text"].get<std::string>(), true, special), {}};
}

std::shared_ptr<Job> LoadedModel::generate(const OrderedJson& request, ImageFiles images) {
  auto files = std::make_shared<ImageFiles>(std::move(images));
  return worker_->start([this, request, files](Job& job) {
    images_ = files.get();
    try {
      job.result = run_generate(job, request);
    } catch (...) {
      images_ = nullptr;
      throw;
    }
    images_ = nullptr;
  });
}

std::string LoadedModel::run_generate(Job& job, const OrderedJson& request) {
  const Fields fields(request);
  GenerateOptions options;
  options.sampling = sampling(*model_, request);
  fields.read("max_tokens", options.max_tokens);
  fields.read("stop", options.stop);
  fields.read("logprobs", options.logprobs);
  fields.read("skip_special", options.skip_special);
  bool ignore_eos = false;
  fields.read("ignore_eos", ignore_eos);
  if (!ignore_eos) options.stop_ids = stop_tokens(*model_);
  options.cancelled = job.cancelled();
  options.prefill = job.progress();
  const bool templated = request.contains("messages");
  if (templated) {
    options.format = chat_format(*model_);
    const OrderedJson* tools = fields.find("tools");
    options.expect_calls = tools && tools->is_array() && !tools->empty();
    fields.read("thinking_budget", options.thinking_budget);
    options.on_thinking = [&](const std::string& text) { job.emit("thinking", text); };
    options.on_tool_call = [&](const ToolCall& call) {
      job.emit("tool_call", dump(tool_calls_json({call})[0]));
    };
  }
  const Prompt prompt = make_prompt(job, request, templated);
  const GenerateResult result =
      hlwq::generate(session(), prompt, options, [&](const std::string& text) { job.emit("text", text); });
  OrderedJson json = to_json(result);
  json["prompt_tokens"] = prompt.ids.size();
  json["context_tokens"] = session().ids().size();
  json["seed"] = options.sampling.seed;
  return dump(json);
}

void LoadedModel::read(Job& job, std::span<const int32_t> ids, uint64_t first,
                       const std::function<void(uint64_t, std::span<const float>)>& visit) {
  const uint64_t vocab = model_->spec().vocab, hidden = model_->spec().hidden;
  if (ids.size() > asked_context_)
    throw Error(ErrorCode::kContextFull,
                std::to_string(ids.size()) + " tokens do not fit into the context of " +
                    std::to_string(asked_context_) + "; load the model with a larger ctx");
  // Room for more than is needed now, so that texts of varied lengths share one cache.
  if (!scorer_ || scorer_->context() < ids.size()) {
    uint64_t room = 512;
    while (room < ids.size()) room *= 2;
    room = std::min(room, asked_context_);
    scorer_.reset();
    scored_.clear();
    scorer_ = engine_->sequence(*model_, room, std::min(chunk(), room), kv_, image_tokens());
  }
  // What is shared with the last text is not run again; the state before `first` must be, to have logits.
  const auto same = std::mismatch(scored_.begin(), scored_.end(), ids.begin(), ids.end());
  uint64_t done = std::min<uint64_t>(static_cast<uint64_t>(same.first - scored_.begin()), first);
  if (!scorer_->truncate(done)) {
    done = 0;
    scorer_->truncate(0);
  }
  scored_.resize(done);
  std::vector<float> states(kLogitRows * hidden), logits(kLogitRows * vocab);
  try {
    while (done < ids.size()) {
      job.progress().step(done, ids.size(), "reading");
      const uint64_t n = std::min<uint64_t>(scorer_->max_chunk(), ids.size() - done);
      scorer_->forward(ids.subspan(done, n));
      scored_.insert(scored_.end(), ids.begin() + static_cast<std::ptrdiff_t>(done),
                     ids.begin() + static_cast<std::ptrdiff_t>(done + n));
      for (uint64_t at = std::max(first, done); at < done + n; at += kLogitRows) {
        const uint64_t rows = std::min(kLogitRows, done + n - at);
        scorer_->states(at - done, rows, states.data());
        scorer_->logits(states.data(), rows, logits.data());
        for (uint64_t r = 0; r < rows; ++r) visit(at + r, {logits.data() + r * vocab, vocab});
      }
      done += n;
    }
  } catch (...) {
    if (scorer_->length() != scored_.size()) scorer_.reset();
    throw;
  }
}

std::shared_ptr<Job> LoadedModel::logits(std::vector<int32_t> ids, uint64_t first, float* out) {
  return worker_->start([this, ids = std::move(ids), first, out](Job& job) {
    read(job, ids, first, [&](uint64_t position, std::span<const float> row) {
      std::copy(row.begin(), row.end(), out + (position - first) * row.size());
    });
  });
}

std::shared_ptr<Job> LoadedModel::score(std::vector<int32_t> ids, uint64_t first, double* logprobs,
                                        bool* likeliest) {
  return worker_->start([this, ids = std::move(ids), first, logprobs, likeliest](Job& job) {
    for (int32_t id : ids)
      if (id < 0 || static_cast<uint64_t>(id) >= model_->spec().vocab)
        throw Error(ErrorCode::kInvalidArgument, std::to_string(id) + " is no token of this model");
    read(job, std::span(ids).first(ids.size() - 1), first - 1,
         [&](uint64_t position, std::span<const float> row) {
           const auto top = std::max_element(row.begin(), row.end());
           double sum = 0;
           for (float v : row) sum += std::exp(static_cast<double>(v) - *top);
           const auto id = static_cast<size_t>(ids[position + 1]);
           logprobs[position + 1 - first] = static_cast<double>(row[id]) - *top - std::log(sum);
           likeliest[position + 1 - first] = row[id] == *top;
         });
  });
}

std::shared_ptr<Job> LoadedModel::info() {
  return worker_->start([this](Job& job) { job.result = describe_model(); });
}

std::string LoadedModel::describe_model() {
  const ModelSpec& spec = model_->spec();
  const ModelFacts facts = model_facts(*model_);
  const MemoryPlan memory = plan_memory(spec, facts.weight_bytes, facts.vision_bytes, asked_context_,
                                        std::max(chunk(), image_tokens()), kv_);
  OrderedJson formats = OrderedJson::array();
  for (const auto& g : facts.groups)
    formats.push_back(
        {{"format", g.format}, {"tensors", g.tensors}, {"params", g.params}, {"bytes", g.bytes}});
  OrderedJson image = nullptr;
  if (encoder_) image = encoder_->max_tokens();
  return dump({{"path", model_->source().path.string()},
               {"architecture", facts.architecture},
               {"family", facts.family},
               {"layers", spec.layers.size()},
               {"hidden", spec.hidden},
               {"vocab", spec.vocab},
               {"params", facts.params},
               {"text_params", facts.text_params},
               {"weight_bytes", facts.weight_bytes},
               {"vision_bytes", facts.vision_bytes},
               {"bits_per_weight", facts.bits_per_weight},
               {"formats", std::move(formats)},
               {"max_context", spec.max_context},
               {"context", asked_context_},
               {"context_tokens", session_ ? session_->ids().size() : 0},
               {"kv", describe(kv_)},
               {"kv_bytes_per_token", facts.kv_bytes_per_token},
               {"memory", to_json(memory)},
               {"image_tokens", std::move(image)},
               {"has_tokenizer", model_->has_tokenizer()},
               {"has_template", model_->chat_template() != nullptr},
               {"backend", engine_->backend()},
               {"threads", engine_->threads()}});
}

std::shared_ptr<Job> LoadedModel::reset() {
  return worker_->start([this](Job&) {
    session_.reset();
    scorer_.reset();
    scored_.clear();
  });
}

std::string LoadedModel::plan(uint64_t context, int kv_bits) const {
  const ModelSpec& spec = model_->spec();
  if (context == 0 || context > spec.max_context)
    throw Error(ErrorCode::kInvalidArgument,
                "the model's context goes from 1 to " + std::to_string(spec.max_context) + " tokens");
  const ModelFacts facts = model_facts(*model_);
  const KvSettings kv = kv_bits ? KvSettings::preset(kv_bits) : kv_;
  return dump(to_json(plan_memory(spec, facts.weight_bytes, facts.vision_bytes, context, kCpuChunk, kv)));
}

std::vector<std::string> LoadedModel::take_notes() {
  const std::lock_guard lock(notes_mutex_);
  return std::exchange(notes_, {});
}

}  // namespace hlwq::python
