#include "engine/session.h"

#include <algorithm>

namespace hlwq {
namespace {

uint64_t wanted_chunk(const Engine& engine, const SessionOptions& options) {
  const uint64_t chunk = options.chunk.value_or(engine.uses_gpu() ? kGpuChunk : kCpuChunk);
  if (chunk == 0) throw Error(ErrorCode::kInvalidArgument, "the chunk must be at least one token");
  return std::max(chunk, options.image_tokens);
}

uint64_t checked_context(const Model& model, Engine& engine, const SessionOptions& options) {
  const ModelSpec& spec = model.spec();
  if (options.context == 0)
    return engine.default_context(model, wanted_chunk(engine, options), options.kv, options.image_tokens);
  if (options.context > spec.max_context)
    throw Error(ErrorCode::kInvalidArgument, "a context of " + std::to_string(options.context) +
                                                 " tokens is beyond the model's " +
                                                 std::to_string(spec.max_context));
  return options.context;
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model, Engine& engine, const SessionOptions& options)
    : model_(std::move(model)) {
  const uint64_t context = checked_context(*model_, engine, options);
  sequence_ = engine.sequence(*model_, context, std::min(wanted_chunk(engine, options), context), options.kv,
                              options.image_tokens);
  logits_.resize(model_->spec().vocab);
}

Session::Session(const Session& other)
    : model_(other.model_),
      sequence_(other.sequence_->fork()),
      ids_(other.ids_),
      images_(other.images_),
      logits_(other.logits_),
      logits_ready_(other.logits_ready_) {}

void Session::feed(std::span<const int32_t> ids, const Progress& progress) { append(ids, {}, progress); }

void Session::feed(const Prompt& prompt, const Progress& progress) {
  validate(prompt, model_->spec().hidden);
  append(prompt.ids, prompt.images, progress);
}

// Images count from the beginning of `ids`.
void Session::append(std::span<const int32_t> ids, std::span<const PromptImage> images,
                     const Progress& progress) {
  if (ids.size() > context() - ids_.size())
    throw Error(ErrorCode::kContextFull, "the text needs " + std::to_string(ids_.size() + ids.size()) +
                                             " tokens, the context holds " + std::to_string(context()) +
                                             "; use a larger context (--ctx) or a shorter text");
  for (const PromptImage& image : images)
    if (image.features->tokens > max_chunk())
      throw Error(ErrorCode::kInvalidArgument, "an image of " + std::to_string(image.features->tokens) +
                                                   " tokens does not fit into a pass of " +
                                                   std::to_string(max_chunk()) +
                                                   "; SessionOptions::image_tokens makes room for it");
  std::vector<ImageRun> runs;
  for (uint64_t done = 0; done < ids.size();) {
    progress.step(done, ids.size(), "reading the prompt");
    const uint64_t end = outside_images(images, std::min<uint64_t>(done + max_chunk(), ids.size()));
    const auto chunk = ids.subspan(done, end - done);
    runs.clear();
    for (const PromptImage& image : images)
      if (image.begin >= done && image.begin < end)
        runs.push_back({image.begin - done, image.features->tokens, image.features->embeddings.data()});
    sequence_->forward(chunk, runs);
    logits_ready_ = false;
    for (const PromptImage& image : images)
      if (image.begin >= done && image.begin < end)
        images_.push_back({ids_.size() + image.begin - done, image.features});
    ids_.insert(ids_.end(), chunk.begin(), chunk.end());
    done = end;
  }
  if (!ids.empty()) progress.step(ids.size(), ids.size(), "reading the prompt");
}

// Drops ids and images from `length` on, which is inside no image.
void Session::keep(uint64_t length) {
  ids_.resize(length);
  while (!images_.empty() && images_.back().begin >= length) images_.pop_back();
}

void Session::truncate(uint64_t length, const Progress& progress) {
  if (length >= ids_.size()) return;
  length = outside_images(images_, length);
  // The state after the last kept token is gone with the ones that follow it, so that token is always run
  // again, with its whole image if it ends one.
  uint64_t from = length == 0 ? 0 : outside_images(images_, length - 1);
  if (!sequence_->truncate(from)) {
    from = 0;
    sequence_->truncate(0);
  }
  Prompt again{
      {ids_.begin() + static_cast<std::ptrdiff_t>(from), ids_.begin() + static_cast<std::ptrdiff_t>(length)},
      {}};
  for (const PromptImage& image : images_)
    if (image.begin >= from && image.begin < length)
      again.images.push_back({image.begin - from, image.features});
  keep(from);
  append(again.ids, again.images, progress);
}

uint64_t Session::set(std::span<const int32_t> ids, const Progress& progress) {
  return set(Prompt{{ids.begin(), ids.end()}, {}}, progress);
}

uint64_t Session::set(const Prompt& prompt, const Progress& progress) {
  const std::span<const int32_t> ids = prompt.ids;
  validate(prompt, model_->spec().hidden);
  if (ids.size() > context())
    throw Error(ErrorCode::kContextFull, "the prompt has " + std::to_string(ids.size()) +
                                             " tokens, the context holds " + std::to_string(context()) +
                                             "; use a larger context (--ctx) or a shorter text");
  uint64_t common = common_prefix(ids, prompt.images, ids_, images_);
  if (common == ids_.size() && common == ids.size()) return common;
  // The last token is always run, so that its logits exist.
  common = outside_images(prompt.images, std::min<uint64_t>(common, ids.empty() ? 0 : ids.size() - 1));
  if (common < ids_.size()) {
    if (!sequence_->truncate(common)) {
      common = 0;
      sequence_->truncate(0);
    }
    keep(common);
  }
  std::vector<PromptImage> rest;
  for (const PromptImage& image : prompt.images)
    if (image.begin >= common) rest.push_back({image.begin - common, image.features});
  append(ids.subspan(common), rest, progress);
  return common;
}

std::span<const float> Session::logits() {
  if (ids_.empty()) throw Error(ErrorCode::kInvalidArgument, "there are no logits before the first token");
  if (!logits_ready_) sequence_->last_logits(logits_.data());
  logits_ready_ = true;
  return logits_;
}

}  // namespace hlwq
