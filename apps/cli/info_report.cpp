#include "info_report.h"

#include <algorithm>
#include <cmath>

#include "base/cpu.h"
#include "engine/session.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

OrderedJson memory_json(const std::vector<MemoryPlan>& plans) {
  OrderedJson list = OrderedJson::array();
  for (const MemoryPlan& p : plans)
    list.push_back({{"ctx", p.context},
                    {"kv_bits", p.kv_bits},
                    {"weights", p.weights},
                    {"kv", p.kv},
                    {"vision", p.vision},
                    {"scratch", p.scratch},
                    {"total", p.total}});
  return list;
}

OrderedJson caches_json(const std::vector<InfoReport::Cache>& caches) {
  OrderedJson list = OrderedJson::array();
  for (const InfoReport::Cache& c : caches) {
    OrderedJson memory = OrderedJson::array();
    for (const MemoryPlan& p : c.memory)
      memory.push_back({{"ctx", p.context}, {"kv", p.kv}, {"total", p.total}});
    list.push_back({{"kv", c.kv.label},
                    {"settings", describe(c.kv.settings)},
                    {"full_per_token", c.parts.full_per_token},
                    {"sliding", c.parts.sliding},
                    {"values_only_layers", c.values_only},
                    {"memory", std::move(memory)}});
  }
  return list;
}

OrderedJson sizes_json(const std::vector<WeightSizes>& sizes) {
  OrderedJson list = OrderedJson::array();
  for (const WeightSizes& s : sizes)
    list.push_back({{"policy", s.policy},
                    {"bytes", s.checkpoint()},
                    {"text", s.text},
                    {"vision", s.vision},
                    {"audio", s.audio},
                    {"bits_per_weight", s.bits_per_weight}});
  return list;
}

OrderedJson rates_json(const std::vector<InfoReport::Rate>& rates) {
  OrderedJson list = OrderedJson::array();
  for (const InfoReport::Rate& r : rates)
    for (size_t g = 0; g < gpu_cards().size(); ++g)
      list.push_back({{"name", gpu_cards()[g].name},
                      {"ctx", r.context},
                      {"kv", r.kv},
                      {"bits_per_weight", r.cards[g].bits_per_weight},
                      {"size", r.cards[g].checkpoint}});
  return list;
}

OrderedJson gpus_json(const std::vector<InfoReport::Fit>& fits) {
  OrderedJson list = OrderedJson::array();
  for (size_t g = 0; g < gpu_cards().size(); ++g)
    for (const InfoReport::Fit& f : fits)
      list.push_back({{"name", gpu_cards()[g].name},
                      {"example", gpu_cards()[g].example},
                      {"bytes", gpu_cards()[g].bytes},
                      {"policy", f.policy},
                      {"kv", f.kv.label},
                      {"max_context", f.contexts[g]}});
  return list;
}

std::string layers_text(const ModelSpec& s) {
  const auto is_sliding = [](const LayerSpec& l) { return l.window > 0; };
  const auto sliding = std::count_if(s.layers.begin(), s.layers.end(), is_sliding);
  std::string text = std::to_string(s.layers.size());
  if (sliding > 0)
    text += " (" + std::to_string(sliding) + " with a window of " +
            format_count(std::find_if(s.layers.begin(), s.layers.end(), is_sliding)->window) + ")";
  return text;
}

std::string policy_label(const InfoReport& r, const std::string& policy) {
  if (policy == "stored") {
    const auto stored =
        std::find_if(r.sizes.begin(), r.sizes.end(), [](const auto& s) { return s.policy == "stored"; });
    const auto& groups = stored == r.sizes.end() ? r.facts.groups : stored->groups;
    return groups.size() == 1 ? groups[0].format : "as stored";
  }
  std::string label = policy;
  if (label.size() >= 2 && label[0] == 'q' && (label.size() == 2 || label[2] == '-')) {
    label[0] = 'Q';
    std::replace(label.begin(), label.end(), '-', ' ');  // as format_label has it
  }
  return label;
}

std::string format_context(uint64_t context, uint64_t most) {
  if (context == 0) return "-";
  if (context >= most) return "all";
  return context < 1024 ? std::to_string(context) : std::to_string(context / 1024) + "K";
}

std::string facts_text(const InfoReport& r) {
  const ModelFacts& f = r.facts;
  std::string out;
  const auto fact = [&](const std::string& key, const std::string& value) {
    out += key + std::string(key.size() < 16 ? 16 - key.size() : 1, ' ') + value + "\n";
  };
  fact("model", r.path + (r.has_weights ? "" : " (no weights here: planned from its config)"));
  fact("architecture", f.architecture + " (" + f.family + ")");
  fact("parameters",
       format_params(f.params) +
           (f.params > f.text_params ? ", " + format_params(f.text_params) + " of them text" : ""));
  fact("layers", layers_text(r.spec));
  fact("hidden", format_count(r.spec.hidden) + ", " + std::to_string(r.spec.heads) + " heads");
  fact("vocabulary", format_count(r.spec.vocab));
  fact("context", format_count(r.spec.max_context) + " tokens");
  fact("weights", format_bytes(f.weight_bytes) + ", " + fixed(f.bits_per_weight, 3) + " bits per weight" +
                      (r.policy == "stored" ? "" : " (policy " + r.policy + ")"));
  if (f.vision_bytes) fact("vision", format_bytes(f.vision_bytes));
  for (const InfoReport::Cache& c : r.caches) {
    std::string text = format_bytes(c.parts.full_per_token) + " a token";
    if (c.parts.sliding) text += ", " + format_bytes(c.parts.sliding) + " for windows";
    text += " (" + describe(c.kv.settings) + ")";
    if (c.values_only) text += "; " + std::to_string(c.values_only) + " layers values only";
    fact(&c == &r.caches[0] ? "KV cache" : "", text);
  }
  fact("tokenizer", r.tokenizer);
  fact("chat template", r.has_template ? "yes" : "no");
  fact("backend", r.backend + ", " + std::to_string(r.threads) + " threads, " +
                      format_bytes(physical_memory()) + " of memory");
  for (const std::string& note : r.notes) fact("note", note);
  return out;
}

std::string formats_text(const InfoReport& r) {
  Table table({"stored as", "matrices", "weights", "size", "bits/weight"});
  for (const ModelFacts::Group& g : r.facts.groups)
    table.add(
        {g.format, format_count(g.tensors), format_params(g.params), format_bytes(g.bytes),
         fixed(8.0 * static_cast<double>(g.bytes) / static_cast<double>(std::max<uint64_t>(1, g.params)),
               3)});
  return table.str();
}

std::string sizes_text(const InfoReport& r) {
  const bool audio = std::any_of(r.sizes.begin(), r.sizes.end(), [](const auto& s) { return s.audio > 0; });
  std::vector<std::string> header = {"weights", "bits/weight", "text", "vision"};
  if (audio) header.push_back("audio");
  header.push_back("checkpoint");
  Table table(header);
  for (const WeightSizes& s : r.sizes) {
    std::vector<std::string> row = {policy_label(r, s.policy), fixed(s.bits_per_weight, 3),
                                    format_bytes(s.text), format_bytes(s.vision)};
    if (audio) row.push_back(format_bytes(s.audio));
    row.push_back(format_bytes(s.checkpoint()));
    table.add(row);
  }
  const bool usual =
      std::any_of(r.sizes.begin(), r.sizes.end(), [](const auto& s) { return s.policy == "default-l2"; });
  return table.str() + (usual
                            ? "default: 5 bits, the embedding and lm_head 6; l2: coupled codebooks with two "
                              "lags, less error in the same bytes\n"
                            : "");
}

std::string memory_text(const InfoReport& r) {
  std::vector<std::string> header = {"context", "weights", "vision", "scratch"};
  for (const InfoReport::Cache& c : r.caches) header.insert(header.end(), {"KV " + c.kv.label, "total"});
  Table table(header);
  for (size_t i = 0; i < r.caches[0].memory.size(); ++i) {
    const MemoryPlan& p = r.caches[0].memory[i];
    std::vector<std::string> row = {format_count(p.context), format_bytes(p.weights), format_bytes(p.vision),
                                    format_bytes(p.scratch)};
    for (const InfoReport::Cache& c : r.caches)
      row.insert(row.end(), {format_bytes(c.memory[i].kv), format_bytes(c.memory[i].total)});
    table.add(row);
  }
  const std::string label = policy_label(r, r.policy);
  return "Memory with " + (label == "as stored" ? "weights " + label : label + " weights") + ":\n\n" +
         table.str();
}

std::string cards_text(const InfoReport& r) {
  const std::string image = r.image_scratch ? ", the image encoder and its work on one image (" +
                                                  format_bytes(r.image_scratch) + ")"
                                            : "";
  const std::string counted = "Counted: weights, cache, scratch" + image + "; " + format_bytes(kGpuReserve) +
                              " are left to the driver.\n";
  const auto whole = [&](const InfoReport::Fit& f) {
    return std::all_of(f.contexts.begin(), f.contexts.end(),
                       [&](uint64_t c) { return c == r.spec.max_context; });
  };
  if (std::all_of(r.fits.begin(), r.fits.end(), whole))
    return "Fits cards of " + std::string(gpu_cards()[0].name) +
           " and more with its whole context, whatever " + "the weights and the cache above.\n" + counted;

  std::vector<std::string> header = {"weights", "size", "KV"};
  for (const GpuCard& g : gpu_cards()) header.emplace_back(g.name.substr(0, g.name.find(' ')));
  Table table(header);
  const size_t caches = r.caches.size();
  for (size_t i = 0; i < r.fits.size(); i += caches) {  // the caches of one policy follow each other
    const bool same = std::all_of(r.fits.begin() + static_cast<ptrdiff_t>(i),
                                  r.fits.begin() + static_cast<ptrdiff_t>(i + caches),
                                  [&](const auto& f) { return f.contexts == r.fits[i].contexts; });
    for (size_t j = i; j < i + (same ? 1 : caches); ++j) {
      const InfoReport::Fit& f = r.fits[j];
      const bool first = j == i;
      std::vector<std::string> row = {first ? policy_label(r, f.policy) : "",
                                      first ? format_bytes(f.weights) : "",
                                      same && caches > 1 ? "any" : f.kv.label};
      for (uint64_t context : f.contexts) row.push_back(format_context(context, r.spec.max_context));
      table.add(row);
    }
  }
  return "The longest context on a card of so many GB (K: 1,024 tokens; all: the model's " +
         format_count(r.spec.max_context) + "; -: too small).\n" + counted + "\n" + table.str();
}

/// What quantize can do: 2 to 8 bits and a norm for 128 weights.
constexpr double kLeastRate = 2.125, kMostRate = 8.125;

std::string format_rate(double bits) {
  if (bits < kLeastRate) return "-";
  if (bits >= kMostRate) return "any";
  return fixed(std::floor(bits * 100) / 100, 2);  // rounding up would not fit
}

std::string rates_text(const InfoReport& r) {
  const auto any = [](const InfoReport::Rate& rate) {
    return std::all_of(rate.cards.begin(), rate.cards.end(),
                       [](const FittingRate& f) { return f.bits_per_weight >= kMostRate; });
  };
  if (std::all_of(r.rates.begin(), r.rates.end(), any)) return {};
  std::vector<std::string> header = {"context", "KV"};
  for (const GpuCard& g : gpu_cards()) header.emplace_back(g.name.substr(0, g.name.find(' ')));
  Table table(header);
  uint64_t previous = 0;
  for (const InfoReport::Rate& rate : r.rates) {
    std::vector<std::string> row = {rate.context == previous ? "" : format_count(rate.context), rate.kv};
    previous = rate.context;
    for (const FittingRate& f : rate.cards) row.push_back(format_rate(f.bits_per_weight));
    table.add(row);
  }
  return "The most bits per weight that fit such a card, for `hlwq quantize --bpw` (any: 8 bits fit; -: 2 do "
         "not).\n"
         "As --size: N bits per weight make " +
         format_bytes(r.other_bytes) + " + N x " + format_bytes(r.coded_params / 8) + ".\n\n" + table.str();
}

}  // namespace

OrderedJson to_json(const InfoReport& r) {
  const ModelFacts& f = r.facts;
  const InfoReport::Cache& kv = r.caches[0];
  OrderedJson formats = OrderedJson::array();
  for (const ModelFacts::Group& g : f.groups)
    formats.push_back(
        {{"format", g.format}, {"tensors", g.tensors}, {"params", g.params}, {"bytes", g.bytes}});
  return {{"architecture", f.architecture},
          {"family", f.family},
          {"has_weights", r.has_weights},
          {"policy", r.policy},
          {"params", f.params},
          {"text_params", f.text_params},
          {"weight_bytes", f.weight_bytes},
          {"vision_bytes", f.vision_bytes},
          {"bits_per_weight", f.bits_per_weight},
          {"kv", describe(kv.kv.settings)},
          {"kv_bytes_per_token", f.kv_bytes_per_token},
          {"kv_full_per_token", kv.parts.full_per_token},
          {"kv_sliding", kv.parts.sliding},
          {"memory", memory_json(kv.memory)},
          {"caches", caches_json(r.caches)},
          {"policies", sizes_json(r.sizes)},
          {"gpus", gpus_json(r.fits)},
          {"rates", rates_json(r.rates)},
          {"gpu_reserve", kGpuReserve},
          {"image_scratch", r.image_scratch},
          {"formats", std::move(formats)},
          {"notes", r.notes},
          {"layers", r.spec.layers.size()},
          {"hidden", r.spec.hidden},
          {"heads", r.spec.heads},
          {"vocab", r.spec.vocab},
          {"max_context", r.spec.max_context},
          {"tokenizer", r.has_tokenizer},
          {"chat_template", r.has_template},
          {"backend", r.backend},
          {"threads", r.threads},
          {"physical_memory", physical_memory()}};
}

std::string to_text(const InfoReport& r) {
  std::string out = facts_text(r) + "\n" + formats_text(r) + "\n";
  if (!r.sizes.empty()) out += sizes_text(r) + "\n";
  out += memory_text(r) + "\n" + cards_text(r);
  if (const std::string rates = rates_text(r); !rates.empty()) out += "\n" + rates;
  return out;
}

}  // namespace hlwq::cli
