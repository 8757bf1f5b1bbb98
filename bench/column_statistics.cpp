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
#include "engine/calibration.h"
#include "engine/engine.h"
#include "io/safetensors_writer.h"
#include "model/model.h"

namespace hlwq {
namespace {

class ColumnMeans : public LinearObserver {
 public:
  void observe(std::span<const LinearJob> jobs) override {
    for (const LinearJob& job : jobs) add(job);
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
  void add(const LinearJob& job) {
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

  struct Sum {
    std::vector<double> squares;
    uint64_t tokens = 0;
  };
  std::map<std::string, Sum> sums_;
};

void collect(const std::string& path, const std::string& text, const std::filesystem::path& out,
             uint64_t tokens) {
  const auto model = Model::load(path);
  const CalibrationOptions options;
  const CalibrationWindows windows = plain_windows(
      *model, text == "builtin" ? builtin_calibration_text() : read_file(text), options.window, tokens);
  Engine engine;
  ColumnMeans means;
  Compute compute = engine.compute();
  compute.observer = &means;
  KvCache cache(model->spec(), options.window, options.window, KvSettings::f32());
  Workspace workspace;
  for (size_t k = 0; k < windows.size(); ++k) {
    cache.truncate(0);
    model->transformer().forward(compute, cache, windows[k], workspace);
    std::fprintf(stderr, "window %zu of %zu\n", k + 1, windows.size());
  }
  std::filesystem::create_directories(out);
  means.write(out);
}

}  // namespace
}  // namespace hlwq

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "column_statistics MODEL TEXT_FILE|builtin OUT_DIR [TOKENS=32768]\n");
    return 2;
  }
  try {
    hlwq::collect(argv[1], argv[2], argv[3], argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 32768);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "column_statistics: %s\n", e.what());
    return 1;
  }
}
