#include "quant/allocation.h"

#include <algorithm>
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

struct Step {
  double gain;  // damage saved per byte
  size_t item, position;
  bool operator<(const Step& o) const { return gain != o.gain ? gain < o.gain : item > o.item; }
};

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

Allocation allocate(const std::vector<AllocationItem>& items, int lags, uint64_t budget) {
  const std::vector<HlwqFormat> formats = allocation_formats(lags);
  std::vector<double> mse;
  for (const HlwqFormat& f : formats) mse.push_back(expected_mse(f));

  Allocation result;
  std::vector<std::vector<uint64_t>> bytes(items.size());
  std::vector<std::vector<size_t>> hulls(items.size());
  std::vector<size_t> position(items.size(), 0);  // on the item's hull
  std::priority_queue<Step> steps;
  uint64_t largest = 0;
  const auto damage = [&](size_t i, size_t format) { return items[i].sensitivity * mse[format]; };
  const auto push = [&](size_t i) {
    if (position[i] + 1 >= hulls[i].size()) return;
    const size_t from = hulls[i][position[i]], to = hulls[i][position[i] + 1];
    steps.push({(damage(i, from) - damage(i, to)) / static_cast<double>(bytes[i][to] - bytes[i][from]), i,
                position[i]});
  };
  for (size_t i = 0; i < items.size(); ++i) {
    std::vector<double> all;
    for (size_t f = 0; f < formats.size(); ++f) {
      HlwqFormat format = formats[f];
      format.block = items[i].block;
      bytes[i].push_back(item_bytes(items[i], format));
      all.push_back(damage(i, f));
    }
    hulls[i] = hull(bytes[i], all);
    result.bytes = checked_add(result.bytes, bytes[i].front(), "the smallest checkpoint");
    largest = checked_add(largest, bytes[i].back(), "the largest checkpoint");
    push(i);
  }
  if (result.bytes > budget)
    throw Error(ErrorCode::kInvalidArgument,
                "the weights that can be quantized take from " + std::to_string(result.bytes) + " to " +
                    std::to_string(largest) + " bytes; " + std::to_string(budget) + " is too little");
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    const size_t i = step.item, from = hulls[i][position[i]], to = hulls[i][position[i] + 1];
    const uint64_t more = bytes[i][to] - bytes[i][from];
    if (more > budget - result.bytes) continue;  // smaller items may still fit
    result.bytes += more;
    ++position[i];
    push(i);
  }
  for (size_t i = 0; i < items.size(); ++i) {
    HlwqFormat f = formats[hulls[i][position[i]]];
    f.block = items[i].block;
    result.formats.push_back(f);
    result.predicted_kl += damage(i, hulls[i][position[i]]);
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
