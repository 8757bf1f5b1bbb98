// Conversations with pictures: image files to soft tokens, each encoded once, and messages to a Prompt.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/chat.h"
#include "engine/engine.h"
#include "engine/prompt.h"
#include "model/model.h"

namespace hlwq {

struct ImageOptions {
  enum class Budget { kModel, kAuto, kFixed };
  Budget budget = Budget::kModel;  ///< the model's own, auto_budget() of each image, or `tokens`
  uint64_t tokens = 0;             ///< kFixed: 70, 140, 280, 560 or 1120
  ImageLimits limits = {};
  /// The bytes behind a part's "path"; empty: the file of that name.
  std::function<std::string(const std::string& path)> read = {};
  uint64_t cache_bytes = 512ull << 20;  ///< of features kept for later; at least the newest stays
};

/// One image of a prompt, as people want to hear of it.
struct ImageInfo {
  std::string path;
  uint64_t width = 0, height = 0;  ///< upright pixels of the file
  uint64_t tokens = 0;             ///< soft tokens
};

/// Prepares and encodes images for one model. Not for several threads at once.
class ImageEncoder {
 public:
  /// Throws Error(kUnsupported) that says why when the model takes no images, kInvalidArgument for a budget
  /// that it does not know.
  ImageEncoder(std::shared_ptr<const Model> model, const ImageOptions& options = {});

  /// Most tokens that an image can come to: what SessionOptions::image_tokens should be.
  uint64_t max_tokens() const;

  /// Decodes and resizes, without encoding. Throws as decode_image and
  /// target_size do.
  ImageInfo inspect(const std::string& path);

  struct Chat {
    Prompt prompt;
    std::vector<ImageInfo> images;
  };
  /// Renders `messages` by the model's template; a message's content may be a list of parts, {"type": "text",
  /// "text": ...} and {"type": "image", "path": ...}. Only a part becomes image tokens: text that spells them
  /// out never does. The prompt must leave room in `context` tokens (0: any length), which is checked before
  /// anything is encoded: Error(kContextFull). Throws Error(kInvalidArgument) when the template did not place
  /// every image.
  Chat chat(Engine& engine, const OrderedJson& messages, const ChatOptions& options, uint64_t context,
            const Progress& progress = {});

 private:
  using Hash = std::array<uint64_t, 2>;
  struct Entry {
    Hash hash;
    ImageInfo info;
    ImagePatches patches;                           // until it is encoded
    std::shared_ptr<const ImageFeatures> features;  // then
    uint64_t bytes() const;
  };
  Entry& prepare(const std::string& path);
  std::shared_ptr<const ImageFeatures> encode(Engine& engine, Entry& entry, const Progress& progress);
  void shrink(size_t keep);

  std::shared_ptr<const Model> model_;
  ImageOptions options_;
  std::list<Entry> entries_;  // newest first; addresses stay
};

/// Paths of the image parts of a conversation, in order. Throws Error(kInvalidArgument) for one without.
std::vector<std::string> image_paths(const OrderedJson& messages);
/// A user message: the images, then the text.
OrderedJson image_message(const std::vector<std::string>& paths, const std::string& text);

}  // namespace hlwq
