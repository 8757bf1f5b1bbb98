// Whole answers as token ids of real tokenizers.
#include "text/output_decoder.h"

#include <gtest/gtest.h>

#include <map>

#include "text/tokenizer_files.h"

namespace hlwq {
namespace {

using Kind = OutputEvent::Kind;

std::shared_ptr<const Tokenizer> load(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Tokenizer>> loaded;
  auto& tokenizer = loaded[name];
  if (!tokenizer) tokenizer = Tokenizer::from_json(test::tokenizer_json(name), name);
  return tokenizer;
}

// What chat templates of these families have in common.
constexpr const char* kQwenTemplate = "...<think>...</think>...<tool_call>...";
constexpr const char* kLlamaTemplate = "{% if tools %} \"parameters\": {% endif %}";

struct Answer {
  std::string text, thinking;
  std::vector<std::string> calls;
};

Answer decode(const Tokenizer& tokenizer, const OutputFormat& format, const std::vector<int32_t>& ids,
              const std::vector<int32_t>& prompt = {}) {
  OutputDecoder decoder(tokenizer, format, true);
  decoder.see_prompt(prompt);
  Answer answer;
  const auto take = [&](const std::vector<OutputEvent>& events) {
    for (const OutputEvent& e : events) {
      if (e.kind == Kind::kText) answer.text += e.text;
      if (e.kind == Kind::kThinking) answer.thinking += e.text;
      if (e.kind == Kind::kToolCall) answer.calls.push_back(e.name + e.arguments.dump());
    }
  };
  for (int32_t id : ids) take(decoder.push(id));
  take(decoder.finish());
  return answer;
}

TEST(OutputDecoder, ChoosesTheFormat) {
  const auto nano = load("gemma4-nano"), qwen = load("qwen3"), llama = load("llama3");
  EXPECT_EQ(output_format("", *nano).name, "gemma4");
  EXPECT_EQ(output_format(kQwenTemplate, *qwen).name, "hermes");
  EXPECT_EQ(output_format("", *qwen).name, "plain");
  EXPECT_EQ(output_format(kLlamaTemplate, *llama).name, "llama3");
  EXPECT_EQ(output_format("", *llama).name, "plain");
  const OutputFormat gemma = output_format("", *nano);
  EXPECT_EQ(gemma.think_open.id, 100);
  EXPECT_EQ(gemma.call_close.id, 49);
  EXPECT_EQ(gemma.marker(52)->text, "<|\"|>");
  EXPECT_EQ(gemma.marker(106), nullptr);
  EXPECT_EQ(output_format(kQwenTemplate, *llama).think_open.id, -1) << "spelt in ordinary text";
}

TEST(OutputDecoder, Gemma4) {
  const auto tokenizer = load("gemma4-nano");
  const OutputFormat format = output_format("", *tokenizer);
  const auto ids = tokenizer->encode(
      "<|channel>thought\nAdd 2 and 3.\n<channel|>Let me ask. <|tool_call>call:add{a:2,to:<|\"|>x, <b> "
      "😀\n<|\"|>}<tool_call|><|tool_response>",
      false, true);
  const Answer a = decode(*tokenizer, format, ids);
  EXPECT_EQ(a.thinking, "Add 2 and 3.");
  EXPECT_EQ(a.text, "Let me ask. ");
  EXPECT_EQ(a.calls, (std::vector<std::string>{"add{\"a\":2,\"to\":\"x, <b> 😀\\n\"}"}));
  // The same text as ordinary tokens is an answer.
  const std::string spelt = "<|channel>thought\nx<channel|><|tool_call>call:f{}<tool_call|>";
  EXPECT_EQ(decode(*tokenizer, format, tokenizer->encode(spelt, false, false)).text, spelt);
  // Half a character before a marker comes out before it.
  const auto emoji = tokenizer->encode("\U0001F9EA", false, false);
  ASSERT_EQ(emoji.size(), 4u) << "this test needs a character of four byte tokens";
  const Answer half = decode(*tokenizer, format, {emoji[0], emoji[1], 100, 101, emoji[0]});
  EXPECT_TRUE(half.thinking.empty());
  EXPECT_FALSE(half.text.empty());
}

TEST(OutputDecoder, PromptsThatOpenAThought) {
  const auto nano = load("gemma4-nano"), qwen = load("qwen3");
  const OutputFormat gemma = output_format("", *nano), hermes = output_format(kQwenTemplate, *qwen);
  const auto thinks = [](const Tokenizer& t, const OutputFormat& f, const std::string& prompt) {
    const Answer a = decode(t, f, t.encode("so", false, false), t.encode(prompt, false, true));
    EXPECT_NE(a.text == "so", a.thinking == "so");
    return a.thinking == "so";
  };
  EXPECT_TRUE(thinks(*nano, gemma, "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n"));
  EXPECT_TRUE(thinks(*nano, gemma, "<|turn>model\n<|channel>"));
  EXPECT_FALSE(thinks(*nano, gemma, "<|turn>model\n<|channel>thought\n<channel|>"));
  EXPECT_FALSE(thinks(*nano, gemma, "<|turn>user\n<|channel><turn|>\n<|turn>model\n"));
  EXPECT_FALSE(thinks(*nano, gemma, "<|turn>model\n"));
  EXPECT_TRUE(thinks(*qwen, hermes, "<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(thinks(*qwen, hermes, "<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(thinks(*qwen, hermes, "What is <think>?<|im_end|>\n<|im_start|>assistant\n"));
}

TEST(OutputDecoder, QwenAndLlama) {
  const auto qwen = load("qwen3"), llama = load("llama3");
  const OutputFormat hermes = output_format(kQwenTemplate, *qwen);
  const Answer a =
      decode(*qwen, hermes,
             qwen->encode("<think>\nHm 🎉\n</think>\n\nOne moment.\n<tool_call>\n{\"name\": \"f\", "
                          "\"arguments\": {\"q\": \"é\"}}\n</tool_call><|im_end|>",
                          false, true));
  EXPECT_EQ(a.thinking, "Hm 🎉");
  EXPECT_EQ(a.text, "One moment.");
  EXPECT_EQ(a.calls, (std::vector<std::string>{"f{\"q\":\"é\"}"}));
  const OutputFormat tag = output_format(kLlamaTemplate, *llama);
  const Answer b = decode(
      *llama, tag,
      llama->encode("<|python_tag|>{\"name\": \"f\", \"parameters\": {\"q\": 1}}<|eot_id|>", false, true));
  EXPECT_EQ(b.calls, (std::vector<std::string>{"f{\"q\":1}"}));
  // The closing marker as tokens, where it is one and where it is spelt.
  EXPECT_EQ(OutputDecoder(*qwen, hermes, true).closing_ids().size(), hermes.think_close.id >= 0 ? 1u : 3u);
  const OutputFormat spelt = output_format(kQwenTemplate, *llama);
  ASSERT_EQ(spelt.think_close.id, -1);
  EXPECT_EQ(llama->decode(OutputDecoder(*llama, spelt, true).closing_ids(), false), "</think>");
  EXPECT_TRUE(OutputDecoder(*llama, tag, true).closing_ids().empty());
}

}  // namespace
}  // namespace hlwq
