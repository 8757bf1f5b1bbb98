#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "engine/plan.h"

namespace hlwq {
namespace {

double timed(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

double read_bandwidth(Engine& engine, int repeats) {
  const size_t words = (512u << 20) / sizeof(uint64_t);  // 512 MiB: far beyond any last-level cache per core
  std::vector<uint64_t> buffer(words, 1);
  std::vector<double> seconds;
  uint64_t guard = 0;  // keeps the sums alive
  for (int i = 0; i < repeats; ++i)
    seconds.push_back(timed([&] {
      std::vector<uint64_t> sums(static_cast<size_t>(engine.threads()) * 8);
      engine.compute().pool->parallel_for(words, 1u << 18, [&](size_t begin, size_t end, int thread) {
        uint64_t s[8] = {};
        for (size_t j = begin; j + 8 <= end; j += 8)
          for (size_t l = 0; l < 8; ++l) s[l] += buffer[j + l];
        for (size_t l = 0; l < 8; ++l) sums[static_cast<size_t>(thread) * 8 + l] += s[l];
      });
      for (uint64_t s : sums) guard += s;
    }));
  buffer[0] = guard;
  return static_cast<double>(words * sizeof(uint64_t)) / median(seconds) / 1e9;
}

SpeedResult measure_speed(std::shared_ptr<const Model> model, Engine& engine, const SpeedOptions& options,
                          const Progress& progress) {
  SpeedResult result;
  const uint64_t context = std::max(options.prompt, options.depth + 1 + options.decode);
  if (context > model->spec().max_context)
    throw Error(ErrorCode::kInvalidArgument, "the speed test needs a context of " + std::to_string(context) +
                                                 " tokens, the model has " +
                                                 std::to_string(model->spec().max_context));
  if (options.prompt == 0 || options.decode == 0 || options.repeats < 1)
    throw Error(ErrorCode::kInvalidArgument, "the speed test needs at least one token and one repeat");
  Session session(model, engine, {.context = context, .kv = options.kv});
  std::vector<int32_t> ids(context);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % model->spec().vocab);

  std::vector<double> prefill, decode;
  for (int i = 0; i <= options.repeats;
       ++i) {  // the first round warms caches and pages up and is not counted
    progress.step(static_cast<uint64_t>(i), static_cast<uint64_t>(options.repeats) + 1, "timing");
    session.truncate(0);
    const double p = timed([&] { session.feed({ids.data(), options.prompt}); });
    session.truncate(0);
    session.feed({ids.data(), options.depth + 1});
    const double d = timed([&] {
      for (uint64_t t = 0; t < options.decode; ++t) {
        const auto logits = session.logits();
        const auto next =
            static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        session.feed({&next, 1});
      }
    });
    if (i == 0) continue;
    prefill.push_back(p);
    decode.push_back(d);
  }
  result.prefill_tok_s = static_cast<double>(options.prompt) / median(prefill);
  result.decode_tok_s = static_cast<double>(options.decode) / median(decode);
  // An untied embedding is read one row a token, a tied one as a whole by the head.
  uint64_t bytes = model_facts(*model).weight_bytes;
  if (!model->spec().tied)
    for (const auto& use : model->weights().used())
      if (use.name.ends_with("embed_tokens.weight")) bytes -= use.bytes;
  result.decode_gb_s = result.decode_tok_s * static_cast<double>(bytes) / 1e9;
  result.read_gb_s = read_bandwidth(engine, options.repeats);
  return result;
}

std::vector<DepthSpeed> measure_depths(std::shared_ptr<const Model> model, Engine& engine,
                                       const std::vector<uint64_t>& depths, uint64_t decode,
                                       const KvSettings& kv, const Progress& progress) {
  if (depths.empty() || decode == 0)
    throw Error(ErrorCode::kInvalidArgument, "speeds by depth need a depth and a token to decode");
  for (size_t i = 1; i < depths.size(); ++i)
    if (depths[i] < depths[i - 1] + decode + 1)
      throw Error(ErrorCode::kInvalidArgument, "depths must ascend, by more than the " +
                                                   std::to_string(decode) +
                                                   " tokens that are decoded at each");
  const uint64_t context = depths.back() + 1 + decode;
  if (context > model->spec().max_context)
    throw Error(ErrorCode::kInvalidArgument, "a depth of " + std::to_string(depths.back()) +
                                                 " needs a context of " + std::to_string(context) +
                                                 " tokens, the model has " +
                                                 std::to_string(model->spec().max_context));
  std::vector<int32_t> ids(context);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>((i * 7919 + 13) % model->spec().vocab);
  Session session(model, engine, {.context = context, .kv = kv});
  // Caches and pages are warmed up by a first round that is not counted.
  session.feed({ids.data(), std::min<uint64_t>(context, 64)});
  session.truncate(0);

  std::vector<DepthSpeed> result;
  uint64_t at = 0;
  for (const uint64_t depth : depths) {
    progress.step(result.size(), depths.size(), "depth " + std::to_string(depth));
    DepthSpeed speed{depth, 0, 0};
    if (depth > at) {
      const uint64_t n = depth - at;
      speed.prefill_tok_s = static_cast<double>(n) / timed([&] { session.feed({ids.data() + at, n}); });
    }
    session.feed({ids.data() + depth, 1});
    std::vector<double> seconds;
    for (uint64_t t = 0; t < decode; ++t) {
      progress.step(result.size(), depths.size(), "depth " + std::to_string(depth));
      seconds.push_back(timed([&] {
        const auto logits = session.logits();
        const auto next =
            static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        session.feed({&next, 1});
      }));
    }
    speed.decode_tok_s = 1 / median(seconds);
    result.push_back(speed);
    at = depth + 1 + decode;
  }
  return result;
}

}  // namespace hlwq
