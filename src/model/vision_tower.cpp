#include "model/vision_tower.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "ops/elementwise.h"

namespace hlwq {
namespace {

// Patches that go through an MLP at once: enough to use a weight well once it is decoded, few enough that the
// wide inner activations of a large image stay small.
constexpr uint64_t kMlpPatches = 1024;

// Where the encoder's tensors are: as Hugging Face names them, or as text models saved apart once did.
constexpr const char* kPrefixes[] = {"model.", ""};
constexpr const char* kFirst = "vision_tower.patch_embedder.input_proj.weight";

std::string prefix_of(const WeightStore& weights) {
  for (const char* prefix : kPrefixes)
    if (weights.contains(prefix + std::string(kFirst))) return prefix;
  return kPrefixes[0];
}

// Turns every head of every patch by its column and its row (vision_rotations).
void rotate_axes(const Compute& compute, const std::vector<float>& rotations, const ImagePatches& patches,
                 uint64_t heads, uint64_t head_dim, float* data) {
  const uint64_t quarter = head_dim / 4;
  compute.pool->parallel_for(patches.patches(), 16, [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p) {
      const uint64_t position[] = {p % patches.cols, p / patches.cols};
      for (uint64_t h = 0; h < heads; ++h)
        for (uint64_t axis = 0; axis < 2; ++axis) {
          float* lo = data + (p * heads + h) * head_dim + axis * 2 * quarter;
          float* hi = lo + quarter;
          const float *c = rotations.data() + position[axis] * 2 * quarter, *s = c + quarter;
          for (uint64_t i = 0; i < quarter; ++i) {
            const float a = lo[i], b = hi[i];
            lo[i] = a * c[i] - b * s[i];
            hi[i] = b * c[i] + a * s[i];
          }
        }
    }
  });
}

// [patches, heads, head_dim] -> [heads, patches, head_dim], the order of a cache.
void head_major(const Compute& compute, const float* x, uint64_t patches, uint64_t heads, uint64_t head_dim,
                float* y) {
  compute.pool->parallel_for(patches, 16, [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p)
      for (uint64_t h = 0; h < heads; ++h)
        std::copy_n(x + (p * heads + h) * head_dim, head_dim, y + (h * patches + p) * head_dim);
  });
}

}  // namespace

void check_patches(const VisionSpec& spec, const ImagePatches& patches) {
  const uint64_t n = patches.patches(), k = spec.pooling;
  if (patches.shape.patch != spec.patch || patches.shape.pooling != k || n == 0 || patches.cols % k ||
      patches.rows % k || patches.pixels.size() != n * 3 * spec.patch * spec.patch)
    throw Error(ErrorCode::kInvalidArgument, "the patches of an image do not have the model's shape");
  if (patches.cols > spec.positions || patches.rows > spec.positions)
    throw Error(ErrorCode::kInvalidArgument,
                "an image of " + std::to_string(patches.cols) + " x " + std::to_string(patches.rows) +
                    " patches is longer than the model's table of " + std::to_string(spec.positions) +
                    " positions; crop it or give it fewer tokens");
}

std::vector<float> vision_rotations(const VisionSpec& spec, uint64_t positions) {
  const uint64_t quarter = spec.head_dim / 4;
  std::vector<float> table(positions * 2 * quarter);
  for (uint64_t i = 0; i < quarter; ++i) {
    const auto inv_freq =
        static_cast<float>(1.0 / std::pow(static_cast<double>(spec.rope_theta),
                                          static_cast<double>(4 * i) / static_cast<double>(spec.head_dim)));
    for (uint64_t p = 0; p < positions; ++p) {
      const float angle = static_cast<float>(p) * inv_freq;
      table[p * 2 * quarter + i] = std::cos(angle);
      table[p * 2 * quarter + quarter + i] = std::sin(angle);
    }
  }
  return table;
}

struct VisionTower::Buffers {
  Buffers(const VisionSpec& s, uint64_t patches)
      : x(patches * s.hidden),
        normed(patches * s.hidden),
        projected(patches * s.hidden),
        q(patches * s.heads * s.head_dim),
        attended(patches * s.heads * s.head_dim),
        k(patches * s.kv_heads * s.head_dim),
        v(k.size()),
        keys(k.size()),
        values(k.size()),
        gate(std::min(patches, kMlpPatches) * s.intermediate),
        up(gate.size()),
        key_end(patches, patches) {}
  std::vector<float> x, normed, projected, q, attended, k, v, keys, values, gate, up, rotations, clamped;
  std::vector<uint64_t> key_end;
  AttentionScratch attention;
};

bool VisionTower::present(const WeightStore& weights) {
  return weights.contains(prefix_of(weights) + kFirst);
}

VisionLinear VisionTower::load(WeightStore& weights, const std::string& name, uint64_t rows,
                               uint64_t cols) const {
  VisionLinear l{.weight = weights.matrix(name + ".linear.weight", rows, cols), .clipped = spec_.clipped};
  if (l.clipped) {
    l.input_min = weights.vector(name + ".input_min", 1)[0];
    l.input_max = weights.vector(name + ".input_max", 1)[0];
    l.output_min = weights.vector(name + ".output_min", 1)[0];
    l.output_max = weights.vector(name + ".output_max", 1)[0];
    if (!(l.input_min <= l.input_max) || !(l.output_min <= l.output_max))
      throw Error(ErrorCode::kInvalidFile, name + ": the range that its values are clipped to is empty");
  }
  return l;
}

VisionTower::VisionTower(const VisionSpec& spec, uint64_t text_hidden, WeightStore& weights)
    : spec_(spec), text_hidden_(text_hidden) {
  const std::string prefix = prefix_of(weights), tower = prefix + "vision_tower.";
  const uint64_t hidden = spec_.hidden, inner = spec_.intermediate, d = spec_.head_dim;
  weights_.patch_projection = weights.matrix(prefix + kFirst, hidden, 3 * spec_.patch * spec_.patch);
  weights_.positions =
      weights.vector(tower + "patch_embedder.position_embedding_table", 2 * spec_.positions * hidden);
  for (uint64_t i = 0; i < spec_.layers; ++i) {
    const std::string base = tower + "encoder.layers." + std::to_string(i) + ".";
    const std::string attn = base + "self_attn.", mlp = base + "mlp.";
    const auto norm = [&](const char* name, uint64_t n) {
      return weights.vector(base + name + ".weight", n);
    };
    VisionLayer w;
    w.q = load(weights, attn + "q_proj", spec_.heads * d, hidden);
    w.k = load(weights, attn + "k_proj", spec_.kv_heads * d, hidden);
    w.v = load(weights, attn + "v_proj", spec_.kv_heads * d, hidden);
    w.o = load(weights, attn + "o_proj", hidden, spec_.heads * d);
    w.gate = load(weights, mlp + "gate_proj", inner, hidden);
    w.up = load(weights, mlp + "up_proj", inner, hidden);
    w.down = load(weights, mlp + "down_proj", hidden, inner);
    w.input_norm = norm("input_layernorm", hidden);
    w.post_attention_norm = norm("post_attention_layernorm", hidden);
    w.pre_mlp_norm = norm("pre_feedforward_layernorm", hidden);
    w.post_mlp_norm = norm("post_feedforward_layernorm", hidden);
    w.q_norm = norm("self_attn.q_norm", d);
    w.k_norm = norm("self_attn.k_norm", d);
    weights_.layers.push_back(std::move(w));
  }
  if (spec_.standardize) {
    weights_.std_bias = weights.vector(tower + "std_bias", hidden);
    weights_.std_scale = weights.vector(tower + "std_scale", hidden);
  }
  weights_.projection =
      weights.matrix(prefix + "embed_vision.embedding_projection.weight", text_hidden, hidden);
}

uint64_t VisionTower::scratch_bytes(const VisionSpec& s, uint64_t text_hidden, uint64_t tokens) {
  const uint64_t patches = tokens * s.pooling * s.pooling;
  const uint64_t longest = tokens * s.pooling;  // side of a grid that is one soft token high
  const uint64_t floats = patches * (3 * s.hidden + 2 * s.heads * s.head_dim + 4 * s.kv_heads * s.head_dim +
                                     3 * s.patch * s.patch) +
                          longest * s.head_dim / 2 + 2 * std::min(patches, kMlpPatches) * s.intermediate +
                          tokens * (2 * s.hidden + text_hidden);
  return floats * sizeof(float);
}

void VisionTower::run(const Compute& compute, const float* x, uint64_t rows, std::span<const Task> tasks,
                      std::vector<float>& clamped) const {
  const uint64_t cols = tasks[0].linear->weight.cols();
  // Neighbours that read the same input run as one loop.
  for (size_t first = 0; first < tasks.size();) {
    const VisionLinear& range = *tasks[first].linear;
    std::vector<LinearTask> group;
    size_t last = first;
    for (; last < tasks.size(); ++last) {
      const VisionLinear& l = *tasks[last].linear;
      if (l.clipped && (l.input_min != range.input_min || l.input_max != range.input_max)) break;
      group.push_back({l.weight, tasks[last].y});
    }
    const float* in = x;
    if (range.clipped) {
      clamped.resize(std::max<size_t>(clamped.size(), rows * cols));
      compute.pool->parallel_for(rows * cols, 16384, [&](size_t begin, size_t end, int) {
        for (size_t i = begin; i < end; ++i) clamped[i] = std::clamp(x[i], range.input_min, range.input_max);
      });
      in = clamped.data();
    }
    LinearInput input(in, rows, cols);
    linear(compute, input, group);
    for (; first < last; ++first) {
      const VisionLinear& l = *tasks[first].linear;
      float* y = tasks[first].y;
      if (l.clipped)
        compute.pool->parallel_for(rows * l.weight.rows(), 16384, [&](size_t begin, size_t end, int) {
          for (size_t i = begin; i < end; ++i) y[i] = std::clamp(y[i], l.output_min, l.output_max);
        });
    }
  }
}

void VisionTower::embed(const Compute& compute, const ImagePatches& patches, float* x) const {
  const uint64_t n = patches.patches(), pixels = 3 * spec_.patch * spec_.patch, hidden = spec_.hidden;
  std::vector<float> scaled(n * pixels);
  compute.pool->parallel_for(scaled.size(), 16384, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i)
      scaled[i] = 2 * (static_cast<float>(patches.pixels[i]) * (1.0f / 255) - 0.5f);
  });
  LinearInput input(scaled.data(), n, pixels);
  const LinearTask task{weights_.patch_projection, x};
  linear(compute, input, {&task, 1});
  compute.pool->parallel_for(n, 16, [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p) {
      const float* of_x = weights_.positions.data() + p % patches.cols * hidden;
      const float* of_y = weights_.positions.data() + (spec_.positions + p / patches.cols) * hidden;
      for (uint64_t i = 0; i < hidden; ++i) x[p * hidden + i] += of_x[i] + of_y[i];
    }
  });
}

void VisionTower::attention_block(const Compute& compute, const VisionLayer& w, const ImagePatches& patches,
                                  Buffers& b) const {
  const uint64_t n = patches.patches(), hidden = spec_.hidden, d = spec_.head_dim;
  rms_norm(compute, b.x.data(), n, hidden, w.input_norm.data(), spec_.norm_eps, b.normed.data());
  const Task tasks[] = {{&w.q, b.q.data()}, {&w.k, b.k.data()}, {&w.v, b.v.data()}};
  run(compute, b.normed.data(), n, tasks, b.clamped);
  rms_norm(compute, b.q.data(), n * spec_.heads, d, w.q_norm.data(), spec_.norm_eps, b.q.data());
  rms_norm(compute, b.k.data(), n * spec_.kv_heads, d, w.k_norm.data(), spec_.norm_eps, b.k.data());
  rms_norm(compute, b.v.data(), n * spec_.kv_heads, d, nullptr, spec_.norm_eps, b.v.data());
  rotate_axes(compute, b.rotations, patches, spec_.heads, d, b.q.data());
  rotate_axes(compute, b.rotations, patches, spec_.kv_heads, d, b.k.data());
  head_major(compute, b.k.data(), n, spec_.kv_heads, d, b.keys.data());
  head_major(compute, b.v.data(), n, spec_.kv_heads, d, b.values.data());
  const auto floats = [&](std::vector<float>& x) {
    return KvStore{.main = {.bits = 32, .capacity = n, .data = x.data()}, .exact = {}, .sinks = {}};
  };
  const KvView view{.kv_heads = spec_.kv_heads, .head_dim = d, .k = floats(b.keys), .v = floats(b.values)};
  // Every patch sees every other; the norms of queries and keys stand for a scale.
  const AttentionShape shape{.heads = spec_.heads, .tokens = n, .key_end = b.key_end.data()};
  attention(compute, view, shape, b.q.data(), b.attended.data(), b.attention);
  const Task out{&w.o, b.projected.data()};
  run(compute, b.attended.data(), n, {&out, 1}, b.clamped);
  rms_norm(compute, b.projected.data(), n, hidden, w.post_attention_norm.data(), spec_.norm_eps,
           b.projected.data());
  add_in_place(compute, b.projected.data(), b.x.data(), n * hidden);
}

void VisionTower::mlp_block(const Compute& compute, const VisionLayer& w, uint64_t n, Buffers& b) const {
  const uint64_t hidden = spec_.hidden, inner = spec_.intermediate;
  rms_norm(compute, b.x.data(), n, hidden, w.pre_mlp_norm.data(), spec_.norm_eps, b.normed.data());
  for (uint64_t first = 0; first < n; first += kMlpPatches) {
    const uint64_t rows = std::min(kMlpPatches, n - first);
    const Task tasks[] = {{&w.gate, b.gate.data()}, {&w.up, b.up.data()}};
    run(compute, b.normed.data() + first * hidden, rows, tasks, b.clamped);
    compute.pool->parallel_for(rows * inner, 8192, [&](size_t begin, size_t end, int) {
      compute.kernels->vector.gelu_tanh_mul(b.gate.data() + begin, b.up.data() + begin, b.gate.data() + begin,
                                            end - begin);
    });
    const Task down{&w.down, b.projected.data() + first * hidden};
    run(compute, b.gate.data(), rows, {&down, 1}, b.clamped);
  }
  rms_norm(compute, b.projected.data(), n, hidden, w.post_mlp_norm.data(), spec_.norm_eps,
           b.projected.data());
  add_in_place(compute, b.projected.data(), b.x.data(), n * hidden);
}

std::vector<float> VisionTower::pool(const ImagePatches& patches, const float* x) const {
  const uint64_t hidden = spec_.hidden, k = spec_.pooling, cols = patches.cols / k;
  std::vector<float> pooled(patches.tokens() * hidden);
  for (uint64_t p = 0; p < patches.patches(); ++p) {
    float* to = pooled.data() + (p / patches.cols / k * cols + p % patches.cols / k) * hidden;
    for (uint64_t i = 0; i < hidden; ++i) to[i] += x[p * hidden + i];
  }
  const float scale = std::sqrt(static_cast<float>(hidden)) / static_cast<float>(k * k);
  for (uint64_t t = 0; t < patches.tokens(); ++t)
    for (uint64_t i = 0; i < hidden; ++i) {
      float& value = pooled[t * hidden + i];
      value *= scale;
      if (spec_.standardize) value = (value - weights_.std_bias[i]) * weights_.std_scale[i];
    }
  return pooled;
}

std::vector<float> VisionTower::encode(const Compute& compute, const ImagePatches& patches,
                                       const Progress& progress, std::vector<float>* tower) const {
  check_patches(spec_, patches);
  const uint64_t n = patches.patches();
  Buffers b(spec_, n);
  b.rotations = vision_rotations(spec_, std::max(patches.cols, patches.rows));
  embed(compute, patches, b.x.data());
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    progress.step(i, weights_.layers.size(), "looking at the image");
    attention_block(compute, weights_.layers[i], patches, b);
    mlp_block(compute, weights_.layers[i], n, b);
  }
  progress.step(weights_.layers.size(), weights_.layers.size(), "looking at the image");
  std::vector<float> pooled = pool(patches, b.x.data());
  if (tower) *tower = pooled;
  const uint64_t tokens = patches.tokens();
  rms_norm(compute, pooled.data(), tokens, spec_.hidden, nullptr, spec_.norm_eps, pooled.data());
  std::vector<float> soft(tokens * text_hidden_);
  LinearInput input(pooled.data(), tokens, spec_.hidden);
  const LinearTask task{weights_.projection, soft.data()};
  linear(compute, input, {&task, 1});
  return soft;
}

}  // namespace hlwq
