// The float kernels of every implementation against double precision, at lengths around every vector width.
#include <limits>

#include "ops/ops_test_util.h"

namespace hlwq {
namespace {

constexpr double kEps = 0x1p-24;  // half a unit in the last place of a float, relative

const uint64_t kLengths[] = {0, 1, 7, 8, 9, 31, 32, 33, 64, 100, 257, 1000};

class VectorKernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const VectorKernels& k() const { return GetParam()->vector; }
};

struct Sum {
  double value = 0, terms = 0;
  void add(double v) { value += v, terms += std::fabs(v); }
  /// Any order of n float additions of rounded products.
  double tolerance(uint64_t n) const { return terms * kEps * (static_cast<double>(n) + 2) + 1e-37; }
};

std::vector<uint16_t> to_bf16(const std::vector<float>& x) {
  std::vector<uint16_t> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = float_to_bf16(x[i]);
  return y;
}

TEST_P(VectorKernelsTest, Dots) {
  for (uint64_t n : kLengths) {
    const auto a = test::gaussian(n, 1), b = test::gaussian(n, 2);
    const auto c = to_bf16(b);
    Sum ab, ac, aa;
    for (uint64_t i = 0; i < n; ++i) {
      ab.add(static_cast<double>(a[i]) * b[i]);
      ac.add(static_cast<double>(a[i]) * bf16_to_float(c[i]));
      aa.add(static_cast<double>(a[i]) * a[i]);
    }
    EXPECT_NEAR(k().dot(a.data(), b.data(), n), ab.value, ab.tolerance(n)) << n;
    EXPECT_NEAR(k().dot_bf16(a.data(), c.data(), n), ac.value, ac.tolerance(n)) << n;
    EXPECT_NEAR(k().sum_sq(a.data(), n), aa.value, aa.tolerance(n)) << n;
  }
}

TEST_P(VectorKernelsTest, Axpy) {
  for (uint64_t n : kLengths) {
    const auto x = test::gaussian(n, 3), y0 = test::gaussian(n + 1, 4);
    const auto xb = to_bf16(x);
    auto y = y0, yb = y0;
    k().axpy(0.37f, x.data(), y.data(), n);
    k().axpy_bf16(0.37f, xb.data(), yb.data(), n);
    for (uint64_t i = 0; i < n; ++i) {
      const double product = 0.37f * static_cast<double>(x[i]),
                   rounded = 0.37f * static_cast<double>(bf16_to_float(xb[i]));
      // Rounded once (fused) or twice.
      EXPECT_NEAR(y[i], y0[i] + product, 2 * kEps * (std::fabs(product) + std::fabs(y0[i])));
      EXPECT_NEAR(yb[i], y0[i] + rounded, 2 * kEps * (std::fabs(rounded) + std::fabs(y0[i])));
    }
    EXPECT_EQ(y[n], y0[n]) << "wrote past the end";
    EXPECT_EQ(yb[n], y0[n]) << "wrote past the end";
  }
}

TEST_P(VectorKernelsTest, Gemm) {
  for (uint64_t rows : {1, 3, 4, 17})
    for (uint64_t cols : {1, 8, 37, 576, 2050})
      for (uint64_t tokens : {1, 2, 3, 5, 50}) {
        const uint64_t x_stride = cols + 2, y_stride = rows + 1;
        const auto w = test::gaussian(rows * cols, 5), x = test::gaussian(tokens * x_stride, 6);
        std::vector<float> y(tokens * y_stride, -7.0f);
        k().gemm(w.data(), rows, cols, x.data(), x_stride, tokens, y.data(), y_stride);
        for (uint64_t t = 0; t < tokens; ++t) {
          for (uint64_t r = 0; r < rows; ++r) {
            Sum sum;
            for (uint64_t i = 0; i < cols; ++i)
              sum.add(static_cast<double>(w[r * cols + i]) * x[t * x_stride + i]);
            ASSERT_NEAR(y[t * y_stride + r], sum.value, sum.tolerance(cols))
                << rows << "x" << cols << "x" << tokens;
          }
          ASSERT_EQ(y[t * y_stride + rows], -7.0f) << "wrote between the rows";
        }
      }
}

TEST_P(VectorKernelsTest, Softmax) {
  for (uint64_t n : kLengths) {
    auto x = test::gaussian(n + 1, 7);
    for (auto& v : x) v *= 12;
    if (n > 8) x[3] = -std::numeric_limits<float>::infinity();  // a masked position
    const auto x0 = x;
    const float got = k().softmax_unnormalized(x.data(), n);
    const float top = n ? *std::max_element(x0.begin(), x0.begin() + static_cast<long>(n)) : 0;
    double total = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const double want = std::exp(static_cast<double>(x0[i]) - top);
      // The subtraction rounds by half a unit of |x - max|, which the exponential turns into a relative
      // error.
      const double relative = 1e-6 + std::fabs(static_cast<double>(x0[i]) - top) * kEps;
      EXPECT_NEAR(x[i], want, std::isinf(x0[i]) ? 0 : want * relative + 1e-37) << x0[i] - top;
      total += x[i];
    }
    EXPECT_NEAR(got, total, total * kEps * static_cast<double>(n + 2));
    EXPECT_EQ(x[n], x0[n]) << "wrote past the end";
  }
}

TEST_P(VectorKernelsTest, SoftmaxOverTheWholeRange) {
  std::vector<float> x;
  for (double v = 0; v > -120; v -= 0.013) x.push_back(static_cast<float>(v));
  auto y = x;
  k().softmax_unnormalized(y.data(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    EXPECT_NEAR(y[i], want, want * 1e-6 + 1.5e-38)
        << x[i];  // below the normal floats: zero or denormal, both right
  }
}

TEST_P(VectorKernelsTest, SoftmaxKeepsNan) {
  std::vector<float> x(20, 1.0f);
  x[18] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(k().softmax_unnormalized(x.data(), x.size())));
}

TEST_P(VectorKernelsTest, GatedActivations) {
  for (uint64_t n : kLengths) {
    auto gate = test::gaussian(n, 8);
    const auto up = test::gaussian(n, 9);
    for (uint64_t i = 0; i < n; ++i) gate[i] *= i % 3 == 0 ? 30.0f : 2.0f;
    if (n > 20) gate[11] = 0, gate[12] = 500, gate[13] = -500;
    std::vector<float> gelu(n + 1, 3.0f), silu(n + 1, 3.0f);
    k().gelu_tanh_mul(gate.data(), up.data(), gelu.data(), n);
    k().silu_mul(gate.data(), up.data(), silu.data(), n);
    for (uint64_t i = 0; i < n; ++i) {
      const double g = gate[i], u = std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
      const double want_gelu = 0.5 * g * (1 + std::tanh(u)) * up[i],
                   want_silu = g / (1 + std::exp(-g)) * up[i];
      // 1 + tanh cancels below zero, so relative to |g up|: 1e-6.
      EXPECT_NEAR(gelu[i], want_gelu, 1e-6 * std::fabs(g * up[i]) + 1e-37) << "gate " << g;
      EXPECT_NEAR(silu[i], want_silu, 1e-6 * std::fabs(g * up[i]) + 1e-37) << "gate " << g;
    }
    EXPECT_EQ(gelu[n], 3.0f);
    EXPECT_EQ(silu[n], 3.0f);
  }
}

TEST_P(VectorKernelsTest, Bf16ConversionsAreExact) {
  std::vector<uint16_t> all(65536 + 3);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(all.size());
  k().bf16_to_float(all.data(), wide.data(), all.size());
  for (size_t i = 0; i < all.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(bf16_to_float(all[i]))) << i;

  std::vector<float> x;
  std::mt19937 rng(10);
  for (int i = 0; i < 100003; ++i)
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(rng())));  // NaNs included
  for (uint32_t tie : {0x3f808000u, 0x3f818000u, 0x7f7fffffu, 0x7f800001u})
    x.push_back(std::bit_cast<float>(tie));
  std::vector<uint16_t> narrow(x.size());
  k().float_to_bf16(x.data(), narrow.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(narrow[i], float_to_bf16(x[i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Kernels, VectorKernelsTest, testing::ValuesIn(test::runnable_kernels()),
                         [](const auto& p) { return std::string(p.param->name); });

}  // namespace
}  // namespace hlwq
