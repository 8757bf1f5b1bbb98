#include "model/sequence.h"

#include <algorithm>
#include <string>

namespace hlwq {

CpuSequence::CpuSequence(const Transformer& transformer, const Compute& compute, uint64_t context,
                         uint64_t max_chunk, const KvSettings& settings)
    : transformer_(transformer), compute_(compute), cache_(transformer.spec(), context, max_chunk, settings) {
  workspace_.reserve(transformer_.spec(), max_chunk);
}

CpuSequence::CpuSequence(const CpuSequence& other)
    : Sequence(other), transformer_(other.transformer_), compute_(other.compute_), cache_(other.cache_) {
  workspace_.reserve(transformer_.spec(), cache_.max_chunk());
  if (other.tokens_ == 0) return;
  const uint64_t hidden = transformer_.spec().hidden;
  std::copy_n(other.workspace_.normed.data() + (other.tokens_ - 1) * hidden, hidden,
              workspace_.normed.data());
  tokens_ = 1;
}

std::unique_ptr<Sequence> CpuSequence::fork() const {
  return std::unique_ptr<Sequence>(new CpuSequence(*this));
}

uint64_t CpuSequence::scratch_bytes() const {
  const ModelSpec& spec = transformer_.spec();
  return Workspace::bytes(spec, cache_.max_chunk()) + (spec.hidden + spec.vocab) * sizeof(float);
}

void CpuSequence::forward(std::span<const int32_t> ids, std::span<const ImageRun> images) {
  tokens_ = 0;
  transformer_.forward(compute_, cache_, ids, workspace_, images);
  tokens_ = ids.size();
}

void CpuSequence::states(uint64_t first, uint64_t rows, float* out) {
  if (first + rows > tokens_ || first + rows < first)
    throw Error(ErrorCode::kInvalidArgument,
                "states of tokens " + std::to_string(first) + " to " + std::to_string(first + rows) +
                    " were asked for; the last pass had " + std::to_string(tokens_));
  const uint64_t hidden = transformer_.spec().hidden;
  std::copy_n(workspace_.normed.data() + first * hidden, rows * hidden, out);
}

void CpuSequence::logits(const float* states, uint64_t rows, float* out) {
  transformer_.logits(compute_, states, rows, out);
}

void CpuSequence::last_logits(float* out) {
  if (tokens_ == 0) throw Error(ErrorCode::kInvalidArgument, "there are no logits before the first token");
  transformer_.logits(compute_, workspace_.normed.data() + (tokens_ - 1) * transformer_.spec().hidden, 1,
                      out);
}

}  // namespace hlwq
