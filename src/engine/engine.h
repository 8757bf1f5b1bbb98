// The machine's side of running a model: threads and kernels, and a GPU where there is one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "model/model.h"
#include "model/sequence.h"
#include "ops/linear.h"

namespace hlwq {

namespace cuda {
class GpuModel;
class CudaVisionTower;
}  // namespace cuda

struct EngineOptions {
  int threads = 0;       ///< <= 0: every processor this process may use
  std::string isa = {};  ///< force "scalar", "avx2" or "avx512"; empty: the fastest that runs
  /// "cpu", "cuda" or "cuda:N"; empty: the first GPU where there is one that the model can use, else the
  /// processor.
  std::string device = {};
  int64_t gpu_layers = -1;  ///< layers that run on the GPU, the last ones; < 0: as many as its memory holds
  /// Told why something runs where it does, when that is not what was asked for or hoped for.
  std::function<void(const std::string&)> note = {};
};

/// Owns the thread pool and what is loaded on the GPU; used by one thread at a time.
class Engine {
 public:
  /// Throws Error(kInvalidArgument | kUnsupported) for an isa that is unknown or does not run here, and for a
  /// device that is no name of one; Error(kDevice) for a GPU number that there is not.
  explicit Engine(const EngineOptions& options = {});
  ~Engine();
  Compute compute() { return {kernels_, &pool_, nullptr}; }
  /// "cpu/avx2"; "cuda:0 NVIDIA ..." once a model has been loaded there.
  std::string backend() const;
  int threads() const { return pool_.threads(); }
  /// Whether models go to a GPU as far as they can.
  bool uses_gpu() const { return gpu_ >= 0 && options_.gpu_layers != 0; }

  /// A sequence of `model`, which must outlive it and this, on the device that fits: as CpuSequence and
  /// GpuSequence. The first one loads the weights to the GPU, which reports to `progress`. `image_tokens`: of
  /// the largest image that encode_image() will get, for which GPU memory is left; 0: none.
  std::unique_ptr<Sequence> sequence(const Model& model, uint64_t context, uint64_t max_chunk,
                                     const KvSettings& kv, uint64_t image_tokens = 0,
                                     const Progress& progress = {});
  /// VisionTower::encode, on the GPU once a sequence of `model` is there and memory for the encoder is left,
  /// else on the processor.
  std::vector<float> encode_image(const Model& model, const ImagePatches& patches,
                                  const Progress& progress = {});
  /// The context that a session gets unless it asks for one: the model's own, halved until its cache fits a
  /// quarter of the machine's memory, or the GPU's beside the weights.
  uint64_t default_context(const Model& model, uint64_t chunk, const KvSettings& kv,
                           uint64_t image_tokens = 0);

 private:
  void note(const std::string& text) const;
  /// How many layers go to the GPU; 0: none.
  uint64_t gpu_layers(const Model& model, uint64_t context, uint64_t max_chunk, const KvSettings& kv,
                      uint64_t image_tokens);

  EngineOptions options_;
  const Kernels* kernels_;
  ThreadPool pool_;
  int gpu_ = -1;  // < 0: none is to be used
  std::string gpu_name_;
  std::shared_ptr<const cuda::GpuModel> loaded_;         // the model that is on the GPU
  std::shared_ptr<const cuda::CudaVisionTower> vision_;  // its image encoder, from the first image on
  bool images_on_cpu_ = false;                           // the encoder did not fit beside it
};

/// Physical memory of this machine in bytes.
uint64_t physical_memory();

}  // namespace hlwq
