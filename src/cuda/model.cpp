#include "cuda/model.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>

#include "base/checked.h"
#include "cuda/expert_routing.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint64_t kPiece = 32 << 20;  // of a copy through page-locked memory

uint64_t aligned(uint64_t bytes) { return ceil_div(bytes, kAlignment) * kAlignment; }

InputForms forms_of(std::initializer_list<const GpuWeight*> readers) {
  InputForms f;
  for (const GpuWeight* w : readers) {
    if (!*w) continue;
    if (w->quantized()) {
      if (f.block == 0) f.block = w->hlwq.format.block;
      f.lags = std::max(f.lags, w->hlwq.format.lags);
    }
    f.floats |= !w->quantized() || w->hlwq.format.block != f.block;
  }
  return f;
}

}  // namespace

std::vector<DeviceInfo> devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  std::vector<DeviceInfo> list;
  for (int i = 0; i < count; ++i) list.push_back(device_info(i));
  return list;
}

DeviceInfo device_info(int index) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) cudaGetLastError(), count = 0;
  if (index < 0 || index >= count)
    throw Error(ErrorCode::kDevice, "there is no GPU cuda:" + std::to_string(index) + " on this machine (" +
                                        std::to_string(count) + " found); use --device cpu");
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, index), "asking for the GPU's properties");
  int before = 0;
  check(cudaGetDevice(&before), "asking for the GPU");
  check(cudaSetDevice(index), "choosing the GPU");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for the GPU's memory");
  check(cudaSetDevice(before), "choosing the GPU");
  return {index, prop.name, total, free};
}

/// Gathers what is to be copied, then allocates once and copies through two page-locked buffers, so that
/// reading the file and the bus overlap.
class GpuModel::Upload {
 public:
  // Counts a quantised matrix, or keeps a plain one for later.
  void add(const Weight& weight, GpuWeight& to) {
    if (!weight) return;
    add(std::span(&weight, 1), to);
  }
  // Matrices that follow each other in the file, as one.
  void add(std::span<const Weight> stack, GpuWeight& to) {
    if (stack[0].dense) {
      dense_.push_back({{stack.begin(), stack.end()}, &to});
      return;
    }
    HlwqMatrix m = *stack[0].hlwq;
    m.rows = 0;
    for (const Weight& w : stack) m.rows += w.rows();
    to.hlwq = {m.format, m.rows, m.cols, nullptr, nullptr, m.tables, m.codebook};
    put(m.codes, m.rows * m.format.row_bytes(m.cols),
        [&to](std::byte* p) { to.hlwq.codes = reinterpret_cast<uint8_t*>(p); });
    put(m.norms, m.rows * m.format.row_blocks(m.cols) * 2,
        [&to](std::byte* p) { to.hlwq.norms = reinterpret_cast<uint16_t*>(p); });
  }
  void add(const std::vector<float>& values, const float*& to) {
    if (values.empty()) return;
    put(values.data(), values.size() * sizeof(float),
        [&to](std::byte* p) { to = reinterpret_cast<float*>(p); });
  }
  uint64_t bytes() const {
    uint64_t total = bytes_;
    for (const auto& [stack, to] : dense_) total += DenseMatrix::device_bytes(stack);
    return total;
  }

  Buffer copy(cudaStream_t stream, std::vector<DenseMatrix>& dense, const Progress& progress) {
    Buffer memory(bytes_, "the model's weights");
    PinnedBuffer staging[2] = {{kPiece, "copying weights"}, {kPiece, "copying weights"}};
    cudaEvent_t free[2];
    for (cudaEvent_t& e : free)
      check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "making an event");
    uint64_t at = 0, done = 0;
    int turn = 0;
    try {
      for (const Piece& piece : pieces_) {
        std::byte* to = memory.as<std::byte>() + at;
        piece.place(to);
        for (uint64_t i = 0; i < piece.bytes; i += kPiece) {
          progress.step(done, bytes_, "copying weights to the GPU");
          const uint64_t n = std::min(kPiece, piece.bytes - i);
          check(cudaEventSynchronize(free[turn]), "copying weights");
          std::memcpy(staging[turn].as<std::byte>(), static_cast<const std::byte*>(piece.from) + i, n);
          check(cudaMemcpyAsync(to + i, staging[turn].as<std::byte>(), n, cudaMemcpyHostToDevice, stream),
                "copying weights");
          check(cudaEventRecord(free[turn], stream), "copying weights");
          turn ^= 1;
          done += n;
        }
        at += aligned(piece.bytes);
      }
      check(cudaStreamSynchronize(stream), "copying weights");
    } catch (...) {
      for (cudaEvent_t e : free) cudaEventDestroy(e);
      throw;
    }
    for (cudaEvent_t e : free) cudaEventDestroy(e);
    for (auto& [stack, to] : dense_) {
      dense.emplace_back(stack, "a weight that is not quantised");
      to->dense = dense.back().view();
    }
    progress.step(bytes_, bytes_, "copying weights to the GPU");
    return memory;
  }

 private:
  struct Piece {
    const void* from;
    uint64_t bytes;
    std::function<void(std::byte*)> place;
  };
  void put(const void* from, uint64_t bytes, std::function<void(std::byte*)> place) {
    pieces_.push_back({from, bytes, std::move(place)});
    bytes_ = checked_add(bytes_, aligned(bytes), "the model's weights");
  }
  std::deque<Piece> pieces_;
  std::deque<std::pair<std::vector<Weight>, GpuWeight*>> dense_;
  uint64_t bytes_ = 0;
};

std::string GpuModel::unsupported(const Model& model) {
  const ModelSpec& spec = model.spec();
  if (spec.experts > kMaxExperts)
    return "the GPU takes at most " + std::to_string(kMaxExperts) + " experts, this model has " +
           std::to_string(spec.experts);
  for (const Transformer::Layer& l : model.transformer().layers())
    if (l.experts)
      for (const Weight& w : {l.experts->weights().gate_up[0], l.experts->weights().down[0]})
        if (w.hlwq && !has_grouped_kernel(w.hlwq->format))
          return "the GPU has no kernel for experts in " + format_label(w.hlwq->format);
  return {};
}

GpuModel::GpuModel(const Model& model, int device, uint64_t gpu_layers, const Progress& progress)
    : model_(model), device_(device), spec_(model.spec()) {
  if (const std::string why = unsupported(model); !why.empty())
    throw Error(ErrorCode::kUnsupported, why + "; use --device cpu");
  const Transformer& t = model.transformer();
  const uint64_t all = spec_.layers.size();
  first_layer_ = all - std::min(gpu_layers, all);
  spec_.layers.erase(spec_.layers.begin(), spec_.layers.begin() + static_cast<std::ptrdiff_t>(first_layer_));
  for (LayerSpec& l : spec_.layers)
    if (l.kv_from >= 0) {
      l.kv_from -= static_cast<int64_t>(first_layer_);
      if (l.kv_from < 0)
        throw Error(ErrorCode::kUnsupported,
                    "this model's last layers read the keys and values of an earlier one: all of its " +
                        std::to_string(all) + " layers must be on the GPU, or none");
    }
  if (first_layer_ > 0 && spec_.per_layer_width)
    throw Error(ErrorCode::kUnsupported, "this model has per-layer embeddings: all of its " +
                                             std::to_string(all) + " layers must be on the GPU, or none");
  const DeviceInfo info = device_info(device);
  use();
  Upload upload;
  layers_.resize(spec_.layers.size());
  for (uint64_t i = 0; i < layers_.size(); ++i) {
    const Transformer::Layer& from = t.layers()[first_layer_ + i];
    GpuLayer& to = layers_[i];
    for (auto [w, g] : {std::pair{&from.q, &to.q},
                        {&from.k, &to.k},
                        {&from.v, &to.v},
                        {&from.o, &to.o},
                        {&from.gate, &to.gate},
                        {&from.up, &to.up},
                        {&from.down, &to.down}})
      upload.add(*w, *g);
    upload.add(from.q_bias, to.q_bias);
    upload.add(from.k_bias, to.k_bias);
    upload.add(from.v_bias, to.v_bias);
    upload.add(from.o_bias, to.o_bias);
    upload.add(from.gate_bias, to.gate_bias);
    upload.add(from.up_bias, to.up_bias);
    upload.add(from.down_bias, to.down_bias);
    upload.add(from.input_norm, to.input_norm);
    upload.add(from.post_attention_norm, to.post_attention_norm);
    upload.add(from.pre_mlp_norm, to.pre_mlp_norm);
    upload.add(from.post_mlp_norm, to.post_mlp_norm);
    upload.add(from.q_norm, to.q_norm);
    upload.add(from.k_norm, to.k_norm);
    to.scalar = from.scalar;
    if (from.experts) {
      const ExpertWeights& w = from.experts->weights();
      GpuExperts& e = to.experts.emplace();
      upload.add(w.router, e.router);
      upload.add(w.gate_up, e.gate_up);
      upload.add(w.down, e.down);
      upload.add(w.router_scale, e.router_scale);
      upload.add(w.per_expert_scale, e.per_expert_scale);
      upload.add(w.pre_norm, e.pre_norm);
      upload.add(w.post_norm, e.post_norm);
      upload.add(w.post_dense_norm, e.post_dense_norm);
    }
    if (t.per_layer()) {
      const PerLayerWeights::Layer& w = t.per_layer()->weights().layers[first_layer_ + i];
      GpuPerLayer& p = to.per_layer.emplace();
      upload.add(w.gate, p.gate);
      upload.add(w.projection, p.projection);
      upload.add(w.post_norm, p.post_norm);
    }
  }
  if (t.per_layer()) {
    upload.add(t.per_layer()->weights().projection, per_layer_projection_);
    upload.add(t.per_layer()->weights().norm, per_layer_norm_);
  }
  upload.add(t.lm_head(), lm_head_);
  const bool tied = t.embedding().hlwq == t.lm_head().hlwq && t.embedding().dense == t.lm_head().dense;
  if (first_layer_ == 0 && !tied) upload.add(t.embedding(), embedding_);
  upload.add(t.final_norm(), final_norm_);
  inv_freq_.resize(spec_.ropes.size());
  for (uint64_t r = 0; r < spec_.ropes.size(); ++r) upload.add(spec_.ropes[r].inv_freq, inv_freq_[r]);

  bytes_ = upload.bytes();
  if (bytes_ > info.free_bytes)
    throw Error(ErrorCode::kOutOfMemory,
                "the weights of " + std::to_string(layers_.size()) + " layers take " +
                    std::to_string(bytes_) + " bytes, and " + info.name + " has " +
                    std::to_string(info.free_bytes) +
                    " free; put fewer layers on the GPU (--gpu-layers) or quantise to fewer bits");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  try {
    cublas_ = std::make_unique<Cublas>();
    resources_ = linear_resources(device);
    resources_.cublas = cublas_.get();
    codes_ = upload.copy(stream_, dense_, progress);
  } catch (...) {
    cudaStreamDestroy(stream_);
    throw;
  }
  if (first_layer_ == 0 && tied) embedding_ = lm_head_;
  for (GpuLayer& l : layers_) {
    l.attention_in = forms_of({&l.q, &l.k, &l.v});
    l.o_in = forms_of({&l.o});
    l.mlp_in = forms_of({&l.gate, &l.up});
    l.down_in = forms_of({&l.down});
    if (l.experts) {
      l.experts->router_in = forms_of({&l.experts->router});
      l.experts->gate_up_in = forms_of({&l.experts->gate_up});
      l.experts->down_in = forms_of({&l.experts->down});
    }
    if (l.per_layer) {
      l.per_layer->gate_in = forms_of({&l.per_layer->gate});
      l.per_layer->projection_in = forms_of({&l.per_layer->projection});
    }
  }
  per_layer_in_ = forms_of({&per_layer_projection_});
  head_in_ = forms_of({&lm_head_});
}

GpuModel::~GpuModel() {
  cudaSetDevice(device_);
  cublas_.reset();
  if (stream_) cudaStreamDestroy(stream_);
}

uint64_t GpuModel::weight_bytes(const Model& model, uint64_t gpu_layers) {
  const Transformer& t = model.transformer();
  const uint64_t all = t.layers().size(), first = all - std::min(gpu_layers, all);
  Upload upload;
  std::deque<GpuWeight> weights;
  for (uint64_t i = first; i < all; ++i) {
    const Transformer::Layer& l = t.layers()[i];
    for (const Weight* w : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
      upload.add(*w, weights.emplace_back());
    if (l.experts) {
      upload.add(l.experts->weights().router, weights.emplace_back());
      upload.add(l.experts->weights().gate_up, weights.emplace_back());
      upload.add(l.experts->weights().down, weights.emplace_back());
    }
    if (t.per_layer())
      for (const Weight* w :
           {&t.per_layer()->weights().layers[i].gate, &t.per_layer()->weights().layers[i].projection})
        upload.add(*w, weights.emplace_back());
  }
  if (t.per_layer()) upload.add(t.per_layer()->weights().projection, weights.emplace_back());
  upload.add(t.lm_head(), weights.emplace_back());
  const bool tied = t.embedding().hlwq == t.lm_head().hlwq && t.embedding().dense == t.lm_head().dense;
  if (first == 0 && !tied) upload.add(t.embedding(), weights.emplace_back());
  return upload.bytes();
}

}  // namespace hlwq::cuda
