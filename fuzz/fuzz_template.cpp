// Input: a chat template, rendered over a conversation with small limits.
#include "fuzz_input.h"
#include "text/chat_template.h"

namespace {

const hlwq::OrderedJson& conversation() {
  static const hlwq::OrderedJson variables = hlwq::OrderedJson::parse(R"({
    "messages": [
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "A <b>?"}, {"type": "image"}]},
      {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]},
      {"role": "tool", "content": "{}"}
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  hlwq::TemplateLimits limits;
  limits.max_steps = 100'000;
  limits.max_output_bytes = 1 << 20;
  hlwq::fuzz::allow_errors([&] {
    const hlwq::ChatTemplate chat(source, limits);
    const std::string whole = chat.render(conversation());
    std::string pieces;
    for (const auto& piece : chat.render_pieces(conversation())) pieces += piece.text;
    if (pieces != whole) __builtin_trap();
  });
  return 0;
}
