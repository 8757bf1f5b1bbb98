// Linears and what stands between them on the GPU, against exact arithmetic and the scalar kernels.
#include "cuda/linear.h"

#include "cuda/activations.h"
#include "cuda/dense.h"
#include "linear_test_util.h"

namespace hlwq::cuda {
namespace {

class LinearTest : public HlwqGpuTest {
 protected:
  // Every output of `tokens` tokens against exact arithmetic; two matrices share the call, and outputs are
  // poisoned first.
  void check_format(HlwqFormat f, uint64_t rows, uint64_t cols, uint64_t tokens, bool bf16 = false) {
    SCOPED_TRACE(format_label(f) + " block " + std::to_string(f.block) + ", " + std::to_string(rows) + " x " +
                 std::to_string(cols) + ", " + std::to_string(tokens) + " tokens");
    const test::OwnedMatrix a(f, rows, cols, 3), b(f, rows / 2 + 1, cols, 4);
    const QuantizedActivations q =
        test::quantize(kScalarKernels, test::gaussian(tokens * cols, 5), tokens, cols, f.block);
    Buffer memory;
    const DeviceActivations x = upload(q, memory);
    const OnDevice da = upload(a), db = upload(b);
    const uint64_t stride = a.matrix.rows + b.matrix.rows + 3;
    const Buffer y = to_device(std::vector<float>(tokens * stride, std::nanf("")));
    const DeviceTask tasks[] = {{da.matrix, y.as<float>(), stride},
                                {db.matrix, y.as<float>() + a.matrix.rows, stride}};
    LinearResources resources = linear_resources(0);
    Cublas cublas;
    resources.prefers_bf16 = bf16;
    resources.cublas = bf16 ? &cublas : nullptr;
    const Buffer scratch(linear_scratch_bytes(tokens, rows, cols), "scratch");
    resources.scratch = scratch.as<void>();
    resources.scratch_bytes = scratch.bytes();
    linear(x, tasks, resources, stream_);
    const std::vector<float> out = to_host<float>(y);
    const uint64_t token_step = std::max<uint64_t>(1, tokens / 7);
    for (uint64_t t = 0; t < tokens;
         t += t + token_step < tokens || t + 1 == tokens ? token_step : tokens - 1 - t)
      for (uint64_t r = 0; r < stride - 3; ++r) {
        const bool first = r < a.matrix.rows;
        const test::Exact e = test::exact_output(first ? a : b, q, first ? r : r - a.matrix.rows, t);
        // Through BF16, every factor is rounded by up to 2^-9 of itself; errors of a sum of thousands of
        // terms of both signs add up to far less than the sum of their sizes.
        const double rounding = bf16 ? e.terms * 0x1p-9 : 0;
        ASSERT_NEAR(out[t * stride + r], e.value, e.tolerance + rounding) << "row " << r << ", token " << t;
      }
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t i = stride - 3; i < stride; ++i)
        ASSERT_TRUE(std::isnan(out[t * stride + i])) << "written past the rows";
  }
};

const std::vector<std::pair<int, int>>& formats() {
  static const std::vector<std::pair<int, int>> all{{2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1},
                                                    {7, 1}, {8, 1}, {2, 2}, {3, 2}, {4, 2},
                                                    {5, 2}, {6, 2}, {2, 3}, {3, 3}, {4, 3}};
  return all;
}

TEST_F(LinearTest, OneTokenInEveryFormatAndBlock) {
  for (auto [bits, lags] : formats())
    for (int block : {32, 64, 128, 256, 512}) check_format({bits, lags, block}, 37, 1000, 1);
}

TEST_F(LinearTest, LongRowsAreSplit) {
  for (auto [bits, lags] : formats()) check_format({bits, lags, 128}, 70, 128 * 97 + 5, 1);
}

TEST_F(LinearTest, ManyRowsTakeTheWideKernel) {
  // Enough rows for 16 warps a multiprocessor with 4 rows each.
  const auto rows = static_cast<uint64_t>(linear_resources(0).multiprocessors) * 16 * 4 / 2 * 4 / 3 + 5;
  check_format({5, 2, 128}, rows, 300, 1);
  check_format({4, 2, 128}, rows, 300, 1);
  check_format({4, 1, 128}, rows, 300, 1);
}

TEST_F(LinearTest, AFewTokens) {
  for (auto [bits, lags] : formats())
    for (uint64_t tokens : {2, 7, 8, 9, 16, 31, 32}) check_format({bits, lags, 128}, 45, 1100, tokens);
  for (int block : {32, 64, 256, 512}) check_format({5, 2, block}, 45, 1100, 5);
}

TEST_F(LinearTest, ManyTokens) {
  for (auto [bits, lags] : formats())
    for (uint64_t tokens : {33, 130, 300}) check_format({bits, lags, 128}, 139, 700, tokens);
  for (int block : {64, 256, 512}) check_format({5, 2, block}, 139, 1100, 129);
}

TEST_F(LinearTest, ManyTokensThroughBf16) {
  for (auto [bits, lags] : formats())
    for (uint64_t tokens : {33, 130}) check_format({bits, lags, 128}, 139, 700, tokens, true);
  for (int block : {64, 256, 512})
    for (int lags : {1, 2}) check_format({5, lags, block}, 139, 1100, 129, true);
}

TEST_F(LinearTest, MatricesThatDoNotFitAreRefused) {
  const test::OwnedMatrix m({5, 1, 128}, 8, 256, 1);
  const OnDevice d = upload(m);
  Buffer memory(DeviceActivations::bytes(1, 384, 128), "activations");
  const DeviceActivations x = DeviceActivations::place(memory.as<void>(), 1, 384, 128);
  const Buffer y(8 * 4, "outputs");
  const DeviceTask task{d.matrix, y.as<float>(), 8};
  EXPECT_THROW(linear(x, {&task, 1}, linear_resources(0), stream_), Error);
}

// Rows of an embedding: the double-precision decoding within the rounding of 9 additions and 3 products.
TEST_F(LinearTest, RowsAreDecoded) {
  for (auto [bits, lags] : formats())
    for (int block : {32, 128, 512}) {
      const test::OwnedMatrix m({bits, lags, block}, 11, 700, 2);
      const OnDevice d = upload(m);
      const std::vector<int32_t> ids{10, 0, 3, 3};
      const Buffer device_ids = to_device(ids), out(4 * 700 * 4, "rows");
      decode_rows(d.matrix, device_ids.as<int32_t>(), 4, 2.5f, out.as<float>(), stream_);
      const std::vector<float> got = to_host<float>(out);
      std::vector<float> expected(700);
      for (size_t t = 0; t < 4; ++t) {
        weight_row({.hlwq = &m.matrix}, static_cast<uint64_t>(ids[t]), expected.data());
        for (size_t i = 0; i < 700; ++i)
          ASSERT_NEAR(got[t * 700 + i], 2.5f * expected[i],
                      2.5f * 64 * 0x1p-22f * std::sqrt(static_cast<float>(block)) / 8)
              << format_label({bits, lags, block}) << ", row " << ids[t] << ", column " << i;
      }
    }
}

// Without a norm, rotation and quantisation are the CPU's bit for bit.
TEST_F(LinearTest, QuantisedRowsEqualTheScalarKernels) {
  const uint64_t cols = 1100, tokens = 3;
  std::vector<float> x = test::gaussian(tokens * cols, 8);
  for (uint64_t i = 0; i < 512; ++i) x[cols + i] = 0;  // a block of zeros
  x[2 * cols + 5] = 1e30f;
  const Buffer in = to_device(x);
  for (int block : {32, 64, 128, 256, 512}) {
    const QuantizedActivations expected = test::quantize(kScalarKernels, x, tokens, cols, block);
    const uint64_t n = tokens * expected.blocks * static_cast<uint64_t>(block);
    Buffer memory(DeviceActivations::bytes(tokens, cols, block), "activations");
    const DeviceActivations out = DeviceActivations::place(memory.as<void>(), tokens, cols, block);
    quantize_step(in.as<float>(), out, 3, stream_);
    wait();
    for (int lag = 0; lag < 3; ++lag) {
      std::vector<int8_t> q(n);
      check(cudaMemcpy(q.data(), out.q[lag], n, cudaMemcpyDeviceToHost), "copying");
      const int8_t* want = lag ? expected.turned[lag - 1].data() : expected.q.data();
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t in_block = i % static_cast<uint64_t>(block);
        ASSERT_EQ(q[i - in_block + pair_place(in_block, static_cast<uint64_t>(block))], want[i])
            << "block " << block << ", lag " << lag << ", value " << i;
      }
    }
    std::vector<float2> scale_sum(tokens * expected.blocks);
    check(cudaMemcpy(scale_sum.data(), out.scale_sum, scale_sum.size() * sizeof(float2),
                     cudaMemcpyDeviceToHost),
          "copying");
    for (size_t i = 0; i < scale_sum.size(); ++i) {
      ASSERT_FLOAT_EQ(scale_sum[i].x, expected.scale[i]);
      ASSERT_EQ(scale_sum[i].y, static_cast<float>(expected.sum[i]));
    }
  }
}

TEST_F(LinearTest, WhatIsNotFiniteStaysVisible) {
  std::vector<float> x = test::gaussian(256, 8);
  x[200] = std::numeric_limits<float>::infinity();
  const Buffer in = to_device(x);
  Buffer memory(DeviceActivations::bytes(1, 256, 128), "activations");
  const DeviceActivations out = DeviceActivations::place(memory.as<void>(), 1, 256, 128);
  quantize_step(in.as<float>(), out, 1, stream_);
  wait();
  float2 s[2];
  check(cudaMemcpy(s, out.scale_sum, sizeof s, cudaMemcpyDeviceToHost), "copying");
  EXPECT_FALSE(std::isnan(s[0].x));
  EXPECT_TRUE(std::isnan(s[1].x));
}

// x + norm(projected), its scale, and the next norm, against double precision. A row of n values sums n
// squares: relative error n 2^-24 at most before the root; 1e-5 covers n = 700 and the products that follow.
TEST_F(LinearTest, ResidualSteps) {
  const uint64_t n = 700;
  for (uint64_t tokens : {1, 3, 70}) {
    const auto x = test::gaussian(tokens * n, 1), p = test::gaussian(tokens * n, 2),
               w1 = test::gaussian(n, 3), w2 = test::gaussian(n, 4);
    const Buffer dx = to_device(x), dp = to_device(p), d1 = to_device(w1), d2 = to_device(w2),
                 xo(tokens * n * 4, "x"), normed(tokens * n * 4, "normed");
    ResidualStep s{.tokens = tokens,
                   .width = n,
                   .eps = 1e-6f,
                   .x = dx.as<float>(),
                   .projected = dp.as<float>(),
                   .delta_norm = d1.as<float>(),
                   .scale = 0.75f,
                   .norm = d2.as<float>(),
                   .normed = normed.as<float>(),
                   .x_out = xo.as<float>()};
    residual_step(s, nullptr, 1, stream_);
    const auto got_x = to_host<float>(xo), got_n = to_host<float>(normed);
    for (uint64_t t = 0; t < tokens; ++t) {
      double squares = 0, squares2 = 0;
      for (uint64_t i = 0; i < n; ++i) squares += static_cast<double>(p[t * n + i]) * p[t * n + i];
      std::vector<double> v(n);
      for (uint64_t i = 0; i < n; ++i) {
        v[i] = (x[t * n + i] + p[t * n + i] / std::sqrt(squares / n + 1e-6) * w1[i]) * 0.75;
        squares2 += v[i] * v[i];
      }
      for (uint64_t i = 0; i < n; ++i) {
        ASSERT_NEAR(got_x[t * n + i], v[i], 1e-5 * (1 + std::fabs(v[i])));
        const double want = v[i] / std::sqrt(squares2 / n + 1e-6) * w2[i];
        ASSERT_NEAR(got_n[t * n + i], want, 1e-5 * (1 + std::fabs(want)));
      }
    }
  }
}

TEST_F(LinearTest, GatedActivations) {
  const uint64_t n = 333, tokens = 2;
  const auto both = test::gaussian(tokens * 2 * n, 6);
  const Buffer d = to_device(both), out(tokens * n * 4, "out");
  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    gated_step(d.as<float>(), d.as<float>() + n, 2 * n, tokens, n, activation, nullptr, 1, out.as<float>(),
               stream_);
    const auto got = to_host<float>(out);
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t i = 0; i < n; ++i) {
        const double g = both[t * 2 * n + i], u = both[t * 2 * n + n + i];
        const double a = activation == Activation::kSilu
                             ? g / (1 + std::exp(-g))
                             : 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
        ASSERT_NEAR(got[t * n + i], a * u, 2e-6 * (1 + std::fabs(g * u)));
      }
  }
}

// Norms, rotary embedding and packing of heads. Angles are float(position) * inv_freq rounded to float on
// both sides, so only the functions' own rounding is left: 1e-5 for vectors of unit size.
TEST_F(LinearTest, HeadSteps) {
  for (uint64_t dim : {64, 72, 512}) {
    const uint64_t heads = 4, kv = 2, tokens = 3, stride = (heads + 2 * kv) * dim + 7;
    const auto x = test::gaussian(tokens * stride, 9), wq = test::gaussian(dim, 10),
               wk = test::gaussian(dim, 11);
    std::vector<float> freq(dim / 2, 0.0f);
    for (uint64_t i = 0; i < dim / 4; ++i)
      freq[i] = std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
    const std::vector<uint64_t> positions{1000, 5, 200000};
    const Buffer dx = to_device(x), dq = to_device(wq), dk = to_device(wk), df = to_device(freq),
                 dp = to_device(positions), qo(tokens * heads * dim * 4, "q"), ko(tokens * kv * dim * 4, "k"),
                 vo(tokens * kv * dim * 4, "v");
    HeadStep s{.tokens = tokens,
               .heads = heads,
               .kv_heads = kv,
               .head_dim = dim,
               .q_stride = stride,
               .kv_stride = stride,
               .q = dx.as<float>(),
               .k = dx.as<float>() + heads * dim,
               .v = dx.as<float>() + (heads + kv) * dim,
               .q_out = qo.as<float>(),
               .k_out = ko.as<float>(),
               .v_out = vo.as<float>(),
               .q_norm = dq.as<float>(),
               .k_norm = dk.as<float>(),
               .v_norm = true,
               .eps = 1e-6f,
               .inv_freq = df.as<float>(),
               .rope_scale = 1,
               .positions = dp.as<uint64_t>(),
               .tokens_each = 1,
               .keys_rebuilt = false};
    head_step(s, stream_);
    const auto q = to_host<float>(qo), k = to_host<float>(ko), v = to_host<float>(vo);
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t h = 0; h < heads + 2 * kv; ++h) {
        const float* in = &x[t * stride + h * dim];
        double squares = 0;
        for (uint64_t i = 0; i < dim; ++i) squares += static_cast<double>(in[i]) * in[i];
        std::vector<double> e(dim);
        const auto& w = h < heads ? wq : wk;
        const bool value = h >= heads + kv;
        for (uint64_t i = 0; i < dim; ++i)
          e[i] = in[i] / std::sqrt(squares / static_cast<double>(dim) + 1e-6) * (value ? 1.0f : w[i]);
        if (!value)
          for (uint64_t i = 0; i < dim / 2; ++i) {
            const double angle = static_cast<float>(positions[t]) * freq[i], a = e[i], b = e[dim / 2 + i];
            e[i] = a * std::cos(angle) - b * std::sin(angle);
            e[dim / 2 + i] = b * std::cos(angle) + a * std::sin(angle);
          }
        const float* got = value       ? &v[(t * kv + h - heads - kv) * dim]
                           : h < heads ? &q[(t * heads + h) * dim]
                                       : &k[(t * kv + h - heads) * dim];
        for (uint64_t i = 0; i < dim; ++i)
          ASSERT_NEAR(got[i], e[i], 1e-5 * (1 + std::fabs(e[i]))) << dim << " " << h << " " << i;
      }
  }
}

}  // namespace
}  // namespace hlwq::cuda
