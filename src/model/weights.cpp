#include "model/weights.h"

#include <algorithm>
#include <span>

#include "io/model_source.h"
#include "quant/hlwq_checkpoint.h"

namespace hlwq {
namespace {

std::string shape_text(std::span<const uint64_t> shape) {
  std::string text;
  for (uint64_t d : shape) text += (text.empty() ? "[" : ", ") + std::to_string(d);
  return text.empty() ? "[]" : text + "]";
}

void expect_shape(const std::string& name, std::span<const uint64_t> is, std::span<const uint64_t> expected) {
  if (!std::equal(is.begin(), is.end(), expected.begin(), expected.end()))
    throw Error(ErrorCode::kInvalidFile,
                name + " has shape " + shape_text(is) + ", the config says " + shape_text(expected));
}

const Tensor& real_numbers(const Tensor& t) {
  if (!info(t.dtype).is_float)
    throw Error(ErrorCode::kInvalidFile, t.name + " is " + std::string(info(t.dtype).name) +
                                             ", which is not a matrix of real numbers");
  return t;
}

}  // namespace

WeightStore::WeightStore(const ModelSource& source) : source_(source) {
  if (!source.tensors)
    throw Error(ErrorCode::kNotFound, source.path.string() + " has a config but no weights (*.safetensors)");
  if (HlwqCheckpoint::is_hlwq(source)) checkpoint_ = std::make_unique<HlwqCheckpoint>(source);
}

WeightStore::~WeightStore() = default;

std::vector<std::string> WeightStore::notes() const {
  return checkpoint_ ? checkpoint_->notes() : std::vector<std::string>();
}

bool WeightStore::contains(const std::string& name) const {
  return source_.tensors->find(name) || (checkpoint_ && checkpoint_->contains(name));
}

void WeightStore::use_hlwq(const StoredMatrix& stored, const std::string& name) {
  const HlwqFormat& f = stored.format;
  used_.push_back({name, stored.rows, stored.cols,
                   stored.rows * (f.row_bytes(stored.cols) + 2 * f.row_blocks(stored.cols)),
                   format_label(f)});
}

Weight WeightStore::hlwq_rows(const StoredMatrix& stored, uint64_t first, uint64_t rows) {
  const HlwqFormat& f = stored.format;
  const Codebook& codebook = checkpoint_->codebook(f.bits, f.lags);
  auto& tables = tables_[{f.bits, f.lags}];
  if (!tables) tables = std::make_unique<LookupTables>(make_lookup_tables(codebook));
  HlwqMatrix& m = matrices_.emplace_back();
  m.format = f;
  m.rows = rows;
  m.cols = stored.cols;
  m.codes = stored.codes + first * f.row_bytes(stored.cols);
  m.norms = stored.norms + first * f.row_blocks(stored.cols);
  m.tables = tables.get();
  m.codebook = &codebook;
  return {.hlwq = &m};
}

Weight WeightStore::matrix(const std::string& name, uint64_t rows, uint64_t cols) {
  const std::array<uint64_t, 2> shape = {rows, cols};
  if (checkpoint_)
    if (auto stored = checkpoint_->find(name)) {
      // Some published files leave it to the model how much of the last block is filling.
      if (!stored->cols_known && cols < stored->cols &&
          stored->format.row_blocks(cols) == stored->format.row_blocks(stored->cols))
        stored->cols = stored->shape.back() = cols;
      expect_shape(name, stored->shape, shape);
      use_hlwq(*stored, name);
      return hlwq_rows(*stored, 0, rows);
    }
  const Tensor& t = real_numbers(source_.tensors->at(name));
  expect_shape(name, t.shape, shape);
  used_.push_back({name, rows, cols, t.data.size(), std::string(info(t.dtype).name)});
  return {.dense = &t};
}

std::vector<Weight> WeightStore::stacked(const std::string& name, const std::array<uint64_t, 3>& shape,
                                         uint64_t rows_each) {
  // Both kinds of tensor have been checked against their files, so once the shapes agree nothing overflows.
  const auto parts = [&](auto&& one) {
    std::vector<Weight> all;
    for (uint64_t first = 0; first < shape[0] * shape[1]; first += rows_each) all.push_back(one(first));
    return all;
  };
  if (checkpoint_)
    if (const auto stored = checkpoint_->find(name)) {
      expect_shape(name, stored->shape, shape);
      use_hlwq(*stored, name);
      return parts([&](uint64_t first) { return hlwq_rows(*stored, first, rows_each); });
    }
  const Tensor& t = real_numbers(source_.tensors->at(name));
  expect_shape(name, t.shape, shape);
  used_.push_back({name, t.rows(), t.cols(), t.data.size(), std::string(info(t.dtype).name)});
  return parts([&](uint64_t first) {
    Tensor& view = views_.emplace_back(t);
    view.shape = {rows_each, t.cols()};
    view.data = t.data.subspan(first * t.row_bytes(), rows_each * t.row_bytes());
    return Weight{.dense = &view};
  });
}

std::vector<float> WeightStore::vector(const std::string& name, uint64_t n, float offset) const {
  const Tensor& t = source_.tensors->at(name);
  if (t.elements() != n || !info(t.dtype).is_float)
    throw Error(ErrorCode::kInvalidFile, name + " has " + std::to_string(t.elements()) +
                                             " values, expected " + std::to_string(n) + " real numbers");
  std::vector<float> v(n);
  decode_rows(t, 0, t.rows(), v.data());
  for (float& x : v) x += offset;
  return v;
}

}  // namespace hlwq
