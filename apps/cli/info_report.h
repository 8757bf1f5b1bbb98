// What `hlwq info` found out, and its two presentations.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "engine/fit.h"
#include "engine/plan.h"

namespace hlwq::cli {

/// A setting of the key/value cache and what tables call it.
struct KvChoice {
  std::string label;
  KvSettings settings;
};

struct InfoReport {
  std::string path;
  bool has_weights = false;
  std::string policy;  ///< whose sizes `facts` has; "stored" when none was asked for
  ModelSpec spec;
  ModelFacts facts;
  std::vector<std::string> notes;
  std::string tokenizer;  ///< "8,192 tokens", "none"...
  bool has_tokenizer = false, has_template = false;
  std::string backend;
  int threads = 0;
  struct Cache {
    KvChoice kv;
    KvParts parts;                   ///< at the longest planned context
    uint64_t values_only = 0;        ///< layers that rebuild their keys from the values
    std::vector<MemoryPlan> memory;  ///< one for each context
  };
  std::vector<Cache> caches;       ///< the first is the one asked for
  uint64_t image_scratch = 0;      ///< bytes while one image of the usual size is encoded
  std::vector<WeightSizes> sizes;  ///< policies side by side; empty when only the stored weights count

  /// One line of the table of cards: weights under a policy with a cache.
  struct Fit {
    std::string policy;
    uint64_t weights = 0;  ///< bytes of text and vision
    KvChoice kv;
    std::vector<uint64_t> contexts;  ///< the longest on each of gpu_cards(); 0: does not fit
  };
  std::vector<Fit> fits;

  /// One line of the table of rates: what fits each of gpu_cards() at a context with a cache.
  struct Rate {
    uint64_t context = 0;
    std::string kv;
    std::vector<FittingRate> cards;
  };
  std::vector<Rate> rates;                     ///< of weights that are there to be quantized, or planned
  uint64_t coded_params = 0, other_bytes = 0;  ///< of a checkpoint: weights in codes; bytes of all else
};

OrderedJson to_json(const InfoReport& report);
std::string to_text(const InfoReport& report);

}  // namespace hlwq::cli
