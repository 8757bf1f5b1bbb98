// Speed of prefill and decode, beside the memory bandwidth of the same run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/session.h"

namespace hlwq {

struct SpeedOptions {
  uint64_t prompt = 512;  ///< tokens of the prefill test
  uint64_t decode = 64;   ///< tokens of the decode test
  uint64_t depth = 0;     ///< tokens already in the context when decoding starts
  int repeats = 5;        ///< medians are reported
  KvSettings kv = {};
};

struct SpeedResult {
  double prefill_tok_s = 0, decode_tok_s = 0;
  double decode_gb_s = 0;  ///< weight bytes read per second while decoding
  double read_gb_s = 0;    ///< this machine's read bandwidth with the same threads, measured in the same run
};

SpeedResult measure_speed(std::shared_ptr<const Model> model, Engine& engine, const SpeedOptions& options,
                          const Progress& progress = {});
/// Speeds where a context has a certain depth.
struct DepthSpeed {
  uint64_t depth = 0;        ///< tokens in the context when decoding starts
  double prefill_tok_s = 0;  ///< of the tokens up to there, from the depth before; 0 where there are none
  double decode_tok_s = 0;   ///< median over single tokens
};

/// One growing context: at each of `depths` (ascending) `decode` tokens are decoded one by one. Throws
/// Error(kInvalidArgument) for depths that are not ascending or beyond the model's context.
std::vector<DepthSpeed> measure_depths(std::shared_ptr<const Model> model, Engine& engine,
                                       const std::vector<uint64_t>& depths, uint64_t decode,
                                       const KvSettings& kv, const Progress& progress = {});
/// GB/s of summing a buffer far larger than the caches on all threads, median of `repeats`.
double read_bandwidth(Engine& engine, int repeats);

}  // namespace hlwq
