#include "engine/generate.h"

#include <algorithm>
#include <chrono>

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
  validate(options.sampling);
  if (prompt.empty())
    throw Error(ErrorCode::kInvalidArgument, "the prompt is empty: there is no token to continue");
  const uint64_t room = session.context() > prompt.size() ? session.context() - prompt.size() : 0;
  if (room == 0 || (options.max_tokens > 0 && static_cast<uint64_t>(options.max_tokens) > room))
    throw Error(
        ErrorCode::kContextFull,
        "the prompt has " + std::to_string(prompt.size()) + " tokens" +
            (options.max_tokens > 0 ? " and " + std::to_string(options.max_tokens) + " more are asked for"
                                    : "") +
            ", the context holds " + std::to_string(session.context()) +
            "; use a larger context (--ctx), a shorter prompt or fewer tokens (-n)");
  const uint64_t limit = options.max_tokens >= 0 ? static_cast<uint64_t>(options.max_tokens) : room;

  GenerateResult result;
  auto start = std::chrono::steady_clock::now();
  result.timing.prefill_tokens = prompt.size() - session.set(prompt, options.prefill);
  result.timing.prefill_s = seconds_since(start);

  Sampler sampler(options.sampling);
  sampler.see_prompt(prompt);
  const auto stream =
      session.model().has_tokenizer() ? session.model().tokenizer().stream(options.skip_special) : nullptr;
  StopMatcher matcher(options.stop);
  const auto show = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (on_text) on_text(text);
  };

  start = std::chrono::steady_clock::now();
  result.finish_reason = "length";
  while (result.ids.size() < limit) {
    if (options.cancelled && *options.cancelled) {
      result.finish_reason = "cancelled";
      break;
    }
    const auto logits = session.logits();
    const int32_t id = sampler.sample(logits);
    result.ids.push_back(id);
    if (options.logprobs >= 0) result.logprobs.push_back(token_logprobs(logits, id, options.logprobs));
    if (options.stop_ids.contains(id)) {
      result.finish_reason = "stop";
      break;
    }
    if (stream) show(matcher.push(stream->push(id)));
    if (matcher.stopped()) {
      result.finish_reason = "stop";
      break;
    }
    if (result.ids.size() < limit) session.feed({&id, 1});
  }
  if (stream && !matcher.stopped()) {
    show(matcher.push(stream->finish()));
    if (!matcher.stopped())
      show(matcher.finish());
    else
      result.finish_reason = "stop";
  }
  result.timing.decode_s = seconds_since(start);
  result.timing.decode_tokens = result.ids.size();
  return result;
}

}  // namespace hlwq
