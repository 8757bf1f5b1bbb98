#include "io/tensor_source.h"

#include <algorithm>
#include <numeric>

namespace hlwq {

void TensorSource::build_index() {
  const std::vector<Tensor>& all = tensors();
  by_name_.resize(all.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return all[a].name < all[b].name; });
  for (size_t i = 1; i < by_name_.size(); ++i)
    if (all[by_name_[i]].name == all[by_name_[i - 1]].name)
      throw Error(ErrorCode::kInvalidFile, "tensor " + all[by_name_[i]].name + " is stored twice");
}

const Tensor* TensorSource::find(std::string_view name) const {
  const std::vector<Tensor>& all = tensors();
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](uint32_t i, std::string_view n) { return all[i].name < n; });
  return it != by_name_.end() && all[*it].name == name ? &all[*it] : nullptr;
}

const Tensor& TensorSource::at(std::string_view name) const {
  if (const Tensor* t = find(name)) return *t;
  throw Error(ErrorCode::kNotFound, "the model has no tensor " + std::string(name));
}

}  // namespace hlwq
