// What a sequence is made of: token ids, and the images behind some of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace hlwq {

/// An image as the language model sees it: the soft tokens that take the place of its placeholder tokens.
struct ImageFeatures {
  std::array<uint64_t, 2>
      hash{};  ///< of the pixels and of how they were prepared: equal means the same image
  uint64_t tokens = 0;
  std::vector<float> embeddings;  ///< [tokens, hidden]
};

struct PromptImage {
  uint64_t begin = 0;  ///< its tokens are ids[begin .. begin + features->tokens)
  std::shared_ptr<const ImageFeatures> features;
};

struct Prompt {
  std::vector<int32_t> ids;
  std::vector<PromptImage> images;  ///< ascending, without overlap
};

/// Throws Error(kInvalidArgument) unless every image of `prompt` lies whole within its ids, after the one
/// before it, and is as wide as the model, `hidden`.
void validate(const Prompt& prompt, uint64_t hidden);

/// Tokens that two sequences have in common at their beginning: the same ids, and the same images behind
/// them. Never ends inside an image of either.
uint64_t common_prefix(std::span<const int32_t> a_ids, std::span<const PromptImage> a_images,
                       std::span<const int32_t> b_ids, std::span<const PromptImage> b_images);

/// `length`, or where the image begins that it would cut in two.
uint64_t outside_images(std::span<const PromptImage> images, uint64_t length);

}  // namespace hlwq
