// Input: a tokenizer.json, a zero byte, and text for it.
#include "fuzz_input.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view text =
      zero == std::string_view::npos ? "Hello, wörld 123 \xff" : input.substr(zero + 1);
  hlwq::fuzz::allow_errors([&] {
    const auto tokenizer = hlwq::Tokenizer::from_json(input.substr(0, zero), "input");
    for (const bool special : {false, true}) {
      const std::vector<int32_t> ids = tokenizer->encode(text, special, special);
      const std::string whole = tokenizer->decode(ids, special);
      std::string streamed;
      const auto stream = tokenizer->stream(special);
      for (const int32_t id : ids) streamed += stream->push(id);
      streamed += stream->finish();
      if (streamed != whole) __builtin_trap();  // promised by Tokenizer::Stream
    }
  });
  return 0;
}
