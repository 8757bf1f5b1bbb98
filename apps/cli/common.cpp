#include "common.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "base/file.h"
#include "base/json.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

template <typename T>
bool parse_number(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// "KEY=VALUE" cut at the first '='.
std::pair<std::string, std::string> split_assignment(const std::string& option, const std::string& text) {
  const size_t eq = text.find('=');
  if (eq == std::string::npos || eq == 0) throw UsageError(option + " wants KEY=VALUE, got '" + text + "'");
  return {text.substr(0, eq), text.substr(eq + 1)};
}

}  // namespace

void EngineArgs::declare(Args& args) {
  args.group("Machine");
  args.number("-t,--threads", threads, 0, "N", "Threads; 0 is every processor (HLWQ_THREADS)");
  args.choice("--isa", isa, {"scalar", "avx2", "avx512"}, "Force these kernels (HLWQ_ISA)");
  args.option("--device", device, "DEVICE",
              "cpu, cuda or cuda:N; default: a GPU where there is one (HLWQ_DEVICE)");
  args.option("--gpu-layers", gpu_layers, "N", "Run the last N layers on the GPU; default: as many as fit");
}

int EngineArgs::thread_count() const {
  if (threads > 0) return static_cast<int>(std::min<int64_t>(threads, 4096));
  const char* text = std::getenv("HLWQ_THREADS");
  int value = 0;
  if (text && *text && (!parse_number(std::string(text), value) || value < 0 || value > 4096))
    throw UsageError("HLWQ_THREADS is '" + std::string(text) + "', not a number of threads");
  return value;
}

Engine EngineArgs::make() const {
  EngineOptions options;
  options.threads = thread_count();
  options.isa = isa;
  if (const char* text = std::getenv("HLWQ_ISA"); options.isa.empty() && text) options.isa = text;
  options.device = device;
  if (const char* text = std::getenv("HLWQ_DEVICE"); options.device.empty() && text) options.device = text;
  if (gpu_layers && *gpu_layers < 0) throw UsageError("--gpu-layers must not be negative");
  options.gpu_layers = gpu_layers.value_or(-1);
  options.note = [](const std::string& text) { show("note: " + text); };
  return usage([&] { return Engine(options); });
}

void ContextArgs::declare(Args& args) {
  args.group("Machine");
  args.number("-c,--ctx", context, 1, "N",
              "Context in tokens (default: the model's own, as far as memory allows)");
  kv.declare(args);
}

SessionOptions ContextArgs::options() const {
  SessionOptions options;
  options.context = static_cast<uint64_t>(context);
  options.kv = kv.settings();
  return options;
}

void SamplingArgs::declare(Args& args) {
  args.group("Sampling (defaults: the model's generation_config.json)");
  args.option("--temp", temperature, "T", "Temperature; 0 is greedy");
  args.option("--top-k", top_k, "K", "Keep the K likeliest tokens; 0: all");
  args.option("--top-p", top_p, "P", "Keep the smallest set of tokens with probability P");
  args.option("--min-p", min_p, "P", "Keep tokens with at least P times the top probability");
  args.option("--repeat-penalty", repeat_penalty, "X", "Divides the logits of tokens seen; 1: off");
  args.option("--presence-penalty", presence_penalty, "X", "Subtracted once from each token generated");
  args.option("--frequency-penalty", frequency_penalty, "X",
              "Subtracted for each time a token was generated");
  args.option("--logit-bias", logit_bias, "ID=BIAS", "Added to a token's logit; may be repeated");
  args.option("--seed", seed, "N", "Same seed, same threads: same text (default: random)");
  args.option("--stop", stop, "TEXT", "Stop before this text; may be repeated");
  args.flag("--greedy", greedy, "Always the likeliest token");
  args.flag("--ignore-eos", ignore_eos, "Go on after end-of-text tokens");
}

SamplingParams SamplingArgs::params(const Model& model) const {
  SamplingParams p = sampling_defaults(model.source().generation_config);
  if (temperature) p.temperature = *temperature;
  if (greedy) p.temperature = 0;
  if (top_k) {
    if (*top_k < 0 || *top_k > INT32_MAX) throw UsageError("--top-k is out of range");
    p.top_k = static_cast<int>(*top_k);
  }
  if (top_p) p.top_p = *top_p;
  if (min_p) p.min_p = *min_p;
  if (repeat_penalty) p.repetition_penalty = *repeat_penalty;
  if (presence_penalty) p.presence_penalty = *presence_penalty;
  if (frequency_penalty) p.frequency_penalty = *frequency_penalty;
  for (const std::string& text : logit_bias) {
    const auto [id_text, bias_text] = split_assignment("--logit-bias", text);
    int32_t id = 0;
    float bias = 0;
    if (!parse_number(id_text, id) || !parse_number(bias_text, bias) || id < 0 ||
        static_cast<uint64_t>(id) >= model.spec().vocab)
      throw UsageError("--logit-bias wants TOKEN_ID=NUMBER with a token of this model, got '" + text + "'");
    p.logit_bias[id] = bias;
  }
  if (seed && *seed < 0) throw UsageError("--seed must not be negative");
  p.seed = seed ? static_cast<uint64_t>(*seed) : std::random_device()();
  usage([&] { validate(p); });
  return p;
}

void TemplateArgs::declare(Args& args) {
  args.group("Chat template");
  args.option("--tools", tools_file, "FILE", "JSON list of tools for the template");
  args.choice("--thinking", thinking, {"on", "off"},
              "Let the model think before it answers (default: the template's own)");
  args.option("--var", variables, "KEY=VALUE",
              "A template variable, e.g. enable_thinking=true; may be repeated");
}

ChatOptions TemplateArgs::options() const {
  ChatOptions options;
  if (!tools_file.empty()) options.tools = read_ordered_json(tools_file);
  if (!thinking.empty()) {
    options.extra["enable_thinking"] = thinking == "on";
    // Some templates write the empty thought, which keeps a model from thinking, only when asked.
    options.extra["empty_thought"] = thinking == "off";
  }
  for (const std::string& text : variables) {
    const auto [key, value] = split_assignment("--var", text);
    OrderedJson parsed = OrderedJson::parse(value, nullptr, false);
    options.extra[key] = parsed.is_discarded() ? OrderedJson(value) : parsed;
  }
  return options;
}

QuantPolicy read_policy(const std::string& name) {
  return name.ends_with(".json") ? QuantPolicy::from_json(read_file(name), name)
                                 : usage([&] { return QuantPolicy::named(name); });
}

void ImageArgs::declare(Args& args) {
  args.option("--image-tokens", tokens, "N|auto",
              "Tokens an image gets at most: 70, 140, 280, 560, 1120, or by its size and detail "
              "(default: the model's own)");
}

ImageOptions ImageArgs::options() const {
  ImageOptions o;
  if (tokens.empty()) return o;
  if (tokens == "auto") {
    o.budget = ImageOptions::Budget::kAuto;
    return o;
  }
  o.budget = ImageOptions::Budget::kFixed;
  for (uint64_t budget : kImageBudgets)
    if (tokens == std::to_string(budget)) o.tokens = budget;
  if (!o.tokens)
    throw UsageError("--image-tokens wants 70, 140, 280, 560, 1120 or auto, not '" + tokens + "'");
  return o;
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    size_t end = text.find_first_of(", \n\t", i);
    if (end == std::string::npos) end = text.size();
    const std::string word = text.substr(i, end - i);
    int32_t id = 0;
    if (!word.empty()) {
      if (!parse_number(word, id) || id < 0) throw UsageError("'" + word + "' is not a token id");
      ids.push_back(id);
    }
    i = end + 1;
  }
  if (ids.empty()) throw UsageError("no token ids given");
  return ids;
}

uint64_t parse_bytes(const std::string& text, const std::string& option) {
  static const std::map<std::string, double> kUnits = {
      {"", 1},     {"B", 1},        {"KB", 1e3},        {"MB", 1e6},
      {"GB", 1e9}, {"KIB", 1024.0}, {"MIB", 1048576.0}, {"GIB", 1073741824.0}};
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit(end);
  unit.erase(std::remove(unit.begin(), unit.end(), ' '), unit.end());
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  const auto it = kUnits.find(unit);
  if (end == text.c_str() || it == kUnits.end() || !(number > 0 && number * it->second < 1e15))
    throw UsageError(option + " wants a number and a unit, such as 19.9GB, 800MB or 15GiB; got " + text);
  return static_cast<uint64_t>(number * it->second);
}

std::string read_text(const std::string& path) {
  if (path != "-") return read_file(path);
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n == 0) return text;
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n < 0 && errno == EINTR) throw Error(ErrorCode::kCancelled, "interrupted");
    if (n < 0)
      throw Error(ErrorCode::kIo, std::string("cannot read standard input: ") + std::strerror(errno));
    text.append(buffer, static_cast<size_t>(n));
  }
}

OrderedJson read_messages(const std::string& path) {
  OrderedJson messages =
      path == "-" ? parse_ordered_json(read_text("-"), "standard input") : read_ordered_json(path);
  bool good = messages.is_array();
  if (good)
    for (const auto& m : messages)
      good = good && m.is_object() && m.contains("role") && m["role"].is_string();
  if (!good)
    throw Error(ErrorCode::kInvalidFile,
                path + ": not a list of messages, [{\"role\": ..., \"content\": ...}, ...]");
  return messages;
}

std::string json_line(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

void print_json(const OrderedJson& json) {
  const std::string text = json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace hlwq::cli
