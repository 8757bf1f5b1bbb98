#include "cuda/runtime.h"

#include <numeric>

#include "gpu_test_util.h"

namespace hlwq::cuda {
namespace {

using RuntimeTest = GpuTest;

TEST_F(RuntimeTest, BuffersHoldWhatIsCopied) {
  std::vector<int> in(1000);
  std::iota(in.begin(), in.end(), -7);
  const Buffer b = to_device(in);
  EXPECT_EQ(to_host<int>(b), in);
}

TEST_F(RuntimeTest, MemoryThatIsNotThereIsAnErrorAndNothingElse) {
  try {
    Buffer b(uint64_t{1} << 50, "a huge thing");
    FAIL() << "a petabyte was allocated";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(std::string(e.what()).find("a huge thing"), std::string::npos) << e.what();
  }
  EXPECT_NO_THROW(Buffer(1024, "a small thing"));
}

TEST(CudaErrors, NameTheCallAndTheCause) {
  try {
    check(cudaErrorIllegalAddress, "a kernel");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kDevice);
    EXPECT_NE(std::string(e.what()).find("a kernel"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace hlwq::cuda
