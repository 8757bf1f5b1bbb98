#include "engine/device.h"

#include <charconv>

#include "hlwq/error.h"
#ifdef HLWQ_CUDA
#include "cuda/tensor_encoder.h"
#endif

namespace hlwq {

Device parse_device(const std::string& text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {true, 0};
  Device device{true, 0};
  const char *begin = text.data() + 5, *end = text.data() + text.size();
  if (text.starts_with("cuda:") && begin < end && *begin != '-') {
    const auto [stop, error] = std::from_chars(begin, end, device.index);
    if (error == std::errc() && stop == end) return device;
  }
  throw Error(ErrorCode::kInvalidArgument, "there is no device \"" + text + "\": use cpu, cuda or cuda:N");
}

std::unique_ptr<TensorEncoder> make_tensor_encoder(const Device& device) {
  if (!device.cuda) return nullptr;
#ifdef HLWQ_CUDA
  return cuda::make_tensor_encoder(device.index);
#else
  throw Error(ErrorCode::kDevice,
              "this hlwq was built without CUDA: build it where nvcc is, or use --device cpu");
#endif
}

}  // namespace hlwq
