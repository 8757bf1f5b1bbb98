#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "engine/chat.h"
#include "text/output_decoder.h"

namespace hlwq {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void add_ids(const OrderedJson& config, const char* key, std::set<int32_t>& ids) {
  if (!config.is_object() || !config.contains(key)) return;
  const auto& v = config[key];
  const auto add = [&](const OrderedJson& x) {
    if (x.is_number_integer() && x.get<int64_t>() >= 0 && x.get<int64_t>() <= INT32_MAX)
      ids.insert(x.get<int32_t>());
  };
  if (v.is_array())
    for (const auto& x : v) add(x);
  else
    add(v);
}

/// Sorts what is generated into the result, and streams it.
class Answer {
 public:
  Answer(const Model& model, std::span<const int32_t> prompt, const GenerateOptions& options,
         const std::function<void(const std::string&)>& on_text, GenerateResult& result)
      : options_(options), on_text_(on_text), result_(result), matcher_(options.stop) {
    if (!model.has_tokenizer()) return;
    decoder_.emplace(model.tokenizer(), options.format.value_or(OutputFormat{}), options.skip_special,
                     options.expect_calls);
    decoder_->see_prompt(prompt);
    for (int32_t id : prompt) hash_ = mixed(hash_, static_cast<uint32_t>(id));
  }

  void push(int32_t id) {
    if (decoder_) take(decoder_->push(id));
  }
  void finish() {
    if (!decoder_ || matcher_.stopped()) return;
    take(decoder_->finish());
    if (!matcher_.stopped()) show(matcher_.finish());
  }
  bool stopped() const { return matcher_.stopped(); }
  bool thinking() const { return decoder_ && decoder_->thinking(); }
  std::vector<int32_t> closing_ids() const {
    return decoder_ ? decoder_->closing_ids() : std::vector<int32_t>{};
  }

 private:
  static uint64_t mixed(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001b3u; }  // FNV-1a

  std::string call_id() const {
    uint64_t hash = mixed(hash_, result_.tool_calls.size());
    std::string id;
    for (int i = 0; i < 9; ++i, hash = mixed(hash, 1))
      id += "0123456789abcdefghijklmnopqrstuvwxyz"[(hash >> 32) % 36];
    return id;
  }

  void show(const std::string& text) {
    if (text.empty()) return;
    result_.text += text;
    if (on_text_) on_text_(text);
  }

  void take(const std::vector<OutputEvent>& events) {
    for (const OutputEvent& event : events) {
      if (matcher_.stopped()) return;
      if (event.kind == OutputEvent::Kind::kText) {
        show(matcher_.push(event.text));
        if (!event.note.empty()) result_.notes.push_back(event.note);
        continue;
      }
      show(matcher_.finish());  // no stop string goes on behind a thought or a call
      if (event.kind == OutputEvent::Kind::kThinking) {
        result_.thinking += event.text;
        if (options_.on_thinking) options_.on_thinking(event.text);
      } else if (!event.complete) {
        result_.cut_call = event.text;
      } else {
        result_.tool_calls.push_back({call_id(), event.name, event.arguments});
        if (options_.on_tool_call) options_.on_tool_call(result_.tool_calls.back());
      }
    }
  }

  const GenerateOptions& options_;
  const std::function<void(const std::string&)>& on_text_;
  GenerateResult& result_;
  StopMatcher matcher_;
  std::optional<OutputDecoder> decoder_;
  uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace

std::set<int32_t> stop_tokens(const Model& model) {
  std::set<int32_t> ids;
  const ModelSource& source = model.source();
  add_ids(source.generation_config, "eos_token_id", ids);
  if (ids.empty()) add_ids(source.config, "eos_token_id", ids);
  if (ids.empty() && source.config.is_object() && source.config.contains("text_config"))
    add_ids(source.config["text_config"], "eos_token_id", ids);
  const std::string eos = special_token(source.tokenizer_config, "eos_token");
  if (const int32_t id = eos.empty() || !model.has_tokenizer() ? -1 : model.tokenizer().token_to_id(eos);
      id >= 0)
    ids.insert(id);
  for (const std::string& end : chat_format(model).ends)
    if (const int32_t id = model.tokenizer().token_to_id(end); id >= 0) ids.insert(id);
  return ids;
}

std::string StopMatcher::push(const std::string& piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t first = std::string::npos, hold = 0;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    first = std::min(first, held_.find(stop));
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > hold; --n)
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) hold = n;
  }
  std::string out;
  if (first != std::string::npos) {
    stopped_ = true;
    out = held_.substr(0, first);
    held_.clear();
  } else {
    out = held_.substr(0, held_.size() - hold);
    held_.erase(0, out.size());
  }
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const std::function<void(const std::string&)>& on_text) {
  return generate(session, Prompt{{prompt.begin(), prompt.end()}, {}}, options, on_text);
}

GenerateResult generate(Session& session, const Prompt& prompt, const GenerateOptions& options,
                        const std::function<void(const std::string&)>& on_text) {
  validate(options.sampling);
  if (prompt.ids.empty())
    throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: there is no token to continue");
  const uint64_t room = session.context() > prompt.ids.size() ? session.context() - prompt.ids.size() : 0;
  if (room == 0 || (options.max_tokens > 0 && static_cast<uint64_t>(options.max_tokens) > room))
    throw Error(
        ErrorCode::kContextFull,
        "the prompt has " + std::to_string(prompt.ids.size()) + " tokens" +
            (options.max_tokens > 0 ? " and " + std::to_string(options.max_tokens) + " more are asked for"
                                    : "") +
            ", the context holds " + std::to_string(session.context()) +
            "; use a larger context (--ctx), a shorter prompt or fewer tokens (-n)");
  const uint64_t limit = options.max_tokens >= 0 ? static_cast<uint64_t>(options.max_tokens) : room;

  GenerateResult result;
  auto start = std::chrono::steady_clock::now();
  result.timing.prefill_tokens = prompt.ids.size() - session.set(prompt, options.prefill);
  result.timing.prefill_s = seconds_since(start);

  Sampler sampler(options.sampling);
  sampler.see_prompt(prompt.ids);
  Answer answer(session.model(), prompt.ids, options, on_text, result);
  const std::vector<int32_t> closing =
      options.thinking_budget < 0 ? std::vector<int32_t>{} : answer.closing_ids();
  size_t forced = closing.size();  // the next of them to be fed instead of a sampled token
  const auto check_budget = [&] {
    if (!answer.thinking() || forced < closing.size() || closing.empty() ||
        result.thinking_tokens < static_cast<uint64_t>(options.thinking_budget))
      return;
    forced = 0;
    result.thinking_cut = true;
  };
  check_budget();

  start = std::chrono::steady_clock::now();
  result.finish_reason = "length";
  while (result.ids.size() < limit) {
    if (options.cancelled && *options.cancelled) {
      result.finish_reason = "cancelled";
      break;
    }
    const auto logits = session.logits();
    const bool force = forced < closing.size();
    const int32_t id = force ? closing[forced++] : sampler.sample(logits);
    if (force) sampler.see_generated(id);
    result.ids.push_back(id);
    if (options.logprobs >= 0) result.logprobs.push_back(token_logprobs(logits, id, options.logprobs));
    if (!force && options.stop_ids.contains(id)) {
      result.finish_reason = "stop";
      break;
    }
    const bool thinking = answer.thinking();
    answer.push(id);
    if (answer.stopped()) {
      result.finish_reason = "stop";
      break;
    }
    if (thinking && answer.thinking() && !force) ++result.thinking_tokens;
    check_budget();
    if (result.ids.size() < limit) session.feed({&id, 1});
  }
  const bool ended = result.finish_reason == "stop" && !answer.stopped();
  answer.finish();
  if (answer.stopped())
    result.finish_reason = "stop";
  else if (ended && !result.tool_calls.empty())
    result.finish_reason = "tool_calls";
  result.timing.decode_s = seconds_since(start);
  result.timing.decode_tokens = result.ids.size();
  return result;
}

}  // namespace hlwq
