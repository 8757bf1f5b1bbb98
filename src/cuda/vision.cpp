#include "cuda/vision.h"

#include <algorithm>

#include "base/checked.h"
#include "cuda/vision_attention.h"

namespace hlwq::cuda {
namespace {

// Patches that go through the linears at once: enough to fill a large GPU, few enough that the wide inner
// activations of a large image stay small.
constexpr uint64_t kChunk = 1280;
constexpr uint64_t kAlignment = 256;  // of what lies in the scratch, bytes

// Images are cut into chunks of nearly the same size.
uint64_t chunk_of(uint64_t patches) { return ceil_div(patches, ceil_div(patches, kChunk)); }

ClipRange input_range(const VisionLinear& l) {
  return l.clipped ? ClipRange{l.input_min, l.input_max} : ClipRange{};
}
ClipRange output_range(const VisionLinear& l) {
  return l.clipped ? ClipRange{l.output_min, l.output_max} : ClipRange{};
}

// Hands out parts of a piece of memory, or only counts them.
class Places {
 public:
  explicit Places(std::byte* base) : base_(base) {}
  template <typename T = float>
  T* take(uint64_t n) {
    const uint64_t at = used_;
    used_ += ceil_div(n * sizeof(T), kAlignment) * kAlignment;
    most_ = std::max(most_, used_);
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  uint64_t used() const { return used_; }
  uint64_t most() const { return most_; }
  /// What is taken next lies where the memory from `used` on was.
  void back_to(uint64_t used) { used_ = used; }

 private:
  std::byte* base_;
  uint64_t used_ = 0, most_ = 0;
};

}  // namespace

class CudaVisionTower::Linears {
 public:
  Linears(std::initializer_list<const VisionLinear*> linears, const char* what) {
    std::vector<Weight> stack;
    for (auto l = linears.begin(); l != linears.end(); ++l) {
      const ClipRange range = input_range(**l);
      if (stack.empty()) groups_.push_back({.matrix = {}, .range = range, .first_row = rows_});
      parts_.push_back({groups_.size() - 1, rows_ - groups_.back().first_row, output_range(**l)});
      stack.push_back((*l)->weight);
      rows_ += (*l)->weight.rows();
      const bool last = l + 1 == linears.end();
      if (last || input_range(*l[1]).low != range.low || input_range(*l[1]).high != range.high) {
        groups_.back().matrix = DenseMatrix(stack, what);
        stack.clear();
      }
    }
  }

  uint64_t rows() const { return rows_; }
  uint64_t bytes() const {
    uint64_t n = 0;
    for (const Group& g : groups_) n += g.matrix.bytes();
    return n;
  }
  /// The range of the only input; of linears that cannot differ in it.
  ClipRange range() const { return groups_[0].range; }

  /// Runs all over `tokens` rows of input, `y` [tokens, rows()] in all. `make_input` returns the input,
  /// clamped to the range it is given; it is asked for once a group.
  template <typename MakeInput>
  void run(const Pass& pass, uint64_t tokens, MakeInput make_input, float* y, void* split) const {
    for (const Group& g : groups_)
      dense_linear(pass.cublas, g.matrix, make_input(g.range), tokens, y + tokens * g.first_row, split,
                   pass.stream);
  }
  /// What linear i left in `y`.
  ClippedOutput output(size_t i, uint64_t tokens, const float* y) const {
    const Part& p = parts_[i];
    const Group& g = groups_[p.group];
    return {.data = y + tokens * g.first_row + p.column, .stride = g.matrix.rows(), .range = p.range};
  }

 private:
  struct Group {
    DenseMatrix matrix;
    ClipRange range;
    uint64_t first_row;
  };
  struct Part {
    size_t group;
    uint64_t column;
    ClipRange range;
  };
  std::vector<Group> groups_;
  std::vector<Part> parts_;
  uint64_t rows_ = 0;
};

struct CudaVisionTower::Layer {
  Linears qkv, o, gate_up, down;
  const float *input_norm, *post_attention_norm, *pre_mlp_norm, *post_mlp_norm, *q_norm, *k_norm;
};

/// Where everything lies while an image is encoded. Parts that are never in use together share their place.
struct CudaVisionTower::Scratch {
  float *x, *rotations;
  void* split;
  // while patches become embeddings
  uint8_t* pixels;
  float *scaled, *by_column, *by_row;
  // in attention
  void* heads;
  float *attended, *qkv;
  // in the MLP
  float *gate_up, *inner;
  float *normed, *projected;  // in both, of a chunk
  // after the layers
  float *pooled, *pooled_normed, *soft;
  uint64_t bytes;

  Scratch(const VisionSpec& s, uint64_t text_hidden, uint64_t tokens, std::byte* base) {
    const uint64_t n = tokens * s.pooling * s.pooling, chunk = chunk_of(n), hidden = s.hidden;
    const uint64_t longest = tokens * s.pooling;  // side of a grid that is one soft token high
    const uint64_t pixels_each = 3 * s.patch * s.patch, attended_each = s.heads * s.head_dim;
    Places p(base);
    x = p.take(n * hidden);
    rotations = p.take(longest * (s.head_dim / 2));
    const auto split_of = [](uint64_t cols, uint64_t rows) {
      return dense_scratch_bytes(DenseType::kBF16, cols, rows);
    };
    split =
        p.take<std::byte>(std::max({split_of(pixels_each, chunk), split_of(hidden, std::max(chunk, tokens)),
                                    split_of(attended_each, chunk), split_of(s.intermediate, chunk)}));
    const uint64_t shared = p.used();
    pixels = p.take<uint8_t>(n * pixels_each);
    scaled = p.take(chunk * pixels_each);
    by_column = p.take(longest * hidden);
    by_row = p.take(longest * hidden);
    p.back_to(shared);
    normed = p.take(chunk * hidden);
    projected = p.take(chunk * hidden);
    const uint64_t block = p.used();
    heads = p.take<std::byte>(VisionHeads::bytes(s, n));
    attended = p.take(n * attended_each);
    qkv = p.take(chunk * (s.heads + 2 * s.kv_heads) * s.head_dim);
    p.back_to(block);
    gate_up = p.take(chunk * 2 * s.intermediate);
    inner = p.take(chunk * s.intermediate);
    p.back_to(shared);
    pooled = p.take(tokens * hidden);
    pooled_normed = p.take(tokens * hidden);
    soft = p.take(tokens * text_hidden);
    bytes = p.most();
  }
};

uint64_t CudaVisionTower::scratch_bytes(const VisionSpec& spec, uint64_t text_hidden, uint64_t tokens) {
  return tokens ? Scratch(spec, text_hidden, tokens, nullptr).bytes : 0;
}

bool CudaVisionTower::supports(const VisionSpec& spec) { return spec.head_dim <= kMaxVisionHead; }

uint64_t CudaVisionTower::device_bytes(const VisionTower& tower) {
  const VisionWeights& w = tower.weights();
  uint64_t total = (w.std_bias.size() + w.std_scale.size()) * sizeof(float);
  const auto add = [&](const Weight& m) { total += DenseMatrix::device_bytes({&m, 1}); };
  add(w.patch_projection);
  add(w.projection);
  for (const VisionLayer& l : w.layers) {
    for (const VisionLinear* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) add(m->weight);
    for (const auto* v :
         {&l.input_norm, &l.post_attention_norm, &l.pre_mlp_norm, &l.post_mlp_norm, &l.q_norm, &l.k_norm})
      total += v->size() * sizeof(float);
  }
  return total;
}

CudaVisionTower::CudaVisionTower(const VisionTower& tower) : tower_(tower) {
  const VisionWeights& w = tower.weights();
  VisionHeads::bytes(tower.spec(), 1);  // refuses heads that are too wide before anything is copied
  patch_projection_ = DenseMatrix(w.patch_projection, "the image encoder's patches");
  projection_ = DenseMatrix(w.projection, "the image encoder's projection");

  std::vector<const std::vector<float>*> all;
  for (const VisionLayer& l : w.layers)
    all.insert(all.end(), {&l.input_norm, &l.post_attention_norm, &l.pre_mlp_norm, &l.post_mlp_norm,
                           &l.q_norm, &l.k_norm});
  all.insert(all.end(), {&w.std_bias, &w.std_scale});
  std::vector<float> packed;
  std::vector<uint64_t> starts;
  for (const std::vector<float>* v : all) {
    starts.push_back(packed.size());
    packed.insert(packed.end(), v->begin(), v->end());
  }
  vectors_ = Buffer(packed.size() * sizeof(float), "the image encoder's norms");
  check(cudaMemcpy(vectors_.as<float>(), packed.data(), vectors_.bytes(), cudaMemcpyHostToDevice),
        "copying the image encoder's norms");
  check(cudaStreamSynchronize(nullptr), "copying the image encoder's norms");
  weight_bytes_ = vectors_.bytes() + patch_projection_.bytes() + projection_.bytes();

  size_t next = 0;
  const auto vector = [&] { return vectors_.as<float>() + starts[next++]; };
  for (const VisionLayer& l : w.layers) {
    Layer& layer = layers_.emplace_back(Layer{.qkv = {{&l.q, &l.k, &l.v}, "the image encoder's attention"},
                                              .o = {{&l.o}, "the image encoder's attention"},
                                              .gate_up = {{&l.gate, &l.up}, "the image encoder's MLP"},
                                              .down = {{&l.down}, "the image encoder's MLP"},
                                              .input_norm = vector(),
                                              .post_attention_norm = vector(),
                                              .pre_mlp_norm = vector(),
                                              .post_mlp_norm = vector(),
                                              .q_norm = vector(),
                                              .k_norm = vector()});
    weight_bytes_ += layer.qkv.bytes() + layer.o.bytes() + layer.gate_up.bytes() + layer.down.bytes();
  }
  if (tower.spec().standardize) {
    std_bias_ = vector();
    std_scale_ = vector();
  }
}

CudaVisionTower::~CudaVisionTower() = default;

void CudaVisionTower::embed(const Pass& pass) const {
  const VisionSpec& s = tower_.spec();
  const Scratch& b = pass.scratch;
  const ImagePatches& patches = pass.patches;
  const uint64_t n = patches.patches(), chunk = chunk_of(n), pixels = 3 * s.patch * s.patch;
  const auto copy = [&](void* to, const void* from, uint64_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, pass.stream),
          "copying an image to the GPU");
  };
  // Of the table of positions only the rows that this grid has go to the GPU.
  const float* positions = tower_.weights().positions.data();
  const std::vector<float> rotations = vision_rotations(s, std::max(patches.cols, patches.rows));
  copy(b.rotations, rotations.data(), rotations.size() * sizeof(float));
  copy(b.by_column, positions, patches.cols * s.hidden * sizeof(float));
  copy(b.by_row, positions + s.positions * s.hidden, patches.rows * s.hidden * sizeof(float));
  copy(b.pixels, patches.pixels.data(), patches.pixels.size());
  for (uint64_t first = 0; first < n; first += chunk) {
    const uint64_t rows = std::min(chunk, n - first);
    float* x = b.x + first * s.hidden;
    scale_pixels(b.pixels + first * pixels, rows * pixels, b.scaled, pass.stream);
    dense_linear(pass.cublas, patch_projection_, b.scaled, rows, x, b.split, pass.stream);
    add_positions(b.by_column, b.by_row, patches.cols, first, rows, s.hidden, x, pass.stream);
  }
}

void CudaVisionTower::attention_block(const Pass& pass, const Layer& w) const {
  const VisionSpec& s = tower_.spec();
  const Scratch& b = pass.scratch;
  const uint64_t n = pass.patches.patches(), chunk = chunk_of(n), hidden = s.hidden;
  const VisionHeads heads(s, n, b.heads);
  for (uint64_t first = 0; first < n; first += chunk) {
    const uint64_t rows = std::min(chunk, n - first);
    const auto normed = [&](ClipRange range) {
      norm_patches(b.x + first * hidden, rows, hidden, w.input_norm, s.norm_eps, range, b.normed,
                   pass.stream);
      return b.normed;
    };
    w.qkv.run(pass, rows, normed, b.qkv, b.split);
    heads.store(w.qkv.output(0, rows, b.qkv), w.qkv.output(1, rows, b.qkv), w.qkv.output(2, rows, b.qkv),
                w.q_norm, w.k_norm, b.rotations, pass.patches.cols, first, rows, pass.stream);
  }
  heads.attend(w.o.range(), b.attended, pass.stream);
  for (uint64_t first = 0; first < n; first += chunk) {
    const uint64_t rows = std::min(chunk, n - first);
    const auto attended = [&](ClipRange) { return b.attended + first * s.heads * s.head_dim; };
    w.o.run(pass, rows, attended, b.projected, b.split);
    add_normed_patches(w.o.output(0, rows, b.projected), rows, hidden, w.post_attention_norm, s.norm_eps,
                       b.x + first * hidden, pass.stream);
  }
}

void CudaVisionTower::mlp_block(const Pass& pass, const Layer& w) const {
  const VisionSpec& s = tower_.spec();
  const Scratch& b = pass.scratch;
  const uint64_t n = pass.patches.patches(), chunk = chunk_of(n), hidden = s.hidden;
  for (uint64_t first = 0; first < n; first += chunk) {
    const uint64_t rows = std::min(chunk, n - first);
    float* x = b.x + first * hidden;
    const auto normed = [&](ClipRange range) {
      norm_patches(x, rows, hidden, w.pre_mlp_norm, s.norm_eps, range, b.normed, pass.stream);
      return b.normed;
    };
    w.gate_up.run(pass, rows, normed, b.gate_up, b.split);
    const auto inner = [&](ClipRange range) {
      gelu_gate(w.gate_up.output(0, rows, b.gate_up), w.gate_up.output(1, rows, b.gate_up), rows,
                s.intermediate, range, b.inner, pass.stream);
      return b.inner;
    };
    w.down.run(pass, rows, inner, b.projected, b.split);
    add_normed_patches(w.down.output(0, rows, b.projected), rows, hidden, w.post_mlp_norm, s.norm_eps, x,
                       pass.stream);
  }
}

std::vector<float> CudaVisionTower::project(const Pass& pass, std::vector<float>* tower) const {
  const VisionSpec& s = tower_.spec();
  const Scratch& b = pass.scratch;
  const uint64_t tokens = pass.patches.tokens();
  pool_patches(b.x, pass.patches.cols, pass.patches.rows, s.pooling, s.hidden, std_bias_, std_scale_,
               b.pooled, pass.stream);
  norm_patches(b.pooled, tokens, s.hidden, nullptr, s.norm_eps, {}, b.pooled_normed, pass.stream);
  dense_linear(pass.cublas, projection_, b.pooled_normed, tokens, b.soft, b.split, pass.stream);
  const auto fetch = [&](const float* from, std::vector<float>& to) {
    check(cudaMemcpyAsync(to.data(), from, to.size() * sizeof(float), cudaMemcpyDeviceToHost, pass.stream),
          "copying soft tokens from the GPU");
  };
  std::vector<float> soft(tokens * tower_.text_hidden());
  fetch(b.soft, soft);
  if (tower) {
    tower->resize(tokens * s.hidden);
    fetch(b.pooled, *tower);
  }
  check(cudaStreamSynchronize(pass.stream), "encoding an image");
  return soft;
}

std::vector<float> CudaVisionTower::encode(Cublas& cublas, const ImagePatches& patches, cudaStream_t stream,
                                           const Progress& progress, std::vector<float>* tower) const {
  check_patches(tower_.spec(), patches);
  const uint64_t tokens = patches.tokens();
  const Buffer memory(scratch_bytes(tokens), "an image of " + std::to_string(tokens) + " tokens");
  const Scratch scratch(tower_.spec(), tower_.text_hidden(), tokens, memory.as<std::byte>());
  const Pass pass{cublas, stream, patches, scratch};
  embed(pass);
  for (size_t i = 0; i < layers_.size(); ++i) {
    progress.step(i, layers_.size(), "looking at the image");
    attention_block(pass, layers_[i]);
    mlp_block(pass, layers_[i]);
  }
  progress.step(layers_.size(), layers_.size(), "looking at the image");
  return project(pass, tower);
}

}  // namespace hlwq::cuda
