// Caches on both sides for the tests of GPU attention: a KvCache, its rings copied to the GPU, and attention
// over its stored vectors in double, written from the definitions of ops/kv_view.h alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "base/half.h"
#include "cuda/attention.h"
#include "gpu_test_util.h"
#include "model/kv_cache.h"
#include "quant/codebook.h"
#include "quant/hadamard.h"

namespace hlwq::cuda {

struct CacheCase {
  uint64_t head_dim, kv_heads, group, window, tail, sinks;
  KvFormat format;
  bool rebuilt = false;
  bool image = false;  // long chunks are images
  uint64_t context = 300, chunk = 100;

  bool k_coded() const { return !rebuilt && format.k_bits < 16; }
  bool v_coded() const { return format.v_bits < 16; }
};

inline std::ostream& operator<<(std::ostream& out, const CacheCase& s) {
  return out << "head size " << s.head_dim << " x " << s.kv_heads << " x " << s.group << ", bits "
             << s.format.k_bits << "/" << s.format.v_bits << ", window " << s.window << ", tail " << s.tail
             << ", sinks " << s.sinks << (s.rebuilt ? ", rebuilt" : "") << (s.image ? ", image" : "");
}

inline ModelSpec make_spec(const CacheCase& s) {
  ModelSpec spec;
  spec.heads = s.kv_heads * s.group;
  spec.qk_norm = spec.v_norm = true;
  RopeSpec rope{.inv_freq = std::vector<float>(s.head_dim / 2, 0.0f)};
  for (uint64_t i = 0; i < s.head_dim / 8; ++i)
    rope.inv_freq[i] = std::pow(100.0f, -static_cast<float>(i) / static_cast<float>(s.head_dim));
  spec.ropes = {rope};
  spec.layers = {{.head_dim = s.head_dim, .kv_heads = s.kv_heads, .window = s.window, .k_is_v = s.rebuilt}};
  return spec;
}

inline KvCache make_cache(const CacheCase& s, const ModelSpec& spec) {
  KvSettings settings;
  settings.sliding = settings.full = s.format;
  settings.tail = s.tail;
  settings.sinks = s.sinks;
  settings.share = s.rebuilt ? KvShare::kOn : KvShare::kOff;
  return KvCache(spec, s.context, s.chunk, settings);
}

inline uint64_t vector_bytes(const KvRing& ring, uint64_t head_dim) {
  return head_dim * static_cast<uint64_t>(ring.bits) / 8;
}

/// The stored vector of `position` as floats, as it lies there: rotated where coded.
inline std::vector<float> stored_vector(const KvRing& ring, uint64_t head_dim, uint64_t head,
                                        uint64_t position, const Codebook& book) {
  const uint64_t row = head * ring.capacity + position % ring.capacity;
  std::vector<float> x(head_dim);
  const auto* bytes = static_cast<const uint8_t*>(ring.data) + row * vector_bytes(ring, head_dim);
  if (ring.bits == 32) {
    std::copy_n(reinterpret_cast<const float*>(bytes), head_dim, x.begin());
  } else if (ring.bits == 16) {
    for (uint64_t i = 0; i < head_dim; ++i) x[i] = bf16_to_float(reinterpret_cast<const uint16_t*>(bytes)[i]);
  } else {
    std::vector<uint8_t> codes(head_dim);
    unpack_block({ring.bits, 1, static_cast<int>(head_dim)}, bytes, codes.data());
    const float scale = fp16_to_float(ring.norms[row]) / std::sqrt(static_cast<float>(head_dim));
    for (uint64_t i = 0; i < head_dim; ++i) x[i] = scale * book.values[codes[i]];
  }
  return x;
}

/// The codebooks of a view, which take long to compute.
struct ViewBooks {
  explicit ViewBooks(const KvView& view) {
    if (view.k.main.coded()) k = lloyd_max_codebook(view.k.main.bits);
    if (view.v.main.coded()) v = lloyd_max_codebook(view.v.main.bits);
  }
  Codebook k, v;
};

/// Attention of the query q [head_dim] of a KV head at `position` over keys up to key_end, scale 1. Vectors
/// are floats, sums double.
inline std::vector<double> attend(const KvView& view, const ViewBooks& books, const float* q, uint64_t head,
                                  uint64_t position, uint64_t key_end, uint64_t window) {
  const uint64_t d = view.head_dim, first = window && position + 1 > window ? position + 1 - window : 0;
  const bool rebuilt = !view.k.main.bits, v_coded = view.v.main.coded();
  const auto ring = [&](const KvStore& store, uint64_t p) -> const KvRing& {
    if (!store.main.coded()) return store.main;
    return p < view.sinks ? store.sinks : view.tail && p + view.tail > position ? store.exact : store.main;
  };
  std::vector<float> asked(q, q + d);
  if (view.k.main.coded()) hadamard(asked.data(), static_cast<int>(d));
  std::vector<double> scores, out(d);
  std::vector<std::vector<float>> values;
  for (uint64_t p = first; p < key_end; ++p) {
    values.push_back(stored_vector(ring(view.v, p), d, head, p, books.v));
    std::vector<float> k = rebuilt ? values.back() : stored_vector(ring(view.k, p), d, head, p, books.k);
    if (rebuilt) {
      if (v_coded) hadamard(k.data(), static_cast<int>(d));
      const uint64_t half = d / 2, pairs = view.k_pairs;
      for (uint64_t i = 0; i < d; ++i) k[i] *= view.k_weight[i];
      for (uint64_t i = 0; i < pairs; ++i) {
        const float a = k[i], b = k[half + i], c = view.k_rope[p * 2 * pairs + i],
                    s = view.k_rope[(p * 2 + 1) * pairs + i];
        k[i] = a * c - b * s;
        k[half + i] = b * c + a * s;
      }
    }
    double sum = 0;
    for (uint64_t i = 0; i < d; ++i) sum += static_cast<double>(asked[i]) * k[i];
    scores.push_back(sum);
  }
  const double top = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (uint64_t p = 0; p < scores.size(); ++p) {
    const double weight = std::exp(scores[p] - top);
    sum += weight;
    for (uint64_t i = 0; i < d; ++i) out[i] += weight * values[p][i];
  }
  for (double& x : out) x /= sum;
  if (v_coded) hadamard(out.data(), static_cast<int>(d));
  return out;
}

/// The rings of a host view on the GPU.
class DeviceLayer {
 public:
  DeviceLayer(const KvView& host, uint64_t positions) : view_(host), host_(host) {
    each([&](KvRing& device, const KvRing& from) {
      device.codec = nullptr;
      if (!from.bits) return;
      device.data = buffer(data_bytes(from));
      device.norms = from.norms ? static_cast<uint16_t*>(buffer(norm_bytes(from))) : nullptr;
    });
    if (host.k.main.bits) return;
    rope_bytes_ = positions * 2 * host.k_pairs * sizeof(float);
    view_.k_rope = static_cast<const float*>(buffer(rope_bytes_));
    view_.k_weight = static_cast<const float*>(buffer(host.head_dim * sizeof(float)));
  }

  const KvView& view() const { return view_; }

  /// Copies all of the host's rings; of the rotary table the first `positions`.
  void copy_from(const KvView& host, uint64_t positions) {
    host_ = host;
    each([&](KvRing& device, const KvRing& from) {
      if (!from.bits) return;
      copy(device.data, from.data, data_bytes(from));
      if (from.norms) copy(device.norms, from.norms, norm_bytes(from));
    });
    if (host.k.main.bits) return;
    copy(const_cast<float*>(view_.k_rope), host.k_rope, positions * 2 * host.k_pairs * sizeof(float));
    copy(const_cast<float*>(view_.k_weight), host.k_weight, host.head_dim * sizeof(float));
  }

  /// Bytes of the rings that differ from the host's, and of all; norms one unit in the last place apart count
  /// as equal.
  std::pair<uint64_t, uint64_t> differing_bytes(const KvView& host) {
    host_ = host;
    uint64_t differing = 0, all = 0;
    each([&](KvRing& device, const KvRing& from) {
      if (!from.bits) return;
      std::vector<uint8_t> data(data_bytes(from));
      check(cudaMemcpy(data.data(), device.data, data.size(), cudaMemcpyDeviceToHost), "copying rings");
      for (uint64_t i = 0; i < data.size(); ++i)
        differing += data[i] != static_cast<const uint8_t*>(from.data)[i];
      all += data.size();
      if (!from.norms) return;
      std::vector<uint16_t> norms(norm_bytes(from) / 2);
      check(cudaMemcpy(norms.data(), device.norms, norm_bytes(from), cudaMemcpyDeviceToHost),
            "copying norms");
      for (uint64_t i = 0; i < norms.size(); ++i) differing += std::abs(norms[i] - from.norms[i]) > 1;
    });
    return {differing, all};
  }

 private:
  template <typename Fn>
  void each(Fn&& fn) {
    for (auto store : {&KvView::k, &KvView::v})
      for (auto ring : {&KvStore::main, &KvStore::exact, &KvStore::sinks})
        fn((view_.*store).*ring, (host_.*store).*ring);
  }
  uint64_t data_bytes(const KvRing& r) const {
    return host_.kv_heads * r.capacity * vector_bytes(r, host_.head_dim);
  }
  uint64_t norm_bytes(const KvRing& r) const { return host_.kv_heads * r.capacity * 2; }
  void* buffer(uint64_t bytes) {
    buffers_.emplace_back(bytes, "a ring");
    check(cudaMemset(buffers_.back().as<void>(), 0, bytes), "clearing a ring");
    return buffers_.back().as<void>();
  }
  static void copy(void* to, const void* from, uint64_t bytes) {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
  }

  KvView view_, host_;
  std::vector<Buffer> buffers_;
  uint64_t rope_bytes_ = 0;
};

}  // namespace hlwq::cuda
