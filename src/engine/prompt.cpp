#include "engine/prompt.h"

#include <algorithm>
#include <string>

#include "hlwq/error.h"

namespace hlwq {

void validate(const Prompt& prompt, uint64_t hidden) {
  uint64_t free_from = 0;
  for (size_t i = 0; i < prompt.images.size(); ++i) {
    const PromptImage& image = prompt.images[i];
    const auto fail = [&](const std::string& why) {
      throw Error(ErrorCode::kInvalidArgument, "image " + std::to_string(i + 1) + " of the prompt " + why);
    };
    if (!image.features || image.features->tokens == 0) fail("has no features");
    const uint64_t tokens = image.features->tokens;
    if (image.features->embeddings.size() != tokens * hidden)
      fail("was encoded for a model of another width");
    if (image.begin < free_from) fail("overlaps the one before it");
    if (image.begin > prompt.ids.size() || tokens > prompt.ids.size() - image.begin)
      fail("reaches beyond the prompt's ids");
    free_from = image.begin + tokens;
  }
}

uint64_t outside_images(std::span<const PromptImage> images, uint64_t length) {
  for (const PromptImage& image : images)
    if (image.begin < length && length < image.begin + image.features->tokens) return image.begin;
  return length;
}

uint64_t common_prefix(std::span<const int32_t> a_ids, std::span<const PromptImage> a_images,
                       std::span<const int32_t> b_ids, std::span<const PromptImage> b_images) {
  auto common = static_cast<uint64_t>(
      std::mismatch(a_ids.begin(), a_ids.end(), b_ids.begin(), b_ids.end()).first - a_ids.begin());
  for (size_t i = 0; i < std::max(a_images.size(), b_images.size()); ++i) {
    const PromptImage* a = i < a_images.size() ? &a_images[i] : nullptr;
    const PromptImage* b = i < b_images.size() ? &b_images[i] : nullptr;
    if (a && b && a->begin == b->begin && a->features->tokens == b->features->tokens &&
        a->features->hash == b->features->hash)
      continue;
    if (a) common = std::min(common, a->begin);
    if (b) common = std::min(common, b->begin);
    break;
  }
  return std::min(outside_images(a_images, common), outside_images(b_images, common));
}

}  // namespace hlwq
