#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>

#ifdef HLWQ_CUDA
#include "cuda/sequence.h"
#include "cuda/vision.h"
#endif

namespace hlwq {
namespace {

/// GPU number of "cuda" or "cuda:N"; -1 for "cpu".
int device_number(const std::string& device) {
  if (device == "cpu") return -1;
  if (device.empty() || device == "cuda") return 0;
  int n = -1;
  if (device.starts_with("cuda:")) {
    const char *begin = device.data() + 5, *end = device.data() + device.size();
    const auto [stop, error] = std::from_chars(begin, end, n);
    if (error == std::errc() && stop == end && n >= 0) return n;
  }
  throw Error(ErrorCode::kInvalidArgument, "'" + device + "' is no device; there are cpu, cuda and cuda:N");
}

/// Memory of a GPU that plans leave alone: what its runtime allocates for itself while kernels load.
constexpr uint64_t kGpuMargin = 300'000'000;

}  // namespace

Engine::Engine(const EngineOptions& options)
    : options_(options), kernels_(&select_kernels(detect_cpu(), options.isa)), pool_(options.threads) {
  const int number = device_number(options.device);
  if (number < 0) return;
#ifdef HLWQ_CUDA
  const auto gpus = cuda::devices();
  if (!gpus.empty()) {
    const cuda::DeviceInfo info = cuda::device_info(number);
    gpu_ = number;
    gpu_name_ = "cuda:" + std::to_string(number) + " " + info.name;
  } else if (!options.device.empty()) {
    note("no GPU was found (is its driver loaded?): running on the processor");
  }
#else
  if (!options.device.empty())
    note("this build has no CUDA backend (it needs nvcc when it is built): running on the processor");
#endif
}

Engine::~Engine() = default;

void Engine::note(const std::string& text) const {
  if (options_.note) options_.note(text);
}

std::string Engine::backend() const {
  const std::string cpu = "cpu/" + std::string(kernels_->name);
#ifdef HLWQ_CUDA
  if (loaded_ && loaded_->first_layer() > 0)
    return gpu_name_ + ", " + std::to_string(loaded_->layers().size()) + " of " +
           std::to_string(loaded_->first_layer() + loaded_->layers().size()) + " layers; " + cpu;
#endif
  return gpu_ >= 0 ? gpu_name_ : cpu;
}

#ifdef HLWQ_CUDA
namespace {

// The image encoder's weights and its work on one image, where it will be on the GPU.
uint64_t vision_bytes(const Model& model, uint64_t image_tokens) {
  if (image_tokens == 0 || !model.vision() || !cuda::CudaVisionTower::supports(model.vision()->spec()))
    return 0;
  return cuda::CudaVisionTower::device_bytes(*model.vision()) +
         cuda::CudaVisionTower::scratch_bytes(model.vision()->spec(), model.spec().hidden, image_tokens);
}

}  // namespace

uint64_t Engine::gpu_layers(const Model& model, uint64_t context, uint64_t max_chunk, const KvSettings& kv,
                            uint64_t image_tokens) {
  if (gpu_ < 0 || options_.gpu_layers == 0) return 0;
  if (const std::string why = cuda::GpuModel::unsupported(model); !why.empty()) {
    note(why + ": running on the processor");
    return 0;
  }
  const uint64_t all = model.spec().layers.size();
  if (options_.gpu_layers > 0) return std::min<uint64_t>(static_cast<uint64_t>(options_.gpu_layers), all);
  const auto info = cuda::device_info(gpu_);
  const int multiprocessors = cuda::linear_resources(gpu_).multiprocessors;
  const uint64_t vision = vision_bytes(model, image_tokens);
  const auto fits = [&](uint64_t layers, uint64_t extra) {
    ModelSpec spec = model.spec();
    spec.layers.erase(spec.layers.begin(), spec.layers.end() - static_cast<std::ptrdiff_t>(layers));
    const bool together =
        spec.per_layer_width || std::any_of(spec.layers.begin(), spec.layers.end(),
                                            [](const LayerSpec& l) { return l.kv_from >= 0; });
    if (together && layers < all) return false;  // layers that read each other's cache stay together
    return cuda::GpuModel::weight_bytes(model, layers) +
               cuda::GpuSequence::device_bytes(spec, context, max_chunk, kv, multiprocessors) + kGpuMargin +
               extra <=
           info.free_bytes;
  };
  // Every token passes through the layers, and an image but once through its encoder: if only one of them can
  // be on the GPU whole, it is the layers.
  uint64_t layers = all;
  if (!fits(all, 0))
    while (layers > 0 && !fits(layers, vision)) --layers;
  const std::string free = std::to_string(info.free_bytes / 1000000) + " MB";
  if (layers == 0)
    note(info.name + " has " + free + " free, too little for any layer of this model with a context of " +
         std::to_string(context) + " tokens: running on the processor");
  else if (layers < all)
    note(std::to_string(layers) + " of " + std::to_string(all) + " layers fit into the " + free +
         " that are free on " + info.name +
         ", the others run on the processor; a shorter context (--ctx), --kv-bits or fewer bits a weight "
         "make room");
  return layers;
}
#endif

std::unique_ptr<Sequence> Engine::sequence(const Model& model, uint64_t context, uint64_t max_chunk,
                                           const KvSettings& kv, uint64_t image_tokens,
                                           const Progress& progress) {
#ifdef HLWQ_CUDA
  if (loaded_ && &loaded_->model() != &model) {
    vision_.reset();
    loaded_.reset();
    images_on_cpu_ = false;
  }
  if (!loaded_)
    if (const uint64_t layers = gpu_layers(model, context, max_chunk, kv, image_tokens); layers > 0)
      loaded_ = std::make_shared<const cuda::GpuModel>(model, gpu_, layers, progress);
  if (loaded_) return std::make_unique<cuda::GpuSequence>(loaded_, compute(), context, max_chunk, kv);
#else
  (void)image_tokens;
  (void)progress;
#endif
  return std::make_unique<CpuSequence>(model.transformer(), compute(), context, max_chunk, kv);
}

std::vector<float> Engine::encode_image(const Model& model, const ImagePatches& patches,
                                        const Progress& progress) {
  const VisionTower& tower = model.require_vision();
#ifdef HLWQ_CUDA
  if (loaded_ && &loaded_->model() == &model && !images_on_cpu_) {
    try {
      loaded_->use();
      if (!vision_) vision_ = std::make_shared<const cuda::CudaVisionTower>(tower);
      return vision_->encode(loaded_->cublas(), patches, loaded_->stream(), progress);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kOutOfMemory && e.code() != ErrorCode::kUnsupported) throw;
      vision_.reset();
      images_on_cpu_ = true;
      note("images are encoded on the processor: " + std::string(e.what()));
    }
  }
#endif
  return tower.encode(compute(), patches, progress);
}

uint64_t Engine::default_context(const Model& model, uint64_t chunk, const KvSettings& kv,
                                 uint64_t image_tokens) {
  const ModelSpec& spec = model.spec();
  uint64_t context = spec.max_context;
#ifdef HLWQ_CUDA
  if (gpu_ >= 0 && options_.gpu_layers < 0 && cuda::GpuModel::unsupported(model).empty()) {
    uint64_t weights =
        loaded_ && &loaded_->model() == &model ? 0 : cuda::GpuModel::weight_bytes(model, spec.layers.size());
    if (!vision_) weights += vision_bytes(model, image_tokens);
    const uint64_t free = cuda::device_info(gpu_).free_bytes;
    const int multiprocessors = cuda::linear_resources(gpu_).multiprocessors;
    for (uint64_t c = context; c >= 4096; c /= 2)
      if (weights + cuda::GpuSequence::device_bytes(spec, c, std::min(chunk, c), kv, multiprocessors) +
              kGpuMargin <=
          free)
        return c;
  }
#else
  (void)image_tokens;
#endif
  const uint64_t budget = physical_memory() / 4;
  while (context > 1024 && KvCache::bytes(spec, context, chunk, kv) > budget) context /= 2;
  return context;
}

uint64_t physical_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 0;
}

}  // namespace hlwq
