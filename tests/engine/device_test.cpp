#include "engine/device.h"

#include <gtest/gtest.h>

#include "hlwq/error.h"

namespace hlwq {
namespace {

TEST(Devices, AreReadAsTheyAreWritten) {
  EXPECT_FALSE(parse_device("cpu").cuda);
  EXPECT_TRUE(parse_device("cuda").cuda);
  EXPECT_EQ(parse_device("cuda").index, 0);
  EXPECT_EQ(parse_device("cuda:3").index, 3);
}

TEST(Devices, OthersAreErrors) {
  for (const char* text :
       {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "cuda:99999999999", "CUDA", "cpu:0"}) {
    try {
      parse_device(text);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << text;
    }
  }
}

TEST(Devices, TheCpuNeedsNoEncoder) { EXPECT_EQ(make_tensor_encoder(Device{}), nullptr); }

TEST(Devices, AGpuThatIsNotThereIsAnError) {
  try {
    make_tensor_encoder(Device{true, 1000});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kDevice);
  }
}

}  // namespace
}  // namespace hlwq
