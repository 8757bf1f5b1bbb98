#include "eval/baselines.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/file.h"
#include "base/half.h"
#include "io/safetensors_writer.h"
#include "model/tensor_list.h"
#include "quant/quantize.h"

namespace hlwq {
namespace {

constexpr size_t kInt4Group = 128, kNf4Group = 64;
constexpr uint64_t kSlabFloats = 4u << 20;

float absmax(std::span<const float> x) {
  float m = 0;
  for (float v : x) m = std::max(m, std::abs(v));
  return m;
}

// Calls fn(group) for each run of `size` values, the last possibly shorter.
template <typename Fn>
void for_groups(std::span<float> x, size_t size, Fn&& fn) {
  for (size_t i = 0; i < x.size(); i += size) fn(x.subspan(i, std::min(size, x.size() - i)));
}

void check_finite(std::span<const float> x, const std::string& name) {
  if (!std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); }))
    throw Error(ErrorCode::kInvalidArgument, name + " holds values that are not finite; it can't be rounded");
}

}  // namespace

const std::array<float, 16>& nf4_levels() {
  static constexpr std::array<float, 16> kLevels = {
      -1.0f,       -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
      0.07958030f, 0.16093020f,  0.24611230f,  0.33791524f,  0.44070983f,  0.56261700f,  0.72295684f,  1.0f};
  return kLevels;
}

void round_int4(std::span<float> row) {
  for_groups(row, kInt4Group, [](std::span<float> group) {
    const float scale = fp16_to_float(float_to_fp16(absmax(group) / 7));
    for (float& v : group) v = scale > 0 ? std::clamp(std::nearbyint(v / scale), -7.0f, 7.0f) * scale : 0.0f;
  });
}

void round_nf4(std::span<float> flat) {
  static const std::array<float, 15> kBoundaries = [] {
    std::array<float, 15> b{};
    for (size_t i = 0; i < 15; ++i) b[i] = (nf4_levels()[i] + nf4_levels()[i + 1]) / 2;
    return b;
  }();
  for_groups(flat, kNf4Group, [](std::span<float> group) {
    const float scale = absmax(group);
    for (float& v : group) {
      const float u = scale > 0 ? v / scale : 0.0f;
      const auto level = std::lower_bound(kBoundaries.begin(), kBoundaries.end(), u) - kBoundaries.begin();
      v = nf4_levels()[static_cast<size_t>(level)] * scale;
    }
  });
}

uint64_t baseline_bytes(Baseline kind, uint64_t rows, uint64_t cols) {
  const uint64_t n = checked_mul(rows, cols, "a matrix");
  return kind == Baseline::kInt4 ? rows * (ceil_div(cols, 2) + ceil_div(cols, kInt4Group) * sizeof(uint16_t))
                                 : ceil_div(n, 2) + ceil_div(n, kNf4Group) * sizeof(float);
}

std::map<std::string, uint64_t> write_baseline(const ModelSource& source, Baseline kind,
                                               const QuantPolicy& policy, const std::filesystem::path& out,
                                               ThreadPool& pool, const Progress& progress) {
  QuantizeOptions as_if;
  as_if.policy = policy;
  predict_quantized_bytes(source, as_if);  // the same refusals as hlwq quantize

  struct Planned {
    const Tensor* tensor;
    bool rounded;
    DType dtype;
  };
  std::vector<Planned> planned;
  std::vector<TensorSpec> specs;
  std::map<std::string, uint64_t> coded;
  uint64_t total = 0, done = 0;
  for (const Tensor& t : source.tensors->tensors()) {
    if (tensor_role(t.name) != TensorRole::kText || !info(t.dtype).is_float) continue;
    const bool rounded = policy.decide(t, false).format.has_value();
    // What stays is exact and no larger than it was.
    const bool halves = rounded || (t.dtype == DType::kBF16 && t.add == 0);
    planned.push_back({&t, rounded, halves ? DType::kBF16 : DType::kF32});
    specs.push_back({t.name, planned.back().dtype, t.shape});
    if (rounded) coded[t.name] = baseline_bytes(kind, t.rows(), t.cols());
    total += t.elements();
  }

  AtomicDirectory directory(out, false);
  SafetensorsWriter writer(directory.path(), specs, {{"format", "pt"}});
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  for (const Planned& p : planned) {
    const Tensor& t = *p.tensor;
    const uint64_t rows = t.rows(), cols = t.cols();
    if (t.elements() == 0) continue;
    // A multiple of 64 rows: groups of the flat weight then never cross slabs.
    const uint64_t slab = std::max<uint64_t>(1, kSlabFloats / cols / 64) * 64;
    for (uint64_t first = 0; first < rows; first += slab) {
      progress.step(done, total, t.name);
      const uint64_t n = std::min(slab, rows - first);
      floats.resize(n * cols);
      pool.parallel_for(n, 1 + 65536 / cols, [&](size_t begin, size_t end, int) {
        const std::span<float> part(floats.data() + begin * cols, (end - begin) * cols);
        decode_rows(t, first + begin, end - begin, part.data());
        if (!p.rounded) return;
        check_finite(part, t.name);
        if (kind == Baseline::kInt4) for_groups(part, cols, round_int4);
      });
      if (p.dtype == DType::kF32) {
        writer.append(floats.data(), floats.size() * sizeof(float));
      } else {
        halves.resize(floats.size());
        const uint64_t groups = ceil_div(floats.size(), kNf4Group);
        pool.parallel_for(groups, 1024, [&](size_t begin, size_t end, int) {
          const size_t from = begin * kNf4Group, to = std::min<size_t>(end * kNf4Group, floats.size());
          if (p.rounded && kind == Baseline::kNf4) round_nf4({floats.data() + from, to - from});
          for (size_t i = from; i < to; ++i) halves[i] = float_to_bf16(floats[i]);
        });
        writer.append(halves.data(), halves.size() * sizeof(uint16_t));
      }
      done += floats.size();
    }
    source.tensors->drop(t);
  }
  writer.finish();
  AtomicFile config(directory.path() / "config.json");
  config.write(source.config.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  config.commit();
  directory.commit();
  return coded;
}

}  // namespace hlwq
