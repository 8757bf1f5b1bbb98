// A model's weights in GPU memory, and what runs on that GPU: one stream, one cuBLAS handle.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "cuda/attention.h"
#include "cuda/dense.h"
#include "cuda/linear.h"
#include "cuda/weight.h"
#include "model/model.h"

namespace hlwq::cuda {

/// A layer's experts (model/experts.h). gate_up: [experts][gate and up][hidden], down: [experts][hidden].
struct GpuExperts {
  GpuWeight router, gate_up, down;
  InputForms router_in, gate_up_in, down_in;
  const float *router_scale = nullptr, *per_expert_scale = nullptr, *pre_norm = nullptr, *post_norm = nullptr,
              *post_dense_norm = nullptr;
};

/// A layer's part of the per-layer embeddings (model/per_layer.h).
struct GpuPerLayer {
  GpuWeight gate, projection;
  InputForms gate_in, projection_in;
  const float* post_norm = nullptr;
};

struct GpuLayer {
  GpuWeight q, k, v, o, gate, up, down;
  InputForms attention_in, o_in, mlp_in, down_in;
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr,
              *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
  const float *input_norm = nullptr, *post_attention_norm = nullptr, *pre_mlp_norm = nullptr,
              *post_mlp_norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  float scalar = 1;
  std::optional<GpuExperts> experts;
  std::optional<GpuPerLayer> per_layer;
};

/// What there is of GPUs.
struct DeviceInfo {
  int index = 0;
  std::string name;
  uint64_t total_bytes = 0, free_bytes = 0;
};
/// Empty where there is no GPU or no driver.
std::vector<DeviceInfo> devices();
DeviceInfo device_info(int index);

class GpuModel {
 public:
  /// Copies the last `gpu_layers` layers and the head to GPU `device` (with all layers, the embedding too).
  /// `model` must outlive this. Throws Error(kUnsupported) for what the GPU has no kernels for, kOutOfMemory
  /// before anything is copied when the weights alone do not fit, kDevice.
  GpuModel(const Model& model, int device, uint64_t gpu_layers, const Progress& progress = {});
  ~GpuModel();
  GpuModel(const GpuModel&) = delete;

  /// Bytes of the weights that such a GpuModel holds.
  static uint64_t weight_bytes(const Model& model, uint64_t gpu_layers);
  /// Says why `model` cannot run on a GPU at all; empty when it can.
  static std::string unsupported(const Model& model);

  const Model& model() const { return model_; }
  /// The layers that run here, with the numbers of the model's less first_layer().
  const ModelSpec& spec() const { return spec_; }
  uint64_t first_layer() const { return first_layer_; }
  const std::vector<GpuLayer>& layers() const { return layers_; }
  const GpuWeight& embedding() const { return embedding_; }
  const GpuWeight& lm_head() const { return lm_head_; }
  const InputForms& head_in() const { return head_in_; }
  const float* final_norm() const { return final_norm_; }
  /// Of per-layer embeddings; their table stays on the host, which reads a few rows of it a pass.
  const GpuWeight& per_layer_projection() const { return per_layer_projection_; }
  const InputForms& per_layer_in() const { return per_layer_in_; }
  const float* per_layer_norm() const { return per_layer_norm_; }
  const float* inv_freq(uint64_t rope) const { return inv_freq_[rope]; }

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  Cublas& cublas() const { return *cublas_; }
  const LinearResources& resources() const { return resources_; }
  uint64_t bytes() const { return bytes_; }
  /// Makes this GPU the calling thread's.
  void use() const { check(cudaSetDevice(device_), "choosing the GPU"); }

 private:
  class Upload;

  const Model& model_;
  int device_;
  uint64_t first_layer_ = 0, bytes_ = 0;
  ModelSpec spec_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Cublas> cublas_;
  LinearResources resources_;
  Buffer codes_, floats_;
  std::vector<DenseMatrix> dense_;
  std::vector<GpuLayer> layers_;
  GpuWeight embedding_, lm_head_;
  InputForms head_in_;
  const float *final_norm_ = nullptr, *per_layer_norm_ = nullptr;
  GpuWeight per_layer_projection_;
  InputForms per_layer_in_;
  std::vector<const float*> inv_freq_;
};

}  // namespace hlwq::cuda
