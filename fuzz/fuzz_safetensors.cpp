// Input: a safetensors file.
#include "fuzz_input.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hlwq::fuzz::allow_errors(
      [&] { hlwq::fuzz::touch(hlwq::parse_safetensors(std::as_bytes(std::span(data, size)), "input")); });
  return 0;
}
