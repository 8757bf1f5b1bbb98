// Options and conversions that several commands share.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "args.h"
#include "engine/chat.h"
#include "engine/engine.h"
#include "engine/images.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "kv_args.h"
#include "quant/policy.h"

namespace hlwq::cli {

/// --threads, --isa, --device and --gpu-layers, with HLWQ_THREADS, HLWQ_ISA and HLWQ_DEVICE as defaults.
struct EngineArgs {
  int64_t threads = 0;
  std::string isa, device;
  std::optional<int64_t> gpu_layers;
  void declare(Args& args);
  /// Throws UsageError for an isa that is unknown or does not run here, and for no name of a device. Notes of
  /// the engine go to stderr.
  Engine make() const;
  int thread_count() const;  ///< 0: all processors
};

/// --ctx and the options of the key/value cache.
struct ContextArgs {
  int64_t context = 0;
  KvArgs kv;
  void declare(Args& args);
  SessionOptions options() const;
};

/// Sampling flags over the model's own defaults.
struct SamplingArgs {
  std::optional<float> temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, seed;
  std::vector<std::string> logit_bias, stop;
  bool greedy = false, ignore_eos = false;
  void declare(Args& args);
  /// Without --seed the seed is random. Throws UsageError for values out of range.
  SamplingParams params(const Model& model) const;
};

/// Template variables: --var KEY=VALUE (VALUE is JSON, or else text), --thinking and --tools.
struct TemplateArgs {
  std::vector<std::string> variables;
  std::string tools_file, thinking;
  void declare(Args& args);
  ChatOptions options() const;
};

/// --image-tokens.
struct ImageArgs {
  std::string tokens;
  void declare(Args& args);
  /// Throws UsageError for a budget that there is not.
  ImageOptions options() const;
};

/// Runs `check`, turning Error(kInvalidArgument) into UsageError: for what the user typed.
template <typename Check>
auto usage(Check&& check) {
  try {
    return check();
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kInvalidArgument) throw UsageError(e.what());
    throw;
  }
}

/// The policy that --policy names: default, published, q2..q8, or a file of rules that ends in .json.
/// Throws UsageError for unknown names, Error(kInvalidFile | kIo) for the file.
QuantPolicy read_policy(const std::string& name);
/// "1,2,3" (spaces allowed too) as token ids. Throws UsageError.
std::vector<int32_t> parse_ids(const std::string& text);
/// "19.9GB", "800MB", "15GiB" or a plain number as bytes; `option` names it in the UsageError.
uint64_t parse_bytes(const std::string& text, const std::string& option);
/// A whole file; "-" is stdin.
std::string read_text(const std::string& path);
/// Messages of a conversation from a JSON file: a list of objects that have a role each.
OrderedJson read_messages(const std::string& path);
/// Prints JSON to stdout, with a newline. Bytes that are not UTF-8 become U+FFFD.
void print_json(const OrderedJson& json);
/// JSON text of one value on one line.
std::string json_line(const OrderedJson& json);

}  // namespace hlwq::cli
