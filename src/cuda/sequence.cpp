#include "cuda/sequence.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <tuple>

#include "base/checked.h"
#include "cuda/activations.h"
#include "cuda/expert_routing.h"
#include "cuda/kv_memory.h"

namespace hlwq::cuda {
namespace {

constexpr uint64_t kAlignment = 256, kLogitRows = 32;

uint64_t widest(const ModelSpec& spec, uint64_t (*width)(const ModelSpec&, const LayerSpec&)) {
  uint64_t n = 0;
  for (const LayerSpec& l : spec.layers) n = std::max(n, width(spec, l));
  return n;
}
uint64_t widest_q(const ModelSpec& spec) {
  return widest(spec, [](const ModelSpec& s, const LayerSpec& l) { return s.heads * l.head_dim; });
}
uint64_t widest_kv(const ModelSpec& spec) {
  return widest(spec, [](const ModelSpec&, const LayerSpec& l) { return l.kv_heads * l.head_dim; });
}
uint64_t widest_inner(const ModelSpec& spec) {
  return widest(spec, [](const ModelSpec&, const LayerSpec& l) { return l.intermediate; });
}

/// INT8 forms of an input, for whichever block size wants most.
uint64_t activation_bytes(uint64_t tokens, uint64_t cols) {
  uint64_t n = 0;
  for (int block : {32, 64, 128, 256, 512}) n = std::max(n, DeviceActivations::bytes(tokens, cols, block));
  return n;
}

AttentionPlan attention_plan(const ModelSpec& spec, const KvLayout& layout, uint64_t layer, uint64_t tokens,
                             uint64_t context, bool images) {
  const LayerSpec& l = spec.layers[layer];
  AttentionPlan plan;
  plan.heads = spec.heads;
  plan.tokens = tokens;
  plan.window = l.window;
  // Tokens of an image also see those after them.
  plan.context = l.window ? std::min(context, l.window + (images ? tokens : 0)) : context;
  plan.scale = spec.attention_scale;
  plan.layout = layout.layers[layout.layers[layer].from].view;
  return plan;
}

// The scratch that any call of a pass needs.
uint64_t scratch_bytes(const ModelSpec& spec, uint64_t context, uint64_t tokens, const KvLayout& layout,
                       int multiprocessors) {
  const uint64_t q = widest_q(spec), inner = widest_inner(spec);
  uint64_t n = 0;
  for (uint64_t cols : {spec.hidden, q, inner})
    for (DenseType type : {DenseType::kBF16, DenseType::kF32})
      n = std::max(n, dense_scratch_bytes(type, cols, tokens));
  n = std::max({n, linear_scratch_bytes(tokens, std::max(inner, q), spec.hidden),
                linear_scratch_bytes(tokens, spec.hidden, inner),
                linear_scratch_bytes(tokens, spec.hidden, q),
                linear_scratch_bytes(tokens, spec.experts, spec.hidden)});
  if (const uint64_t width = spec.per_layer_width; width > 0)
    n = std::max({n, dense_scratch_bytes(DenseType::kBF16, width, tokens),
                  linear_scratch_bytes(tokens, spec.layers.size() * width, spec.hidden),
                  linear_scratch_bytes(tokens, width, spec.hidden),
                  linear_scratch_bytes(tokens, spec.hidden, width)});
  // Of every number of tokens: fewer of them are cut into more parts, and take more than many do.
  std::set<std::tuple<uint64_t, uint64_t, uint64_t, int, int>> seen;
  for (uint64_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& l = spec.layers[i];
    const KvView& view = layout.layers[layout.layers[i].from].view;
    if (!seen.emplace(l.window, view.head_dim, view.kv_heads, view.k.main.bits, view.v.main.bits).second)
      continue;
    for (uint64_t t = 1; t <= tokens; ++t)
      n = std::max(
          n, attention_scratch_bytes(attention_plan(spec, layout, i, t, context, true), multiprocessors));
  }
  return n;
}

/// Sizes of everything in a workspace, in the order of its pointers.
struct WorkspaceSizes {
  WorkspaceSizes(const ModelSpec& spec, uint64_t context, uint64_t tokens, const KvLayout& layout,
                 int multiprocessors)
      : scratch(scratch_bytes(spec, context, tokens, layout, multiprocessors)) {
    const uint64_t h = spec.hidden, q = widest_q(spec), kv = widest_kv(spec), inner = widest_inner(spec);
    for (uint64_t width : {h, h, h, h, h, q, kv, kv, q, kv, kv, q, inner, inner, inner})
      parts.push_back(checked_mul(tokens, width * sizeof(float), "the GPU's workspace"));
    for (uint64_t cols : {h, q, inner}) parts.push_back(activation_bytes(tokens, cols));
    // Activations of a matrix whose blocks are of another size.
    parts.push_back(activation_bytes(tokens, std::max({h, q, inner})));
    parts.push_back(scratch);
    // None of these where a model has no such parts.
    const uint64_t batch = spec.experts ? expert_tokens(spec, tokens) : 0, slots = batch * spec.top_k;
    for (uint64_t floats : {batch * spec.experts, slots * 2 * spec.expert_intermediate,
                            slots * spec.expert_intermediate, slots * h})
      parts.push_back(floats * sizeof(float));
    parts.push_back(spec.experts ? ExpertRouting::bytes(spec.experts, spec.top_k, batch) : 0);
    parts.push_back(spec.experts ? activation_bytes(slots, spec.expert_intermediate) : 0);
    const uint64_t each = spec.per_layer_width,
                   all = checked_mul(each, spec.layers.size(), "per-layer embeddings");
    for (uint64_t width : {all, all, all, each, each})
      parts.push_back(checked_mul(tokens, width * sizeof(float), "the GPU's workspace"));
    parts.push_back(each ? activation_bytes(tokens, each) : 0);
    parts.push_back(tokens * sizeof(int32_t));
    parts.push_back(sizeof(uint64_t));
    parts.push_back(tokens * sizeof(uint64_t));
  }
  uint64_t total() const {
    uint64_t n = 0;
    for (uint64_t part : parts)
      n = checked_add(n, ceil_div(part, kAlignment) * kAlignment, "the GPU's workspace");
    return n;
  }
  uint64_t scratch;
  std::vector<uint64_t> parts;
};

// Pieces of a residual stream's states that are logits at a time.
uint64_t logits_bytes(const ModelSpec& spec, uint64_t rows) { return rows * spec.vocab * sizeof(float); }

}  // namespace

GpuWorkspace::GpuWorkspace(const GpuModel& model, uint64_t context, uint64_t chunk, const KvLayout& layout)
    : max_chunk(chunk) {
  const ModelSpec& spec = model.spec();
  const WorkspaceSizes sizes(spec, context, chunk, layout, model.resources().multiprocessors);
  scratch_bytes = sizes.scratch;
  memory = Buffer(sizes.total(), "the activations of a pass of " + std::to_string(chunk) + " tokens");
  logits = Buffer(logits_bytes(spec, 1), "logits");
  per_layer_host =
      PinnedBuffer(chunk * spec.layers.size() * spec.per_layer_width * sizeof(float), "per-layer embeddings");
  host = PinnedBuffer(sizeof(uint64_t) + chunk * (sizeof(int32_t) + sizeof(uint64_t)), "token ids");
  std::byte* p = memory.as<std::byte>();
  size_t i = 0;
  const auto next = [&] {
    std::byte* at = p;
    p += ceil_div(sizes.parts[i++], kAlignment) * kAlignment;
    return at;
  };
  for (float** f : {&x[0], &x[1], &projected, &normed, &states, &q, &k, &v, &q_heads, &k_heads, &v_heads,
                    &attended, &gate, &up, &gated})
    *f = reinterpret_cast<float*>(next());
  for (void** f : {&hidden_in, &attended_in, &inner_in, &other_in, &scratch}) *f = next();
  for (float** f : {&expert_scores, &expert_gate_up, &expert_gated, &expert_outputs})
    *f = reinterpret_cast<float*>(next());
  for (void** f : {&expert_routing, &expert_inner}) *f = next();
  for (float** f :
       {&per_layer_rows, &per_layer_projected, &per_layer_values, &per_layer_gate, &per_layer_gated})
    *f = reinterpret_cast<float*>(next());
  per_layer_in = next();
  ids = reinterpret_cast<int32_t*>(next());
  position = reinterpret_cast<uint64_t*>(next());
  key_end = reinterpret_cast<uint64_t*>(next());
}

uint64_t GpuSequence::device_bytes(const ModelSpec& gpu_spec, uint64_t context, uint64_t max_chunk,
                                   const KvSettings& settings, int multiprocessors) {
  const KvLayout layout = KvLayout::place(gpu_spec, context, max_chunk, settings, nullptr);
  return layout.bytes + gpu_spec.layers.size() * sizeof(KvView) + gpu_spec.hidden * sizeof(float) +
         logits_bytes(gpu_spec, 1) +
         WorkspaceSizes(gpu_spec, context, max_chunk, layout, multiprocessors).total();
}

GpuSequence::GpuSequence(std::shared_ptr<const GpuModel> model, const Compute& compute, uint64_t context,
                         uint64_t max_chunk, const KvSettings& settings)
    : model_(std::move(model)),
      compute_(compute),
      context_(context),
      max_chunk_(max_chunk),
      settings_(settings),
      tables_(kv_tables()) {
  model_->use();
  const ModelSpec& spec = model_->spec();
  memory_ = Buffer(KvLayout::place(spec, context, max_chunk, settings, nullptr).bytes,
                   "the key/value cache of " + std::to_string(context) + " tokens");
  make_views();
  workspace_ = std::make_shared<GpuWorkspace>(*model_, context, max_chunk, layout_);
  last_state_ = Buffer(spec.hidden * sizeof(float), "the last token's state");
  if (layout_.rope) {
    const Buffer freq(layout_.inv_freq.size() * sizeof(float), "rotary frequencies");
    check(cudaMemcpyAsync(freq.as<float>(), layout_.inv_freq.data(), freq.bytes(), cudaMemcpyHostToDevice,
                          model_->stream()),
          "copying frequencies");
    fill_rope(freq.as<float>(), layout_.rope_pairs, context, layout_.rope, model_->stream());
    check(cudaStreamSynchronize(model_->stream()), "making the cache");
  }
  if (model_->first_layer() > 0) {
    cpu_cache_ = std::make_unique<KvCache>(model_->model().spec(), context, max_chunk, settings);
    cpu_workspace_ = std::make_shared<hlwq::Workspace>();
    cpu_workspace_->reserve(model_->model().spec(), max_chunk);
  }
}

GpuSequence::GpuSequence(const GpuSequence& other)
    : Sequence(other),
      model_(other.model_),
      compute_(other.compute_),
      context_(other.context_),
      max_chunk_(other.max_chunk_),
      length_(other.length_),
      highest_(other.highest_),
      settings_(other.settings_),
      tables_(other.tables_),
      workspace_(other.workspace_),
      tokens_(std::min<uint64_t>(other.tokens_, 1)),
      cpu_workspace_(other.cpu_workspace_) {
  model_->use();
  memory_ = Buffer(other.memory_.bytes(), "the key/value cache of a copied sequence");
  make_views();
  last_state_ = Buffer(other.last_state_.bytes(), "the last token's state");
  const cudaStream_t stream = model_->stream();
  const auto copy = [&](void* to, const void* from, uint64_t rows, uint64_t stride, uint64_t used) {
    if (used)
      check(cudaMemcpy2DAsync(to, stride, from, stride, used, rows, cudaMemcpyDeviceToDevice, stream),
            "copying a cache");
  };
  for (size_t i = 0; i < layout_.layers.size(); ++i) {
    KvView& to = layout_.layers[i].view;
    std::vector<KvRing> from;
    KvLayout::Layer source = other.layout_.layers[i];
    for_rings(source.view, [&](KvRing& r) { from.push_back(r); });
    size_t n = 0;
    for_rings(to, [&](KvRing& r) {
      const uint64_t slots = std::min(r.capacity, highest_), row = kv_row_bytes(r.bits, to.head_dim);
      copy(r.data, from[n].data, to.kv_heads, r.capacity * row, slots * row);
      if (r.norms) copy(r.norms, from[n].norms, to.kv_heads, r.capacity * 2, slots * 2);
      ++n;
    });
  }
  if (layout_.rope)
    copy(layout_.rope, other.layout_.rope, 1, context_ * 2 * layout_.rope_pairs * 4,
         context_ * 2 * layout_.rope_pairs * 4);
  copy(last_state_.as<void>(), other.last_state_.as<void>(), 1, last_state_.bytes(), last_state_.bytes());
  if (other.cpu_cache_) cpu_cache_ = std::make_unique<KvCache>(*other.cpu_cache_);
  check(cudaStreamSynchronize(stream), "copying a cache");
}

GpuSequence::~GpuSequence() {
  cudaSetDevice(model_->device());
  cudaStreamSynchronize(model_->stream());
  if (step_) cudaGraphExecDestroy(step_);
}

std::unique_ptr<Sequence> GpuSequence::fork() const {
  return std::unique_ptr<Sequence>(new GpuSequence(*this));
}

// Lays the cache out in memory_, and gives the kernels their views.
void GpuSequence::make_views() {
  const ModelSpec& spec = model_->spec();
  layout_ = KvLayout::place(spec, context_, max_chunk_, settings_, memory_.as<std::byte>());
  std::vector<KvView> views;
  for (const KvLayout::Layer& layer : layout_.layers) {
    KvView view = layout_.layers[layer.from].view;
    view.k_weight = model_->layers()[layer.from].k_norm;
    view.k_pairs = layout_.rope_pairs;
    view.k_rope = layout_.rope;
    views.push_back(view);
  }
  for (size_t i = 0; i < views.size(); ++i) layout_.layers[i].view.k_pairs = layout_.rope_pairs;
  views_ = Buffer(views.size() * sizeof(KvView), "a cache's layout");
  check(cudaMemcpyAsync(views_.as<KvView>(), views.data(), views_.bytes(), cudaMemcpyHostToDevice,
                        model_->stream()),
        "copying a cache's layout");
  check(cudaStreamSynchronize(model_->stream()), "copying a cache's layout");
}

void GpuSequence::check_ids(std::span<const int32_t> ids) const {
  if (ids.empty() || ids.size() > max_chunk_)
    throw Error(ErrorCode::kInvalidArgument,
                "a forward pass takes 1 to " + std::to_string(max_chunk_) + " tokens");
  if (length_ + ids.size() > context_)
    throw Error(ErrorCode::kContextFull, "the context of " + std::to_string(context_) + " tokens is full (" +
                                             std::to_string(length_) + " used, " +
                                             std::to_string(ids.size()) +
                                             " more asked for); use a larger context or a shorter text");
  const uint64_t vocab = model_->spec().vocab;
  for (int32_t id : ids)
    if (id < 0 || static_cast<uint64_t>(id) >= vocab)
      throw Error(ErrorCode::kInvalidArgument, "token id " + std::to_string(id) +
                                                   " is outside the vocabulary of " + std::to_string(vocab));
}

// Puts down what the GPU's kernels read; runs the layers that are not on the GPU.
void GpuSequence::prepare(std::span<const int32_t> ids, std::span<const ImageRun> images) {
  const ModelSpec& spec = model_->spec();
  const cudaStream_t stream = model_->stream();
  const uint64_t tokens = ids.size();
  GpuWorkspace& w = *workspace_;
  check(cudaStreamSynchronize(stream), "waiting for the GPU");  // the host buffer is free again
  auto* position = w.host.as<uint64_t>();
  auto* key_end = position + 1;
  auto* host_ids = reinterpret_cast<int32_t*>(key_end + max_chunk_);
  *position = length_;
  for (uint64_t t = 0; t < tokens; ++t) key_end[t] = length_ + t + 1;
  std::copy(ids.begin(), ids.end(), host_ids);
  std::replace(host_ids, host_ids + tokens, spec.image_token, spec.pad_token);
  for (const ImageRun& image : images) {
    std::fill_n(host_ids + image.begin, image.count, spec.pad_token);
    std::fill_n(key_end + image.begin, image.count, length_ + image.begin + image.count);
  }
  if (spec.per_layer_width) look_up_per_layer({host_ids, tokens});
  if (spec.image_bidirectional && !images.empty())
    check(cudaMemcpyAsync(w.key_end, key_end, tokens * sizeof(uint64_t), cudaMemcpyHostToDevice, stream),
          "copying masks");
  if (model_->first_layer() == 0) return;
  const Transformer& t = model_->model().transformer();
  t.begin(compute_, *cpu_cache_, ids, *cpu_workspace_, images);
  for (uint64_t i = 0; i < model_->first_layer(); ++i)
    t.run_layer(compute_, *cpu_cache_, i, tokens, *cpu_workspace_);
  cpu_cache_->advance(tokens);
  check(cudaMemcpyAsync(w.x[0], cpu_workspace_->x.data(), tokens * spec.hidden * sizeof(float),
                        cudaMemcpyHostToDevice, stream),
        "copying states to the GPU");
}

void GpuSequence::run_linears(const float* floats, const DeviceActivations& act, const InputForms& forms,
                              std::span<const std::pair<const GpuWeight*, float*>> tasks, uint64_t tokens) {
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  LinearResources resources = model_->resources();
  resources.scratch = w.scratch;
  resources.scratch_bytes = w.scratch_bytes;
  std::array<DeviceTask, 4> together;
  size_t n = 0;
  for (const auto& [weight, y] : tasks) {
    if (!*weight) continue;
    if (!weight->quantized()) {
      dense_linear(model_->cublas(), weight->dense, floats, tokens, y, w.scratch, stream);
    } else if (weight->hlwq.format.block == forms.block) {
      together[n++] = {weight->hlwq, y, weight->rows()};
    } else {
      const DeviceActivations other =
          DeviceActivations::place(w.other_in, tokens, weight->cols(), weight->hlwq.format.block);
      quantize_step(floats, other, weight->hlwq.format.lags, stream);
      const DeviceTask task{weight->hlwq, y, weight->rows()};
      linear(other, {&task, 1}, resources, stream);
    }
  }
  if (n) linear(act, std::span(together).first(n), resources, stream);
}

// x += what a block of the layer made (in w.projected), and the next input: normed, as floats and INT8.
void GpuSequence::residual(const float* projected, const float* delta_norm, float scale, const float* norm,
                           const InputForms& next, uint64_t tokens, float* normed) {
  GpuWorkspace& w = *workspace_;
  const ModelSpec& spec = model_->spec();
  const DeviceActivations act =
      DeviceActivations::place(w.hidden_in, tokens, spec.hidden, next.block ? next.block : 128);
  const ResidualStep step{.tokens = tokens,
                          .width = spec.hidden,
                          .eps = spec.norm_eps,
                          .x = w.x[current_],
                          .projected = projected,
                          .delta_norm = delta_norm,
                          .scale = scale,
                          .norm = norm,
                          .normed = normed,
                          .x_out = projected ? w.x[current_ ^ 1] : nullptr};
  residual_step(step, next.block ? &act : nullptr, next.lags, model_->stream());
  if (projected) current_ ^= 1;
}

void GpuSequence::run_layer(uint64_t i, uint64_t tokens, bool images) {
  const ModelSpec& spec = model_->spec();
  const LayerSpec& l = spec.layers[i];
  const GpuLayer& layer = model_->layers()[i];
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  const uint64_t d = l.head_dim, q_width = spec.heads * d, kv_width = l.kv_heads * d;
  const bool own_kv = l.kv_from < 0;
  const auto act = [&](void* memory, uint64_t cols, const InputForms& f) {
    return DeviceActivations::place(memory, tokens, cols, f.block ? f.block : 128);
  };
  const auto bias = [&](const float* b, uint64_t width, float* x) {
    if (b) add_bias(b, tokens, width, width, x, stream);
  };

  const std::pair<const GpuWeight*, float*> qkv[] = {{&layer.q, w.q}, {&layer.k, w.k}, {&layer.v, w.v}};
  run_linears(w.normed, act(w.hidden_in, spec.hidden, layer.attention_in), layer.attention_in, qkv, tokens);
  bias(layer.q_bias, q_width, w.q);
  bias(layer.k_bias, kv_width, w.k);
  bias(layer.v_bias, kv_width, w.v);
  AttentionPlan plan = attention_plan(spec, layout_, i, tokens, context_, images);
  const bool rebuilt = plan.layout.k.main.bits == 0;
  const HeadStep heads{.tokens = tokens,
                       .heads = spec.heads,
                       .kv_heads = l.kv_heads,
                       .head_dim = d,
                       .q_stride = q_width,
                       .kv_stride = kv_width,
                       .q = w.q,
                       .k = own_kv ? w.k : nullptr,
                       .v = own_kv ? (l.k_is_v ? w.k : w.v) : nullptr,
                       .q_out = w.q_heads,
                       .k_out = w.k_heads,
                       .v_out = w.v_heads,
                       .q_norm = layer.q_norm,
                       .k_norm = layer.k_norm,
                       .v_norm = spec.v_norm,
                       .eps = spec.norm_eps,
                       .inv_freq = model_->inv_freq(l.rope),
                       .rope_scale = spec.ropes[l.rope].scale,
                       .positions = w.position,
                       .tokens_each = tokens,
                       .keys_rebuilt = rebuilt};
  const AttentionSequences sequences{views_.as<KvView>() + i, w.position,
                                     images && l.window && spec.image_bidirectional ? w.key_end : nullptr};
  const DeviceActivations attended = act(w.attended_in, q_width, layer.o_in);
  const int multiprocessors = model_->resources().multiprocessors;
  if (!sequences.key_end && attention_step_fits(plan, layer.o_in.block)) {
    attention_step(heads, plan, sequences, tables_, w.attended, layer.o_in.floats, attended, layer.o_in.lags,
                   w.scratch, multiprocessors, stream);
  } else {
    head_step(heads, stream);
    if (own_kv) store_kv(plan, sequences, tables_, rebuilt ? nullptr : w.k_heads, w.v_heads, stream);
    attention(plan, sequences, tables_, w.q_heads, w.attended, w.scratch, multiprocessors, stream);
    if (layer.o_in.block) quantize_step(w.attended, attended, layer.o_in.lags, stream);
  }
  const std::pair<const GpuWeight*, float*> o[] = {{&layer.o, w.projected}};
  run_linears(w.attended, attended, layer.o_in, o, tokens);
  bias(layer.o_bias, spec.hidden, w.projected);
  // Llama calls the norm before its MLP "post_attention_layernorm".
  residual(w.projected, spec.sandwich_norms ? layer.post_attention_norm : nullptr, 1,
           spec.sandwich_norms ? layer.pre_mlp_norm : layer.post_attention_norm, layer.mlp_in, tokens,
           layer.mlp_in.floats ? w.normed : nullptr);

  const std::pair<const GpuWeight*, float*> both[] = {{&layer.gate, w.gate}, {&layer.up, w.up}};
  run_linears(w.normed, act(w.hidden_in, spec.hidden, layer.mlp_in), layer.mlp_in, both, tokens);
  bias(layer.gate_bias, l.intermediate, w.gate);
  bias(layer.up_bias, l.intermediate, w.up);
  const DeviceActivations inner = act(w.inner_in, l.intermediate, layer.down_in);
  gated_step(w.gate, w.up, l.intermediate, tokens, l.intermediate, spec.activation,
             layer.down_in.block ? &inner : nullptr, layer.down_in.lags,
             layer.down_in.floats ? w.gated : nullptr, stream);
  const std::pair<const GpuWeight*, float*> down[] = {{&layer.down, w.projected}};
  run_linears(w.gated, inner, layer.down_in, down, tokens);
  bias(layer.down_bias, spec.hidden, w.projected);

  if (layer.experts) mix_experts(*layer.experts, tokens);
  const float* delta_norm = spec.sandwich_norms ? layer.post_mlp_norm : nullptr;
  if (layer.per_layer) {
    project_per_layer(i, delta_norm, tokens);
    delta_norm = layer.per_layer->post_norm;
  }

  const bool last = i + 1 == spec.layers.size();
  const InputForms next =
      last ? InputForms{.block = 0, .lags = 1, .floats = true} : model_->layers()[i + 1].attention_in;
  residual(w.projected, delta_norm, layer.scalar,
           last ? model_->final_norm() : model_->layers()[i + 1].input_norm, next, tokens,
           last          ? w.states
           : next.floats ? w.normed
                         : nullptr);
}

// Copies ids and position from the host buffer and looks the embeddings up.
void GpuSequence::look_up(uint64_t tokens) {
  GpuWorkspace& w = *workspace_;
  const cudaStream_t stream = model_->stream();
  const auto* position = w.host.as<uint64_t>();
  check(cudaMemcpyAsync(w.position, position, sizeof(uint64_t), cudaMemcpyHostToDevice, stream),
        "copying the position");
  if (model_->first_layer() > 0) return;
  const auto* ids = reinterpret_cast<const int32_t*>(position + 1 + max_chunk_);
  check(cudaMemcpyAsync(w.ids, ids, tokens * sizeof(int32_t), cudaMemcpyHostToDevice, stream), "copying ids");
  const GpuWeight& e = model_->embedding();
  const float scale = model_->spec().embed_scale;
  if (e.quantized())
    decode_rows(e.hlwq, w.ids, tokens, scale, w.x[0], stream);
  else
    dense_rows(e.dense, w.ids, tokens, scale, w.x[0], stream);
}

// From w.x[0] to w.states and last_state_.
void GpuSequence::run_layers(uint64_t tokens, bool images) {
  GpuWorkspace& w = *workspace_;
  const ModelSpec& spec = model_->spec();
  const GpuLayer& first = model_->layers().front();
  current_ = 0;
  if (spec.per_layer_width) prepare_per_layer(tokens);
  residual(nullptr, nullptr, 1, first.input_norm, first.attention_in, tokens,
           first.attention_in.floats ? w.normed : nullptr);
  for (uint64_t i = 0; i < spec.layers.size(); ++i) run_layer(i, tokens, images);
  check(cudaMemcpyAsync(last_state_.as<float>(), w.states + (tokens - 1) * spec.hidden, last_state_.bytes(),
                        cudaMemcpyDeviceToDevice, model_->stream()),
        "keeping the last state");
}

void GpuSequence::forward(std::span<const int32_t> ids, std::span<const ImageRun> images) {
  check_ids(ids);
  model_->use();
  const uint64_t tokens = ids.size(), hidden = model_->spec().hidden;
  const cudaStream_t stream = model_->stream();
  tokens_ = 0;
  workspace_->owner = this;
  prepare(ids, images);
  if (tokens > 1 || !images.empty() || !warm_) {
    look_up(tokens);
    if (model_->first_layer() == 0)
      for (const ImageRun& image : images)
        check(cudaMemcpyAsync(workspace_->x[0] + image.begin * hidden, image.embeddings,
                              image.count * hidden * sizeof(float), cudaMemcpyHostToDevice, stream),
              "copying an image's embeddings");
    run_layers(tokens, !images.empty());
    warm_ |=
        tokens == 1;  // kernels that one token needs are loaded from now on, so that a capture may use them
  } else {
    if (!step_) capture_step();
    check(cudaGraphLaunch(step_, stream), "starting a step");
  }
  length_ += tokens;
  highest_ = std::max(highest_, length_);
  tokens_ = tokens;
}

void GpuSequence::capture_step() {
  const cudaStream_t stream = model_->stream();
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step");
  try {
    look_up(1);
    run_layers(1, false);
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "capturing a step");
  const cudaError_t status = cudaGraphInstantiate(&step_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "preparing a step");
}

void GpuSequence::states(uint64_t first, uint64_t rows, float* out) {
  if (first + rows > tokens_ || first + rows < first)
    throw Error(ErrorCode::kInvalidArgument,
                "states of tokens " + std::to_string(first) + " to " + std::to_string(first + rows) +
                    " were asked for; the last pass had " + std::to_string(tokens_));
  if (workspace_->owner != this)
    throw Error(ErrorCode::kInvalidArgument,
                "the states of this sequence's last pass are gone: a copy of it has run since");
  model_->use();
  const uint64_t hidden = model_->spec().hidden;
  check(cudaMemcpyAsync(out, workspace_->states + first * hidden, rows * hidden * sizeof(float),
                        cudaMemcpyDeviceToHost, model_->stream()),
        "copying states");
  check(cudaStreamSynchronize(model_->stream()), "running a pass");
}

// `states` lie on the GPU.
void GpuSequence::head(const float* states, uint64_t rows, float* out) {
  GpuWorkspace& w = *workspace_;
  const ModelSpec& spec = model_->spec();
  const cudaStream_t stream = model_->stream();
  const InputForms& forms = model_->head_in();
  const DeviceActivations act =
      DeviceActivations::place(w.hidden_in, rows, spec.hidden, forms.block ? forms.block : 128);
  if (forms.block) quantize_step(states, act, forms.lags, stream);
  float* logits = w.logits.as<float>();
  const std::pair<const GpuWeight*, float*> task[] = {{&model_->lm_head(), logits}};
  run_linears(states, act, forms, task, rows);
  if (spec.logit_softcap > 0) soft_cap(spec.logit_softcap, rows * spec.vocab, logits, stream);
  check(cudaMemcpyAsync(out, logits, logits_bytes(spec, rows), cudaMemcpyDeviceToHost, stream),
        "copying logits");
  check(cudaStreamSynchronize(stream), "running a pass");
}

void GpuSequence::logits(const float* states, uint64_t rows, float* out) {
  model_->use();
  const ModelSpec& spec = model_->spec();
  GpuWorkspace& w = *workspace_;
  const uint64_t most = std::min({rows, kLogitRows, max_chunk_});
  if (w.logits.bytes() < logits_bytes(spec, most)) w.logits = Buffer(logits_bytes(spec, most), "logits");
  for (uint64_t r = 0; r < rows; r += most) {
    const uint64_t n = std::min(most, rows - r);
    check(cudaMemcpyAsync(w.normed, states + r * spec.hidden, n * spec.hidden * sizeof(float),
                          cudaMemcpyHostToDevice, model_->stream()),
          "copying states");
    head(w.normed, n, out + r * spec.vocab);
  }
}

void GpuSequence::last_logits(float* out) {
  if (length_ == 0 || tokens_ == 0)
    throw Error(ErrorCode::kInvalidArgument, "there are no logits before the first token");
  model_->use();
  head(last_state_.as<float>(), 1, out);
}

void GpuSequence::assume_filled(uint64_t length) {
  if (length > context_)
    throw Error(ErrorCode::kInvalidArgument, "the context is shorter than what it is to be filled to");
  model_->use();
  // The rotary table stays: it lies behind the rings.
  const uint64_t rings =
      layout_.rope
          ? static_cast<uint64_t>(reinterpret_cast<std::byte*>(layout_.rope) - memory_.as<std::byte>())
          : memory_.bytes();
  check(cudaMemsetAsync(memory_.as<void>(), 0, rings, model_->stream()), "clearing a cache");
  length_ = highest_ = length;
}

bool GpuSequence::truncate(uint64_t length) {
  if (length > length_) return false;
  if (length > 0 && !layout_.keeps(highest_, length)) return false;
  if (cpu_cache_ && !cpu_cache_->truncate(length)) return false;
  length_ = length;
  if (length == 0) highest_ = 0;
  return true;
}

}  // namespace hlwq::cuda
