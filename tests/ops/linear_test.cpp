// linear() over several weights of every kind, threads and token counts; weight_row; errors.
#include "ops/linear.h"

#include <gmock/gmock.h>

#include <cstring>

#include "hlwq/error.h"
#include "ops/ops_test_util.h"

namespace hlwq {
namespace {

using test::OwnedMatrix;

/// A dense tensor that owns its bytes, made from floats that its type holds exactly.
struct DenseTensor {
  std::vector<float> values;
  std::vector<std::byte> bytes;
  Tensor tensor;
  DenseTensor(DType dtype, uint64_t rows, uint64_t cols, uint32_t seed)
      : values(test::gaussian(rows * cols, seed)) {
    for (float& v : values)
      v = bf16_to_float(float_to_bf16(std::round(v * 64) / 64));  // 7 bits: exact in F16 too
    bytes.resize(values.size() * info(dtype).block_bytes);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = dtype == DType::kF16 ? float_to_fp16(values[i]) : float_to_bf16(values[i]);
      if (dtype == DType::kF32)
        std::memcpy(&bytes[4 * i], &values[i], 4);
      else
        std::memcpy(&bytes[2 * i], &half, 2);
    }
    tensor.name = "w";
    tensor.dtype = dtype;
    tensor.shape = {rows, cols};
    tensor.data = bytes;
  }
};

class LinearTest : public testing::TestWithParam<std::tuple<const Kernels*, int>> {
 protected:
  const Kernels& kernels() const { return *std::get<0>(GetParam()); }
  ThreadPool pool_{std::get<1>(GetParam())};
  Compute compute_{&kernels(), &pool_};
};

TEST_P(LinearTest, SeveralWeightsOfEveryKindInOneCall) {
  const uint64_t cols = 300;
  OwnedMatrix q5({5, 1, 128}, 200, cols, 1);
  OwnedMatrix q6({6, 1, 64}, 37, cols, 2);  // another block size: another rotation of the same input
  const DenseTensor f32(DType::kF32, 70, cols, 3), bf16(DType::kBF16, 129, cols, 4),
      f16(DType::kF16, 33, cols, 5);
  for (uint64_t tokens : {1, 2, 19}) {
    const auto x = test::gaussian(tokens * cols, 6);
    LinearInput input(x.data(), tokens, cols);
    std::vector<float> y[5];
    const Weight weights[] = {{&q5.matrix, nullptr},
                              {nullptr, &f32.tensor},
                              {&q6.matrix, nullptr},
                              {nullptr, &bf16.tensor},
                              {nullptr, &f16.tensor}};
    std::vector<LinearTask> tasks;
    for (int i = 0; i < 5; ++i) {
      y[i].assign(tokens * weights[i].rows(), -5.0f);
      tasks.push_back({weights[i], y[i].data()});
    }
    linear(compute_, input, tasks);

    for (const OwnedMatrix* m : {&q5, &q6}) {
      const auto& got = m == &q5 ? y[0] : y[2];
      const auto a = test::quantize(kernels(), x, tokens, cols, m->matrix.format.block);
      for (uint64_t t = 0; t < tokens; ++t)
        for (uint64_t r = 0; r < m->matrix.rows; ++r) {
          const auto e = test::exact_output(*m, a, r, t);
          ASSERT_NEAR(got[t * m->matrix.rows + r], e.value, e.tolerance);
        }
    }
    for (const auto& [dense, got] : {std::pair{&f32, &y[1]}, {&bf16, &y[3]}, {&f16, &y[4]}}) {
      const uint64_t rows = dense->tensor.rows();
      for (uint64_t t = 0; t < tokens; ++t)
        for (uint64_t r = 0; r < rows; ++r) {
          double value = 0, terms = 0;
          for (uint64_t i = 0; i < cols; ++i) {
            const double product = static_cast<double>(dense->values[r * cols + i]) * x[t * cols + i];
            value += product, terms += std::fabs(product);
          }
          // One rounding per product and addition, in any order.
          ASSERT_NEAR((*got)[t * rows + r], value, terms * (cols + 2.0) * 0x1p-24);
        }
    }
  }
}

TEST_P(LinearTest, ResultsDoNotDependOnThreads) {
  OwnedMatrix m({5, 1, 128}, 700, 512, 1);
  for (uint64_t tokens : {1, 30}) {
    const auto x = test::gaussian(tokens * 512, 2);
    ThreadPool one(1);
    const Compute alone{&kernels(), &one};
    std::vector<float> y0(tokens * 700), y1(tokens * 700);
    for (const auto& [compute, y] : {std::pair{&alone, &y0}, {&compute_, &y1}}) {
      LinearInput input(x.data(), tokens, 512);
      const LinearTask task{{&m.matrix, nullptr}, y->data()};
      linear(*compute, input, {&task, 1});
    }
    EXPECT_EQ(y0, y1);
  }
}

TEST_P(LinearTest, InputIsRotatedOncePerBlockSize) {
  const auto x = test::gaussian(600, 3);
  LinearInput input(x.data(), 2, 300);
  const QuantizedActivations* a = &input.quantized(compute_, 128, 1);
  const int8_t* data = a->q.data();
  const QuantizedActivations* b = &input.quantized(compute_, 32, 1);
  EXPECT_NE(a, b);
  EXPECT_EQ(&input.quantized(compute_, 128, 1), a);
  EXPECT_EQ(a->q.data(), data) << "an earlier form moved";
}

TEST_P(LinearTest, Errors) {
  OwnedMatrix m({5, 1, 128}, 4, 256, 1);
  DenseTensor dense(DType::kF32, 4, 128, 2);
  const auto x = test::gaussian(128, 3);
  std::vector<float> y(4);
  const auto message = [&](Weight w) -> std::string {
    LinearInput input(x.data(), 1, 128);
    const LinearTask task{w, y.data()};
    try {
      linear(compute_, input, {&task, 1});
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(message({&m.matrix, nullptr}),
              testing::AllOf(testing::HasSubstr("256"), testing::HasSubstr("128")));
  dense.tensor.dtype = DType::kI32;
  EXPECT_THAT(message({nullptr, &dense.tensor}), testing::HasSubstr("integers"));
}

INSTANTIATE_TEST_SUITE_P(Kernels, LinearTest,
                         testing::Combine(testing::ValuesIn(test::runnable_kernels()), testing::Values(1, 3)),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param)->name) + "_threads" +
                                  std::to_string(std::get<1>(p.param));
                         });

TEST(WeightRow, DecodesOneRowOfEitherKind) {
  OwnedMatrix m({6, 1, 128}, 5, 200, 1);
  std::vector<float> got(200), want(200);
  weight_row({&m.matrix, nullptr}, 3, got.data());
  decode_row(m.matrix.format, m.codebook, &m.codes[3 * m.matrix.format.row_bytes(200)], &m.norms[3 * 2], 200,
             want.data());
  EXPECT_EQ(got, want);
  const DenseTensor dense(DType::kBF16, 5, 200, 2);
  weight_row({nullptr, &dense.tensor}, 4, got.data());
  EXPECT_EQ(got, std::vector<float>(dense.values.end() - 200, dense.values.end()));
  EXPECT_THROW(weight_row({&m.matrix, nullptr}, 5, got.data()), Error);
}

}  // namespace
}  // namespace hlwq
