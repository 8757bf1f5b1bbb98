// Routing tokens to experts and their linears on the GPU, against the CPU's choice and exact sums.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/half.h"
#include "cuda/dense.h"
#include "cuda/expert_routing.h"
#include "cuda/linear.h"
#include "linear_test_util.h"
#include "model/experts.h"

namespace hlwq::cuda {
namespace {

class ExpertsTest : public HlwqGpuTest {
 protected:
  template <typename T>
  std::vector<T> fetch(const T* from, uint64_t n) {
    wait();
    std::vector<T> v(n);
    check(cudaMemcpy(v.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost), "copying from the GPU");
    return v;
  }
  struct Routed {
    Buffer memory;
    std::unique_ptr<ExpertRouting> routing;
  };
  Routed route(const std::vector<float>& scores, const std::vector<float>& scale, uint64_t top_k,
               uint64_t tokens) {
    Routed r;
    const uint64_t experts = scale.size();
    r.memory = Buffer(ExpertRouting::bytes(experts, top_k, tokens), "routing");
    r.routing = std::make_unique<ExpertRouting>(experts, top_k, tokens, r.memory.as<void>());
    const Buffer s = to_device(scores), f = to_device(scale);
    r.routing->choose(s.as<float>(), f.as<float>(), tokens, stream_);
    wait();
    return r;
  }
};

TEST_F(ExpertsTest, ChoiceEqualsTheCpusAndSlotsAreSorted) {
  ThreadPool pool(1);
  const Compute compute{&kScalarKernels, &pool};
  for (const auto& [experts, top_k, tokens] : {std::array<uint64_t, 3>{128, 8, 1},
                                               {128, 8, 200},
                                               {5, 5, 3},
                                               {40, 1, 70},
                                               {1, 1, 9},
                                               {700, 3, 33},
                                               {4, 2, 512}}) {
    SCOPED_TRACE(std::to_string(experts) + " experts, " + std::to_string(top_k) + " of them, " +
                 std::to_string(tokens) + " tokens");
    std::vector<float> scores = test::gaussian(tokens * experts, 3), scale = test::gaussian(experts, 4);
    for (size_t i = 0; i < scores.size(); i += 3) scores[i] = std::round(scores[i]);  // some are equal
    if (experts > 30) scores[7] = -std::numeric_limits<float>::infinity();
    const uint64_t slots = tokens * top_k;
    std::vector<uint32_t> chosen(slots);
    std::vector<float> weights(slots);
    choose_experts(compute, scores.data(), tokens, experts, top_k, chosen.data(), weights.data());
    const Routed r = route(scores, scale, top_k, tokens);
    EXPECT_EQ(fetch(r.routing->chosen(), slots), chosen);
    const std::vector<float> got = fetch(r.routing->weights(), slots);
    // Exponentials within 2 units in the last place, a sum of top_k and two products.
    for (uint64_t s = 0; s < slots; ++s)
      EXPECT_NEAR(got[s], weights[s] * scale[chosen[s]], std::abs(weights[s] * scale[chosen[s]]) * 0x1p-20f);

    std::vector<uint32_t> expected(slots);
    for (uint32_t s = 0; s < slots; ++s) expected[s] = s;
    std::stable_sort(expected.begin(), expected.end(),
                     [&](uint32_t a, uint32_t b) { return chosen[a] < chosen[b]; });
    const std::vector<uint32_t> order = fetch(r.routing->order(), slots),
                                places = fetch(r.routing->places(), slots);
    EXPECT_EQ(order, expected);
    for (uint32_t p = 0; p < slots; ++p) EXPECT_EQ(places[order[p]], p);

    const LinearGroups groups = r.routing->from_tokens();
    const uint32_t n = fetch(groups.n_tiles, 1)[0];
    ASSERT_LE(n, r.routing->max_tiles());
    uint32_t at = 0;
    for (const LinearGroups::Tile& t : fetch(groups.tiles, n)) {
      EXPECT_EQ(t.first, at);
      EXPECT_GT(t.count, 0u);
      EXPECT_LE(t.count, r.routing->tile_tokens());
      for (uint32_t i = 0; i < t.count; ++i) EXPECT_EQ(chosen[order[at + i]], t.matrix);
      at += t.count;
    }
    EXPECT_EQ(at, slots);
  }
}

TEST_F(ExpertsTest, ScoresThatAreNoNumbersStillChooseExperts) {
  const std::vector<float> scores(3 * 40, std::nanf(""));
  const Routed r = route(scores, std::vector<float>(40, 1.0f), 4, 3);
  EXPECT_EQ(fetch(r.routing->chosen(), 12), (std::vector<uint32_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}));
}

TEST_F(ExpertsTest, QuantisedExpertsEqualExactSums) {
  const uint64_t experts = 6, rows = 21, cols = 700, top_k = 2;
  const std::array<int, 3> formats[] = {{2, 1, 128}, {3, 2, 128}, {4, 1, 128}, {4, 3, 128}, {5, 1, 256},
                                        {5, 2, 256}, {6, 1, 128}, {6, 2, 512}, {2, 1, 64},  {3, 2, 32},
                                        {4, 3, 64},  {5, 1, 64},  {5, 2, 32},  {6, 1, 32},  {6, 2, 64}};
  for (const auto& [bits, lags, block] : formats)
    for (uint64_t tokens : {1, 3, 40, 150}) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(lags) + " lags, blocks of " +
                   std::to_string(block) + ", " + std::to_string(tokens) + " tokens");
      const HlwqFormat format{bits, lags, block};
      const test::OwnedMatrix m(format, experts * rows, cols, 5);
      const OnDevice stack = upload(m);
      const uint64_t slots = tokens * top_k;
      const Routed r =
          route(test::gaussian(tokens * experts, 6), std::vector<float>(experts, 1.0f), top_k, tokens);
      const std::vector<uint32_t> order = fetch(r.routing->order(), slots),
                                  chosen = fetch(r.routing->chosen(), slots);
      for (const bool by_place : {false, true}) {
        const uint64_t inputs = by_place ? slots : tokens;
        const QuantizedActivations q =
            test::quantize(kScalarKernels, test::gaussian(inputs * cols, 7), inputs, cols, format.block);
        Buffer memory;
        const DeviceActivations x = upload(q, memory);
        const Buffer y = to_device(std::vector<float>(slots * rows, std::nanf("")));
        linear_grouped(x, stack.matrix, rows, by_place ? r.routing->from_places() : r.routing->from_tokens(),
                       r.routing->max_tiles(), r.routing->tile_tokens(), y.as<float>(), stream_);
        const std::vector<float> out = to_host<float>(y);
        for (uint64_t p = 0; p < slots; ++p)
          for (uint64_t row = 0; row < rows; ++row) {
            const uint64_t token = by_place ? p : order[p] / top_k;
            const test::Exact e = test::exact_output(m, q, chosen[order[p]] * rows + row, token);
            ASSERT_NEAR(out[p * rows + row], e.value, e.tolerance) << "place " << p << ", row " << row;
          }
      }
    }
  EXPECT_FALSE(has_grouped_kernel({8, 1, 128}));
  EXPECT_FALSE(has_grouped_kernel({5, 3, 128}));
}

// Floats in any order are off by at most n 2^-24 of the sum of the products' magnitudes.
TEST_F(ExpertsTest, PlainExpertsEqualExactSums) {
  const uint64_t experts = 5, rows = 13, top_k = 3;
  for (const bool bf16 : {false, true})
    for (const uint64_t cols : {40, 83})
      for (const uint64_t tokens : {1, 4, 90}) {
        const std::vector<float> w = test::gaussian(experts * rows * cols, 8),
                                 x = test::gaussian(tokens * cols, 9);
        std::vector<uint16_t> halves(w.size());
        std::transform(w.begin(), w.end(), halves.begin(), float_to_bf16);
        Tensor t;
        t.dtype = bf16 ? DType::kBF16 : DType::kF32;
        t.shape = {experts * rows, cols};
        t.data = bf16 ? std::as_bytes(std::span(halves)) : std::as_bytes(std::span(w));
        const DenseMatrix stack(Weight{.dense = &t}, "experts");
        const Routed r =
            route(test::gaussian(tokens * experts, 6), std::vector<float>(experts, 1.0f), top_k, tokens);
        const uint64_t slots = tokens * top_k;
        const std::vector<uint32_t> order = fetch(r.routing->order(), slots),
                                    chosen = fetch(r.routing->chosen(), slots);
        const Buffer in = to_device(x), y = to_device(std::vector<float>(slots * rows, std::nanf("")));
        dense_grouped(stack, rows, in.as<float>(), r.routing->from_tokens(), r.routing->max_tiles(),
                      y.as<float>(), stream_);
        const std::vector<float> out = to_host<float>(y);
        for (uint64_t p = 0; p < slots; ++p)
          for (uint64_t row = 0; row < rows; ++row) {
            double sum = 0, magnitude = 0;
            for (uint64_t c = 0; c < cols; ++c) {
              const uint64_t at = (chosen[order[p]] * rows + row) * cols + c;
              const double v = static_cast<double>(bf16 ? bf16_to_float(halves[at]) : w[at]) *
                               x[order[p] / top_k * cols + c];
              sum += v;
              magnitude += std::abs(v);
            }
            ASSERT_NEAR(out[p * rows + row], sum, magnitude * static_cast<double>(cols) * 0x1p-24);
          }
      }
}

TEST_F(ExpertsTest, OutputsAreNormedAndAdded) {
  const uint64_t tokens = 7, width = 333, experts = 9, top_k = 3, slots = tokens * top_k;
  const Routed r = route(test::gaussian(tokens * experts, 1), test::gaussian(experts, 2), top_k, tokens);
  const std::vector<float> outputs = test::gaussian(slots * width, 3),
                           dense = test::gaussian(tokens * width, 4), norm = test::gaussian(width, 5),
                           dense_norm = test::gaussian(width, 6);
  const Buffer o = to_device(outputs), d = to_device(dense), n = to_device(norm), dn = to_device(dense_norm);
  add_experts({.tokens = tokens,
               .width = width,
               .top_k = top_k,
               .outputs = o.as<float>(),
               .weights = r.routing->weights(),
               .places = r.routing->places(),
               .norm = n.as<float>(),
               .dense_norm = dn.as<float>(),
               .dense = d.as<float>()},
              stream_);
  const std::vector<float> got = to_host<float>(d), weights = fetch(r.routing->weights(), slots);
  const std::vector<uint32_t> places = fetch(r.routing->places(), slots);
  for (uint64_t t = 0; t < tokens; ++t) {
    std::vector<double> sum(width);
    double of_sum = 0, of_dense = 0;
    for (uint64_t i = 0; i < width; ++i) {
      for (uint64_t k = t * top_k; k < (t + 1) * top_k; ++k)
        sum[i] += static_cast<double>(weights[k]) * outputs[places[k] * width + i];
      of_sum += sum[i] * sum[i];
      of_dense += static_cast<double>(dense[t * width + i]) * dense[t * width + i];
    }
    const double w = static_cast<double>(width);
    for (uint64_t i = 0; i < width; ++i) {
      const double a = dense[t * width + i] / std::sqrt(of_dense / w + 1e-6) * dense_norm[i];
      const double b = sum[i] / std::sqrt(of_sum / w + 1e-6) * norm[i];
      // A few roundings each; the sum of three products may cancel, to which its own size is no measure.
      EXPECT_NEAR(got[t * width + i], a + b, (std::abs(a) + std::abs(b) + 4 * std::abs(norm[i])) * 0x1p-20);
    }
  }
}

}  // namespace
}  // namespace hlwq::cuda
