// Mean squared input of every column of every linear of a model, over windows of a text: what llama.cpp calls
// an importance matrix. Unrotated, so for other quantisers than ours.
//
//   column_statistics MODEL TEXT_FILE OUT_DIR [WINDOWS=64] [WINDOW=512]
//
// OUT_DIR/model.safetensors then has, under each weight's name, its columns' means (F32 [cols]).
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "base/file.h"
#include "engine/engine.h"
#include "eval/perplexity.h"
#include "io/safetensors_writer.h"
#include "model/model.h"

namespace hlwq {
namespace {

class ColumnMeans : public LinearObserver {
 public:
  void observe(const LinearJob& job) override {
    const Tensor* weight = job.weight.dense;
    if (!weight)
      throw Error(ErrorCode::kInvalidArgument, "the statistics need a model that is not quantised");
    Sum& sum = sums_[weight->name];
    const uint64_t cols = job.input->cols(), tokens = job.input->tokens();
    sum.squares.resize(cols);
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t c = 0; c < cols; ++c) {
        const double v = job.input->x()[t * cols + c];
        sum.squares[c] += v * v;
      }
    sum.tokens += tokens;
  }

  void write(const std::filesystem::path& dir) const {
    std::vector<TensorSpec> specs;
    for (const auto& [name, sum] : sums_) specs.push_back({name, DType::kF32, {sum.squares.size()}});
    SafetensorsWriter writer(dir, specs, {{"format", "pt"}});
    for (const auto& [name, sum] : sums_) {
      std::vector<float> means;
      for (const double s : sum.squares)
        means.push_back(static_cast<float>(s / static_cast<double>(sum.tokens)));
      writer.append(means.data(), means.size() * sizeof(float));
    }
    writer.finish();
  }

 private:
  struct Sum {
    std::vector<double> squares;
    uint64_t tokens = 0;
  };
  std::map<std::string, Sum> sums_;
};

void collect(const std::string& path, const std::string& text, const std::filesystem::path& out,
             uint64_t windows, uint64_t window) {
  const auto model = Model::load(path);
  const std::vector<int32_t> ids = model->tokenizer().encode(read_file(text), false, false);
  const int32_t bos = bos_token(*model);
  const uint64_t body = window - (bos >= 0 ? 1 : 0);
  Engine engine;
  ColumnMeans means;
  Compute compute = engine.compute();
  compute.observer = &means;
  KvCache cache(model->spec(), window, window, {});
  Workspace workspace;
  std::vector<float> last(model->spec().vocab);
  for (uint64_t k = 0; k < windows && k * body < ids.size(); ++k) {
    std::vector<int32_t> part;
    if (bos >= 0) part.push_back(bos);
    for (uint64_t i = k * body; i < std::min<uint64_t>((k + 1) * body, ids.size()); ++i)
      part.push_back(ids[i]);
    cache.truncate(0);
    const auto states = model->transformer().forward(compute, cache, part, workspace);
    // One position's logits are enough for the head to be observed once a window.
    const std::vector<float> state(states.end() - static_cast<std::ptrdiff_t>(model->spec().hidden),
                                   states.end());
    model->transformer().logits(compute, state.data(), 1, last.data());
    std::fprintf(stderr, "window %llu\n", static_cast<unsigned long long>(k + 1));
  }
  std::filesystem::create_directories(out);
  means.write(out);
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::fprintf(stderr, "column_statistics MODEL TEXT_FILE OUT_DIR [WINDOWS=64] [WINDOW=512]\n");
    return 2;
  }
  try {
    const auto number = [&](int i, uint64_t otherwise) {
      return argc > i ? std::strtoull(argv[i], nullptr, 10) : otherwise;
    };
    hlwq::collect(argv[1], argv[2], argv[3], number(4, 64), std::max<uint64_t>(2, number(5, 512)));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "column_statistics: %s\n", e.what());
    return 1;
  }
}
