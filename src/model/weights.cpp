#include "model/weights.h"

#include "io/model_source.h"
#include "quant/hlwq_checkpoint.h"

namespace hlwq {
namespace {

std::string shape_text(uint64_t rows, uint64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

}  // namespace

WeightStore::WeightStore(const ModelSource& source) : source_(source) {
  if (!source.tensors)
    throw Error(ErrorCode::kNotFound, source.path.string() + " has a config but no weights (*.safetensors)");
  if (HlwqCheckpoint::is_hlwq(source)) checkpoint_ = std::make_unique<HlwqCheckpoint>(source);
}

WeightStore::~WeightStore() = default;

bool WeightStore::contains(const std::string& name) const {
  return source_.tensors->find(name) || (checkpoint_ && checkpoint_->contains(name));
}

Weight WeightStore::matrix(const std::string& name, uint64_t rows, uint64_t cols) {
  const auto check = [&](uint64_t r, uint64_t c) {
    if (r != rows || c != cols)
      throw Error(ErrorCode::kInvalidFile,
                  name + " has shape " + shape_text(r, c) + ", the config says " + shape_text(rows, cols));
  };
  if (checkpoint_) {
    if (const auto stored = checkpoint_->find(name)) {
      check(stored->rows, stored->cols);
      const Codebook& codebook = checkpoint_->codebook(stored->format.bits, stored->format.lags);
      auto& tables = tables_[{stored->format.bits, stored->format.lags}];
      if (!tables) tables = std::make_unique<LookupTables>(make_lookup_tables(codebook));
      HlwqMatrix& m = matrices_.emplace_back();
      m.format = stored->format;
      m.rows = rows;
      m.cols = cols;
      m.codes = stored->codes;
      m.norms = stored->norms;
      m.tables = tables.get();
      m.codebook = &codebook;
      const uint64_t bytes = rows * (m.format.row_bytes(cols) + 2 * m.format.row_blocks(cols));
      used_.push_back({name, rows, cols, bytes, "Q" + std::to_string(m.format.bits)});
      return {.hlwq = &m};
    }
  }
  const Tensor& t = source_.tensors->at(name);
  if (t.shape.size() != 2 || !info(t.dtype).is_float)
    throw Error(ErrorCode::kInvalidFile, name + " is not a matrix of real numbers");
  check(t.rows(), t.cols());
  used_.push_back({name, rows, cols, t.data.size(), std::string(info(t.dtype).name)});
  return {.dense = &t};
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
