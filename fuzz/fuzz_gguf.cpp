// Input: a GGUF file. What parses is translated to Hugging Face names and decoded.
#include "fuzz_input.h"
#include "io/gguf.h"
#include "io/gguf_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hlwq::fuzz::allow_errors([&] {
    const hlwq::GgufContents contents = hlwq::parse_gguf(std::as_bytes(std::span(data, size)), "input");
    hlwq::fuzz::touch(contents.tensors);
    const hlwq::GgufModel model = hlwq::translate_gguf(contents.tensors, contents.metadata, "input");
    hlwq::fuzz::touch(model.tensors);
    // What was translated must be writable as JSON.
    (void)model.config.dump();
    (void)model.generation_config.dump();
    (void)model.tokenizer_config.dump();
  });
  return 0;
}
