// One sequence: its tokens, its key/value cache, and the logits after its last token.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "engine/prompt.h"
#include "model/model.h"
#include "model/sequence.h"

namespace hlwq {

struct SessionOptions {
  uint64_t context =
      0;  ///< tokens; 0: the model's own, or less where its cache would pass a quarter of the memory
  /// Tokens per forward pass while reading a prompt: 256, or on a GPU 512.
  std::optional<uint64_t> chunk = {};
  KvSettings kv = {};
  /// Tokens of the largest image that will be fed: an image goes through in one pass, so chunks grow to hold
  /// it.
  uint64_t image_tokens = 0;
};

/// Chunks on the processor, where more gains nothing, and on a GPU, where a pass reads all weights and
/// activations take memory.
constexpr uint64_t kCpuChunk = 256, kGpuChunk = 512;

class Session {
 public:
  /// Throws Error(kInvalidArgument) for a context beyond the model's, kOutOfMemory.
  Session(std::shared_ptr<const Model> model, Engine& engine, const SessionOptions& options = {});
  /// A fork: goes on by itself from what was fed so far. Copies the part of the cache that is in use.
  Session(const Session& other);

  const Model& model() const { return *model_; }
  uint64_t context() const { return sequence_->context(); }
  const std::vector<int32_t>& ids() const { return ids_; }            ///< every token fed so far
  const std::vector<PromptImage>& images() const { return images_; }  ///< every image fed so far
  uint64_t max_chunk() const { return sequence_->max_chunk(); }       ///< tokens of one pass at most
  uint64_t kv_bytes() const { return sequence_->kv_bytes(); }
  /// Cache, activations and logits: what info's plan calls kv and scratch.
  uint64_t scratch_bytes() const { return sequence_->scratch_bytes(); }

  /// Appends tokens. Throws Error(kContextFull) before anything is run when they don't fit, and
  /// kInvalidArgument for an image larger than max_chunk(). Interrupted (kCancelled) between chunks: what was
  /// run stays.
  void feed(std::span<const int32_t> ids, const Progress& progress = {});
  /// The same with images, whose positions count from the beginning of `prompt`. Chunks end before an image
  /// that they could not hold whole.
  void feed(const Prompt& prompt, const Progress& progress = {});
  /// Makes the sequence equal to `ids`, reusing the longest common prefix; returns how many tokens were
  /// reused. Images are compared by hash and reused whole or not at all.
  uint64_t set(std::span<const int32_t> ids, const Progress& progress = {});
  uint64_t set(const Prompt& prompt, const Progress& progress = {});
  /// Forgets everything from `length` on (re-reading what a sliding window has lost on the next feed is done
  /// here). A length inside an image forgets the whole image.
  void truncate(uint64_t length, const Progress& progress = {});

  /// Logits [vocab] of the token after the last one fed; valid until the next feed. Needs at least one token.
  std::span<const float> logits();

 private:
  void append(std::span<const int32_t> ids, std::span<const PromptImage> images, const Progress& progress);
  void keep(uint64_t length);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<int32_t> ids_;
  std::vector<PromptImage> images_;  // ascending
  std::vector<float> logits_;        // of the last token
  bool logits_ready_ = false;
};

}  // namespace hlwq
