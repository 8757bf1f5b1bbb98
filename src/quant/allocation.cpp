#include "quant/allocation.h"

#include <algorithm>
#include <optional>
#include <queue>

#include "base/checked.h"
#include "hlwq/error.h"
#include "quant/codebook.h"
#include "quant/coupled_tables.h"

namespace hlwq {
namespace {

/// Formats of one item on the lower convex hull of (bytes, damage), from the smallest on.
std::vector<size_t> hull(const std::vector<uint64_t>& bytes, const std::vector<double>& damage) {
  std::vector<size_t> kept;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto slope = [&](size_t a, size_t b) {
      return (damage[a] - damage[b]) / static_cast<double>(bytes[b] - bytes[a]);
    };
    while (kept.size() >= 2 && slope(kept[kept.size() - 2], kept.back()) <= slope(kept.back(), i))
      kept.pop_back();
    kept.push_back(i);
  }
  return kept;
}

/// Bytes and predicted damage of every item in every format.
class Costs {
 public:
  Costs(const std::vector<AllocationItem>& items, const std::vector<HlwqFormat>& formats) {
    std::vector<double> mse;
    for (const HlwqFormat& f : formats) mse.push_back(expected_mse(f));
    for (const AllocationItem& item : items) {
      std::vector<uint64_t> bytes;
      std::vector<double> damage;
      for (size_t f = 0; f < formats.size(); ++f) {
        HlwqFormat format = formats[f];
        format.block = item.block;
        bytes.push_back(item_bytes(item, format));
        damage.push_back(item.sensitivity * mse[f]);
      }
      hulls_.push_back(hull(bytes, damage));
      bytes_.push_back(std::move(bytes));
      damage_.push_back(std::move(damage));
    }
  }
  size_t items() const { return bytes_.size(); }
  uint64_t bytes(size_t item, size_t format) const { return bytes_[item][format]; }
  double damage(size_t item, size_t format) const { return damage_[item][format]; }
  const std::vector<size_t>& useful(size_t item) const { return hulls_[item]; }

 private:
  std::vector<std::vector<uint64_t>> bytes_;
  std::vector<std::vector<double>> damage_;
  std::vector<std::vector<size_t>> hulls_;
};

struct Choice {
  std::vector<size_t> formats;  // one an item
  uint64_t bytes = 0;
  double damage = 0;
};

/// The item `fixed` stays in `format`; all others take steps along their hulls, those that save most damage
/// per byte first, as long as they fit. Nothing when not even the smallest formats do.
std::optional<Choice> walk(const Costs& costs, size_t fixed, size_t format, uint64_t budget) {
  struct Step {
    double gain;  // damage saved per byte
    size_t item, position;
    bool operator<(const Step& o) const { return gain != o.gain ? gain < o.gain : item > o.item; }
  };
  Choice choice;
  for (size_t i = 0; i < costs.items(); ++i) {
    choice.formats.push_back(i == fixed ? format : costs.useful(i).front());
    choice.bytes += costs.bytes(i, choice.formats[i]);  // the sum of the largest fits, by allocation_range
  }
  if (choice.bytes > budget) return std::nullopt;
  std::priority_queue<Step> steps;
  const auto push = [&](size_t i, size_t position) {
    const auto& useful = costs.useful(i);
    if (i == fixed || position >= useful.size()) return;
    const size_t from = useful[position - 1], to = useful[position];
    steps.push({(costs.damage(i, from) - costs.damage(i, to)) /
                    static_cast<double>(costs.bytes(i, to) - costs.bytes(i, from)),
                i, position});
  };
  for (size_t i = 0; i < costs.items(); ++i) push(i, 1);
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    const size_t i = step.item, to = costs.useful(i)[step.position];
    const uint64_t more = costs.bytes(i, to) - costs.bytes(i, choice.formats[i]);
    if (more > budget - choice.bytes) continue;  // smaller items may still fit
    choice.bytes += more;
    choice.formats[i] = to;
    push(i, step.position + 1);
  }
  for (size_t i = 0; i < costs.items(); ++i) choice.damage += costs.damage(i, choice.formats[i]);
  return choice;
}

}  // namespace

double expected_mse(const HlwqFormat& format) {
  if (const CoupledTable* table = coupled_table(format.bits, format.lags)) return table->mse;
  return gaussian_mse(lloyd_max_codebook(format.bits));
}

uint64_t item_bytes(const AllocationItem& item, const HlwqFormat& format) {
  const uint64_t row = format.row_bytes(item.cols) + 2 * format.row_blocks(item.cols);
  return checked_mul(item.rows, row, item.name);
}

std::vector<HlwqFormat> allocation_formats(int lags) {
  std::vector<HlwqFormat> formats;
  for (int bits = 2; bits <= 8; ++bits) {
    int n = lags;
    while (!has_standard_codebook(bits, n)) --n;
    formats.push_back({bits, n, 128});
  }
  return formats;
}

AllocationRange allocation_range(const std::vector<AllocationItem>& items, int lags) {
  const std::vector<HlwqFormat> formats = allocation_formats(lags);
  AllocationRange range;
  for (const AllocationItem& item : items) {
    HlwqFormat narrow = formats.front(), wide = formats.back();
    narrow.block = wide.block = item.block;
    range.least = checked_add(range.least, item_bytes(item, narrow), "the smallest checkpoint");
    range.most = checked_add(range.most, item_bytes(item, wide), "the largest checkpoint");
  }
  return range;
}

Allocation allocate(const std::vector<AllocationItem>& items, int lags, uint64_t budget) {
  const AllocationRange range = allocation_range(items, lags);
  if (range.least > budget)
    throw Error(ErrorCode::kInvalidArgument,
                "the weights that can be quantized take from " + std::to_string(range.least) + " to " +
                    std::to_string(range.most) + " bytes; " + std::to_string(budget) + " is too little");
  if (items.empty()) return {};
  const std::vector<HlwqFormat> formats = allocation_formats(lags);
  const Costs costs(items, formats);
  // Where one tensor is a good part of all, as a small model's embedding is, a walk may miss the best by that
  // tensor's steps: so each of its formats is tried.
  size_t largest = 0;
  for (size_t i = 1; i < items.size(); ++i)
    if (costs.bytes(i, 0) > costs.bytes(largest, 0)) largest = i;
  std::optional<Choice> best;
  for (size_t f = 0; f < formats.size(); ++f)
    if (const auto choice = walk(costs, largest, f, budget);
        choice && (!best || choice->damage < best->damage))
      best = choice;
  Allocation result;
  result.bytes = best->bytes;
  result.predicted_kl = best->damage;
  for (size_t i = 0; i < items.size(); ++i) {
    result.formats.push_back(formats[best->formats[i]]);
    result.formats.back().block = items[i].block;
  }
  return result;
}

std::string policy_json(const std::vector<AllocationItem>& items, const Allocation& allocation,
                        const OrderedJson& about) {
  OrderedJson rules = OrderedJson::array();
  for (size_t i = 0; i < items.size(); ++i)
    rules.push_back({{"match", items[i].name},
                     {"bits", allocation.formats[i].bits},
                     {"lags", allocation.formats[i].lags},
                     {"block", allocation.formats[i].block}});
  // One rule a line, so that a person can read and edit it.
  std::string text = "{\n\"about\": " + about.dump() + ",\n\"rules\": [";
  for (size_t i = 0; i < rules.size(); ++i) text += (i ? ",\n" : "\n") + rules[i].dump();
  return text + "\n]}\n";
}

}  // namespace hlwq
