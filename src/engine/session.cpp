#include "engine/session.h"

#include <algorithm>

namespace hlwq {
namespace {

uint64_t checked_context(const ModelSpec& spec, const SessionOptions& options) {
  if (options.chunk == 0) throw Error(ErrorCode::kInvalidArgument, "the chunk must be at least one token");
  if (options.context == 0) return default_context(spec, options.chunk, options.kv);
  if (options.context > spec.max_context)
    throw Error(ErrorCode::kInvalidArgument, "a context of " + std::to_string(options.context) +
                                                 " tokens is beyond the model's " +
                                                 std::to_string(spec.max_context));
  return options.context;
}

}  // namespace

uint64_t default_context(const ModelSpec& spec, uint64_t chunk, const KvSettings& kv) {
  uint64_t context = spec.max_context;
  const uint64_t budget = physical_memory() / 4;
  while (context > 1024 && KvCache::bytes(spec, context, chunk, kv) > budget) context /= 2;
  return context;
}

Session::Session(std::shared_ptr<const Model> model, Engine& engine, const SessionOptions& options)
    : model_(std::move(model)),
      engine_(engine),
      cache_(model_->spec(), checked_context(model_->spec(), options),
             std::min(options.chunk, checked_context(model_->spec(), options)), options.kv) {
  workspace_.reserve(model_->spec(), cache_.max_chunk());
  hidden_.resize(model_->spec().hidden);
  logits_.resize(model_->spec().vocab);
}

uint64_t Session::scratch_bytes() const {
  return Workspace::bytes(model_->spec(), cache_.max_chunk()) +
         (hidden_.size() + logits_.size()) * sizeof(float);
}

void Session::feed(std::span<const int32_t> ids, const Progress& progress) {
  if (ids.size() > context() - ids_.size())
    throw Error(ErrorCode::kContextFull, "the text needs " + std::to_string(ids_.size() + ids.size()) +
                                             " tokens, the context holds " + std::to_string(context()) +
                                             "; use a larger context (--ctx) or a shorter text");
  const uint64_t hidden = model_->spec().hidden;
  for (uint64_t done = 0; done < ids.size();) {
    progress.step(done, ids.size(), "reading the prompt");
    const auto chunk = ids.subspan(done, std::min<uint64_t>(cache_.max_chunk(), ids.size() - done));
    const auto states = model_->transformer().forward(engine_.compute(), cache_, chunk, workspace_);
    std::copy(states.end() - static_cast<std::ptrdiff_t>(hidden), states.end(), hidden_.begin());
    logits_ready_ = false;
    ids_.insert(ids_.end(), chunk.begin(), chunk.end());
    done += chunk.size();
  }
  if (!ids.empty()) progress.step(ids.size(), ids.size(), "reading the prompt");
}

void Session::truncate(uint64_t length, const Progress& progress) {
  if (length >= ids_.size()) return;
  // The state after the last kept token is gone with the ones that follow it, so that token is always run
  // again.
  const uint64_t keep = length == 0 ? 0 : length - 1;
  std::vector<int32_t> again;
  if (cache_.truncate(keep)) {
    again.assign(ids_.begin() + static_cast<std::ptrdiff_t>(keep),
                 ids_.begin() + static_cast<std::ptrdiff_t>(length));
    ids_.resize(keep);
  } else {
    again.assign(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(length));
    cache_.truncate(0);
    ids_.clear();
  }
  feed(again, progress);
}

uint64_t Session::set(std::span<const int32_t> ids, const Progress& progress) {
  if (ids.size() > context())
    throw Error(ErrorCode::kContextFull, "the prompt has " + std::to_string(ids.size()) +
                                             " tokens, the context holds " + std::to_string(context()) +
                                             "; use a larger context (--ctx) or a shorter text");
  uint64_t common = static_cast<uint64_t>(
      std::mismatch(ids.begin(), ids.end(), ids_.begin(), ids_.end()).first - ids.begin());
  if (common == ids_.size() && common == ids.size()) return common;
  // The last token is always run, so that its logits exist.
  common = std::min<uint64_t>(common, ids.empty() ? 0 : ids.size() - 1);
  if (common < ids_.size()) {
    if (!cache_.truncate(common)) {
      common = 0;
      cache_.truncate(0);
    }
    ids_.resize(common);
  }
  feed(ids.subspan(common), progress);
  return common;
}

std::span<const float> Session::logits() {
  if (ids_.empty()) throw Error(ErrorCode::kInvalidArgument, "there are no logits before the first token");
  if (!logits_ready_) model_->transformer().logits(engine_.compute(), hidden_.data(), 1, logits_.data());
  logits_ready_ = true;
  return logits_;
}

}  // namespace hlwq
