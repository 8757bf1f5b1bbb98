// Speed of the image encoder on the GPU, at the size of the 31B's, with random weights; JSON lines: whole
// images of the usual and of the largest size, the steps of a layer, and products with plain matrices of the
// text model.
//
//   gpu_vision_bench
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>

#include "base/half.h"
#include "cuda/vision.h"
#include "cuda/vision_attention.h"
#include "io/model_source.h"
#include "io/tensor_source.h"
#include "model/config_reader.h"
#include "model/tensor_list.h"

namespace {

using namespace hlwq;
using namespace hlwq::cuda;

/// All tensors of the encoder, cut from one list of random numbers.
class RandomWeights : public TensorSource {
 public:
  RandomWeights(const OrderedJson& config, const ModelSpec& spec) : random_(uint64_t{7} << 20) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    for (uint16_t& v : random_) v = float_to_bf16(normal(engine) / 34);  // sqrt(1152)
    ones_.assign(1 << 16, float_to_bf16(1));
    for (const ListedTensor& listed : list_tensors(config, spec).tensors) {
      if (listed.role != TensorRole::kVision) continue;
      Tensor t;
      t.name = listed.name;
      t.dtype = DType::kBF16;
      t.shape = listed.shape;
      const bool one = t.name.find("norm") != std::string::npos || t.name.find("std_") != std::string::npos;
      if (!one && t.elements() > random_.size()) {
        position_table_.assign(t.elements(), float_to_bf16(0.01f));
        t.data = std::as_bytes(std::span(position_table_));
      } else {
        t.data = std::as_bytes(std::span(one ? ones_ : random_)).first(t.elements() * 2);
      }
      tensors_.push_back(std::move(t));
    }
    build_index();
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor&) const override {}

 private:
  std::vector<Tensor> tensors_;
  std::vector<uint16_t> random_, ones_, position_table_;
};

struct Timer {
  Timer() {
    check(cudaStreamCreate(&stream), "stream");
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
  }
  // Median milliseconds of `fn`, ten repetitions between two events.
  double ms(const std::function<void()>& fn, int repeat = 10) {
    std::vector<float> all;
    for (int round = 0; round < 7; ++round) {
      cudaEventRecord(begin, stream);
      for (int i = 0; i < repeat; ++i) fn();
      cudaEventRecord(end, stream);
      check(cudaEventSynchronize(end), "waiting");
      float t;
      cudaEventElapsedTime(&t, begin, end);
      if (round >= 2) all.push_back(t / static_cast<float>(repeat));
    }
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
  }
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Buffer filled(uint64_t bytes, int value) {
  Buffer b(bytes, "bench");
  check(cudaMemset(b.as<void>(), value, bytes), "filling");
  return b;
}

// A matrix of zeros of that shape: its memory is what counts.
DenseView zeros(const Buffer& memory, uint64_t rows, uint64_t cols) {
  return {memory.as<void>(), DenseType::kBF16, rows, cols, cols};
}

void time_products(Timer& timer, Cublas& cublas) {
  struct Shape {
    const char* name;
    uint64_t rows, cols, tokens;
  };
  const Shape shapes[] = {{"text down", 5376, 21504, 1},        {"text gate+up", 43008, 5376, 1},
                          {"text gate+up", 43008, 5376, 4},     {"router", 128, 2816, 1},
                          {"vision qkv", 3456, 1152, 1260},     {"vision o", 1152, 1152, 1260},
                          {"vision gate+up", 8608, 1152, 1260}, {"vision down", 1152, 4304, 1260}};
  for (const Shape& s : shapes) {
    // Several copies, so that no weight is still in a cache when its turn comes again.
    const uint64_t bytes = s.rows * s.cols * 2,
                   copies = s.tokens > 4 ? 1 : std::max<uint64_t>(1, (300 << 20) / bytes);
    const Buffer w = filled(std::min<uint64_t>(copies, 64) * bytes, 0), x = filled(s.tokens * s.cols * 4, 0),
                 y = filled(s.tokens * s.rows * 4, 0);
    const Buffer split(dense_scratch_bytes(DenseType::kBF16, s.cols, s.tokens), "split");
    uint64_t turn = 0;
    const double ms = timer.ms([&] {
      DenseView view = zeros(w, s.rows, s.cols);
      view.data = w.as<std::byte>() + turn++ % std::min<uint64_t>(copies, 64) * bytes;
      dense_linear(cublas, view, x.as<float>(), s.tokens, y.as<float>(), split.as<void>(), timer.stream);
    });
    std::printf(
        "{\"product\": \"%s\", \"rows\": %lu, \"cols\": %lu, \"tokens\": %lu, \"us\": %.1f, \"GB/s\": %.0f, "
        "\"TFLOP/s of BF16\": %.1f}\n",
        s.name, s.rows, s.cols, s.tokens, ms * 1e3, bytes / ms / 1e6,
        (s.tokens > 4 ? 2 : 1) * 2.0 * s.rows * s.cols * s.tokens / ms / 1e9);
  }
}

void time_steps(Timer& timer, const VisionSpec& spec, uint64_t n) {
  const uint64_t width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim, q = spec.heads * spec.head_dim;
  const Buffer memory(VisionHeads::bytes(spec, n), "heads"), out(n * q * 4, "out"),
      qkv = filled(n * width * 4, 0x3c), norm = filled(spec.head_dim * 4, 0x3c),
      turn = filled(n * spec.head_dim * 4, 0x3c);
  const VisionHeads heads(spec, n, memory.as<void>());
  const float* at = qkv.as<float>();
  const auto store = [&] {
    heads.store({at, width, {}}, {at + q, width, {}}, {at + q + spec.kv_heads * spec.head_dim, width, {}},
                norm.as<float>(), norm.as<float>(), turn.as<float>(), 60, 0, n, timer.stream);
  };
  const double store_ms = timer.ms(store);
  const double attend_ms = timer.ms([&] { heads.attend({}, out.as<float>(), timer.stream); });
  const Buffer inner = filled(n * 2 * spec.intermediate * 4, 0x3c), y(n * spec.intermediate * 4, "y");
  const ClippedOutput gate{inner.as<float>(), 2 * spec.intermediate, {}},
      up{inner.as<float>() + spec.intermediate, 2 * spec.intermediate, {}};
  const double gelu_ms =
      timer.ms([&] { gelu_gate(gate, up, n, spec.intermediate, {}, y.as<float>(), timer.stream); });
  const Buffer weight = filled(spec.hidden * 4, 0x3c);
  const double norm_ms = timer.ms([&] {
    norm_patches(inner.as<float>(), n, spec.hidden, weight.as<float>(), 1e-6f, {}, y.as<float>(),
                 timer.stream);
  });
  const double flop = 4.0 * static_cast<double>(n) * n * q;
  std::printf(
      "{\"steps of\": %lu, \"heads_us\": %.1f, \"attention_us\": %.1f, \"attention_TFLOP/s\": %.1f, "
      "\"gelu_us\": %.1f, \"norm_us\": %.1f}\n",
      n, store_ms * 1e3, attend_ms * 1e3, flop / attend_ms / 1e9, gelu_ms * 1e3, norm_ms * 1e3);
}

void run() {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("{\"device\": \"%s\"}\n", device.name);
  OrderedJson config;
  config["vision_config"] = {{"model_type", "gemma4_vision"},
                             {"hidden_size", 1152},
                             {"intermediate_size", 4304},
                             {"num_hidden_layers", 27},
                             {"num_attention_heads", 16},
                             {"num_key_value_heads", 16},
                             {"head_dim", 72},
                             {"pooling_kernel_size", 3},
                             {"standardize", true}};
  ModelSpec spec;
  spec.hidden = 5376;
  read_gemma4_vision(config, spec);
  ModelSource source;
  source.config = config;
  source.tensors = std::make_unique<RandomWeights>(config, spec);
  WeightStore weights(source);
  const VisionTower host(*spec.vision, spec.hidden, weights);
  Timer timer;
  Cublas cublas;
  const auto start = std::chrono::steady_clock::now();
  const CudaVisionTower tower(host);
  check(cudaDeviceSynchronize(), "copying");
  std::printf("{\"weights_bytes\": %lu, \"upload_s\": %.2f}\n", tower.weight_bytes(), seconds_since(start));
  for (const auto& [cols, rows] : {std::pair<uint64_t, uint64_t>{60, 42}, {105, 96}}) {
    ImagePatches patches{cols, rows, tower.host().patch_shape(), {}};
    patches.pixels.resize(patches.patches() * 768);
    for (size_t i = 0; i < patches.pixels.size(); ++i)
      patches.pixels[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
    std::vector<double> ms;
    double sum = 0;
    for (int i = 0; i < 6; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      sum = 0;
      for (float v : tower.encode(cublas, patches, timer.stream)) sum += v;
      ms.push_back(seconds_since(begin) * 1e3);
    }
    const double first = ms[0];
    std::sort(ms.begin(), ms.end());
    std::printf(
        "{\"image\": \"%lux%lu\", \"tokens\": %lu, \"ms\": %.1f, \"first_ms\": %.1f, \"scratch_bytes\": %lu, "
        "\"finite\": %s}\n",
        cols, rows, patches.tokens(), ms[ms.size() / 2], first, tower.scratch_bytes(patches.tokens()),
        std::isfinite(sum) ? "true" : "false");
    time_steps(timer, *spec.vision, patches.patches());
  }
  time_products(timer, cublas);
}

}  // namespace

int main() {
  try {
    run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "vision_bench: %s\n", e.what());
    return 1;
  }
}
