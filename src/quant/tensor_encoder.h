// Where quantize_model has tensors encoded when not on its own threads: another device.
#pragma once

#include <cstdint>
#include <functional>

#include "base/thread_pool.h"
#include "io/tensor.h"
#include "quant/codec.h"

namespace hlwq {

/// One tensor's way into codes, in slabs of rows.
struct EncodeTask {
  const Tensor& tensor;
  const HlwqFormat& format;
  const Codebook& codebook;
  NormRule rule;
  uint64_t slab_rows;  ///< of all slabs but the last
  /// Called before the rows up to `end` are read: the caller may have the rows after them fetched.
  std::function<void(uint64_t end)> reading;
  /// Called for each slab, in order: its rows' codes, norms and errors, as encode_rows gives them. May throw.
  std::function<void(uint64_t first, uint64_t rows, const uint8_t* codes, const uint16_t* norms,
                     const CodecStats& stats)>
      done;
};

class TensorEncoder {
 public:
  virtual ~TensorEncoder() = default;
  /// Encodes the whole tensor; `pool` is for reading it. Codes, norms and errors are those of encode_rows, as
  /// are the exceptions. May be used again after one.
  virtual void encode(const EncodeTask& task, ThreadPool& pool) = 0;
};

}  // namespace hlwq
