// What a sequence is made of: token ids, and the images behind some of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
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

}  // namespace hlwq
