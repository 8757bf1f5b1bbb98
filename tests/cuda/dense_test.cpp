// Unquantised matrices on the GPU against sums in double of the same decoded weights.
#include "cuda/dense.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"
#include "gpu_test_util.h"

namespace hlwq::cuda {
namespace {

/// A tensor with bytes of its own, which start at an odd address: files align nothing.
struct OwnTensor {
  OwnTensor(DType dtype, uint64_t rows, uint64_t cols, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const uint64_t bytes = info(dtype).block_bytes, n = rows * cols / info(dtype).block_elements;
    memory.resize(1 + n * bytes);
    for (uint64_t i = 0; i < n; ++i) {
      std::byte* to = memory.data() + 1 + i * bytes;
      const float value = normal(random);
      const uint16_t half = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_fp16(value);
      if (dtype == DType::kF32) {
        std::memcpy(to, &value, 4);
      } else {
        std::memcpy(to, &half, 2);  // of a Q8_0 block: its scale
        for (uint64_t k = 2; k < bytes; ++k) to[k] = static_cast<std::byte>(random());
      }
    }
    tensor.name = "test";
    tensor.dtype = dtype;
    tensor.shape = {rows, cols};
    tensor.data = {memory.data() + 1, n * bytes};
  }
  std::vector<float> decoded() const {
    std::vector<float> v(tensor.elements());
    decode_rows(tensor, 0, tensor.rows(), v.data());
    return v;
  }
  Weight weight() const { return {.dense = &tensor}; }
  std::vector<std::byte> memory;
  Tensor tensor;
};

std::vector<float> normals(uint64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

class DenseTest : public GpuTest {
 protected:
  std::vector<float> product(Cublas& cublas, const DenseView& w, const std::vector<float>& x,
                             uint64_t tokens) {
    const Buffer in = to_device(x), out(tokens * w.rows * sizeof(float), "y");
    const Buffer scratch(dense_scratch_bytes(w.type, w.cols, tokens), "scratch");
    dense_linear(cublas, w, in.as<float>(), tokens, out.as<float>(), scratch.as<void>(), stream_);
    return to_host<float>(out);
  }

  // A sum of n products in float, in any order, is off by at most n 2^-24 of the sum of their magnitudes (in
  // tensor cores too, which round 16 of them at once, to 2^-23); the split of x leaves out 2^-17 of each.
  static void expect_product(const std::vector<float>& w, uint64_t cols, const std::vector<float>& x,
                             uint64_t tokens, const std::vector<float>& y, const std::string& what) {
    const uint64_t rows = w.size() / cols;
    ASSERT_EQ(y.size(), rows * tokens) << what;
    for (uint64_t t = 0; t < tokens; ++t)
      for (uint64_t r = 0; r < rows; ++r) {
        double sum = 0, magnitude = 0;
        for (uint64_t c = 0; c < cols; ++c) {
          const double p = static_cast<double>(w[r * cols + c]) * x[t * cols + c];
          sum += p;
          magnitude += std::abs(p);
        }
        const double allowed = magnitude * (0x1p-17 + static_cast<double>(cols) * 0x1p-24);
        ASSERT_NEAR(y[t * rows + r], sum, allowed) << what << " token " << t << " row " << r;
      }
  }
};

TEST_F(DenseTest, ProductsOfEveryShapeAndType) {
  Cublas cublas;
  const std::pair<uint64_t, uint64_t> shapes[] = {{1, 1},     {7, 3},      {64, 72},
                                                  {130, 200}, {257, 1152}, {33, 4304}};
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16})
    for (const auto& [rows, cols] : shapes) {
      const OwnTensor w(dtype, rows, cols, 1);
      const Weight stack[] = {w.weight()};
      const DenseMatrix matrix(stack, "w");
      EXPECT_EQ(matrix.view().type, dtype == DType::kBF16 ? DenseType::kBF16 : DenseType::kF32);
      EXPECT_EQ(matrix.bytes(), DenseMatrix::device_bytes(stack));
      const std::vector<float> decoded = w.decoded();
      for (uint64_t tokens : {1, 2, 3, 4, 5, 17, 64}) {
        const std::vector<float> x = normals(tokens * cols, 2);
        expect_product(
            decoded, cols, x, tokens, product(cublas, matrix, x, tokens),
            std::string(info(dtype).name) + " " + std::to_string(rows) + "x" + std::to_string(cols));
      }
    }
}

TEST_F(DenseTest, BlocksReorderedRowsAndOffsetsAreDecodedOnTheWay) {
  Cublas cublas;
  OwnTensor quantised(DType::kQ8_0, 40, 96, 3), reordered(DType::kBF16, 48, 40, 4),
      shifted(DType::kBF16, 16, 24, 5);
  reordered.tensor.rope_heads = 3;
  shifted.tensor.add = -1;
  for (const OwnTensor* w : {&quantised, &reordered, &shifted}) {
    const DenseMatrix matrix(w->weight(), "w");
    EXPECT_EQ(matrix.view().type, w == &reordered ? DenseType::kBF16 : DenseType::kF32);
    for (uint64_t tokens : {1, 9}) {
      const std::vector<float> x = normals(tokens * matrix.cols(), 6);
      expect_product(w->decoded(), matrix.cols(), x, tokens, product(cublas, matrix, x, tokens),
                     std::string(info(w->tensor.dtype).name));
    }
  }
}

TEST_F(DenseTest, StacksAreOneMatrixAndSlicesTheirParts) {
  Cublas cublas;
  const uint64_t cols = 83;
  const OwnTensor a(DType::kBF16, 5, cols, 7), b(DType::kBF16, 11, cols, 8), c(DType::kF32, 3, cols, 9);
  const Weight same[] = {a.weight(), b.weight()}, mixed[] = {a.weight(), c.weight()};
  const DenseMatrix both(same, "a and b"), floats(mixed, "a and c");
  EXPECT_EQ(both.view().type, DenseType::kBF16);
  EXPECT_EQ(floats.view().type, DenseType::kF32);
  const std::vector<float> x = normals(6 * cols, 10);
  std::vector<float> rows = a.decoded();
  const std::vector<float> of_b = b.decoded(), of_c = c.decoded();
  expect_product(of_b, cols, x, 6, product(cublas, both.view().slice(5, 11), x, 6), "slice");
  rows.insert(rows.end(), of_b.begin(), of_b.end());
  expect_product(rows, cols, x, 6, product(cublas, both, x, 6), "stack");
  rows = a.decoded();
  rows.insert(rows.end(), of_c.begin(), of_c.end());
  expect_product(rows, cols, x, 6, product(cublas, floats, x, 6), "mixed stack");
  EXPECT_THROW(both.view().slice(6, 11), Error);
  const OwnTensor wide(DType::kBF16, 2, cols + 1, 11);
  const Weight unequal[] = {a.weight(), wide.weight()};
  EXPECT_THROW(DenseMatrix(unequal, "unequal"), Error);
}

TEST_F(DenseTest, CapturedProductsReplayOnNewInputs) {
  Cublas cublas;
  const uint64_t rows = 96, cols = 160;
  const OwnTensor w(DType::kBF16, rows, cols, 12);
  const DenseMatrix matrix(w.weight(), "w");
  for (uint64_t tokens : {1, 20}) {
    const Buffer x = to_device(normals(tokens * cols, 13)), y(tokens * rows * sizeof(float), "y");
    const Buffer scratch(dense_scratch_bytes(matrix.view().type, cols, tokens), "scratch");
    const auto run = [&] {
      dense_linear(cublas, matrix, x.as<float>(), tokens, y.as<float>(), scratch.as<void>(), stream_);
    };
    run();  // cuBLAS loads its kernels on first use, which no capture allows
    wait();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t step = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing");
    run();
    check(cudaStreamEndCapture(stream_, &graph), "capturing");
    check(cudaGraphInstantiate(&step, graph, 0), "instantiating");
    const std::vector<float> other = normals(tokens * cols, 14);
    check(cudaMemcpy(x.as<float>(), other.data(), x.bytes(), cudaMemcpyHostToDevice), "copying");
    check(cudaGraphLaunch(step, stream_), "replaying");
    expect_product(w.decoded(), cols, other, tokens, to_host<float>(y), "replayed");
    cudaGraphExecDestroy(step);
    cudaGraphDestroy(graph);
  }
}

TEST_F(DenseTest, RowsAreExactTimesTheScale) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const uint64_t rows = 50, cols = 37;
    const OwnTensor w(dtype, rows, cols, 15);
    const DenseMatrix matrix(w.weight(), "w");
    const std::vector<int32_t> ids = {49, 0, 7, 7, -1, 50, 12};
    const Buffer at = to_device(ids), out(ids.size() * cols * sizeof(float), "rows");
    dense_rows(matrix, at.as<int32_t>(), ids.size(), 3.5f, out.as<float>(), stream_);
    const std::vector<float> got = to_host<float>(out), decoded = w.decoded();
    for (size_t t = 0; t < ids.size(); ++t)
      for (uint64_t c = 0; c < cols; ++c) {
        const bool there = ids[t] >= 0 && static_cast<uint64_t>(ids[t]) < rows;
        EXPECT_EQ(got[t * cols + c], there ? decoded[static_cast<uint64_t>(ids[t]) * cols + c] * 3.5f : 0.0f);
      }
  }
}

}  // namespace
}  // namespace hlwq::cuda
