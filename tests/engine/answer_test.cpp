// Thoughts, calls and messages at the engine's level; tests/cli/test_answers.py has the whole way.
#include <gtest/gtest.h>

#include "engine/chat.h"
#include "engine/generate.h"

namespace hlwq {
namespace {

const std::filesystem::path kNano = std::filesystem::path(HLWQ_UNPACKED) / "gemma4-nano";

class Answers : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model = Model::load(kNano); }
  static void TearDownTestSuite() { model.reset(); }

  /// Options that make the answer these tokens, each of which may stand in it once.
  GenerateOptions say(const std::vector<int32_t>& ids) {
    GenerateOptions g;
    g.sampling.temperature = 0;
    g.sampling.presence_penalty = 1e6f;
    for (size_t i = 0; i < ids.size(); ++i)
      g.sampling.logit_bias[ids[i]] = 1e5f - 1e3f * static_cast<float>(i);
    g.stop_ids = stop_tokens(*model);
    g.format = chat_format(*model);
    return g;
  }
  std::vector<int32_t> ids(const std::string& text) { return model->tokenizer().encode(text, false, true); }

  static std::shared_ptr<const Model> model;
  Engine engine{{.threads = 2}};
};
std::shared_ptr<const Model> Answers::model;

TEST_F(Answers, StopTokensAreTheConfigsAndTheFormats) {
  EXPECT_EQ(chat_format(*model).name, "gemma4");
  EXPECT_EQ(stop_tokens(*model), (std::set<int32_t>{1, 50, 106}));
}

TEST_F(Answers, TheSessionHoldsWhatWasFed) {
  const auto prompt = chat_ids(*model, OrderedJson::array({chat_message("user", "Hi")}));
  for (int64_t budget : {-1, 0, 1, 2, 3, 9}) {
    Session s(model, engine, {.context = 256});
    GenerateOptions g = say(ids("<|channel>thought\n let me see<channel|>Good day<turn|>"));
    g.thinking_budget = budget;
    std::string text, thinking;
    g.on_thinking = [&](const std::string& t) { thinking += t; };
    const auto r = generate(s, prompt, g, [&](const std::string& t) { text += t; });
    EXPECT_EQ(r.thinking_cut, budget >= 0 && budget <= 3) << budget;
    EXPECT_EQ(r.text, text);
    EXPECT_EQ(r.thinking, thinking);
    EXPECT_EQ(r.thinking_tokens, r.thinking_cut ? static_cast<uint64_t>(budget) : 3u);
    EXPECT_EQ(thinking + text, " let me seeGood day");
    EXPECT_EQ(r.finish_reason, "stop");
    auto fed = prompt;
    fed.insert(fed.end(), r.ids.begin(), r.ids.end() - 1);  // all but the token that ended it
    EXPECT_EQ(s.ids(), fed);
    EXPECT_EQ(std::count(fed.begin(), fed.end(), 101), 1) << "the thought is closed once";
  }
}

TEST_F(Answers, ABudgetForAThoughtThatThePromptHasOpened) {
  auto prompt = chat_ids(*model, OrderedJson::array({chat_message("user", "Hi")}));
  for (int32_t id : ids("<|channel>thought\n")) prompt.push_back(id);
  Session s(model, engine, {.context = 256});
  GenerateOptions g = say(ids(" let me see<channel|>Good day<turn|>"));
  const auto free = generate(s, prompt, g);
  EXPECT_EQ(free.thinking, " let me see");
  EXPECT_EQ(free.text, "Good day");
  g.thinking_budget = 0;
  const auto none = generate(s, prompt, g);
  EXPECT_EQ(none.ids.front(), 101);
  EXPECT_TRUE(none.thinking_cut);
  EXPECT_EQ(none.thinking, "");
  EXPECT_EQ(none.text, " let me seeGood day");
}

TEST_F(Answers, CallsAreStreamedAndHaveIdsOfTheirOwn) {
  const auto prompt = chat_ids(*model, OrderedJson::array({chat_message("user", "Hi")}));
  Session s(model, engine, {.context = 256});
  GenerateOptions g = say(ids("<|tool_call>call:now{}<tool_call|><|tool_response>"));
  std::vector<std::string> seen;
  g.on_tool_call = [&](const ToolCall& c) { seen.push_back(c.id + c.name + c.arguments.dump()); };
  const auto r = generate(s, prompt, g);
  EXPECT_EQ(r.finish_reason, "tool_calls");
  ASSERT_EQ(r.tool_calls.size(), 1u);
  EXPECT_EQ(seen, std::vector<std::string>{r.tool_calls[0].id + "now{}"});
  EXPECT_EQ(generate(s, prompt, g).tool_calls[0].id, r.tool_calls[0].id) << "the same answer, the same id";
  auto longer = prompt;
  longer.push_back(500);
  EXPECT_NE(generate(s, longer, g).tool_calls[0].id, r.tool_calls[0].id);
}

TEST(Messages, WaitingCalls) {
  GenerateResult r;
  r.text = "Wait.";
  r.thinking = "hm";
  r.tool_calls = {{"a1", "f", {{"x", 1}}}, {"a2", "g", OrderedJson::object()}};
  OrderedJson messages = {chat_message("user", "Hi"), assistant_message(r)};
  EXPECT_EQ(messages[1].dump(),
            R"({"role":"assistant","content":"Wait.","reasoning_content":"hm","tool_calls":[)"
            R"({"id":"a1","type":"function","function":{"name":"f","arguments":{"x":1}}},)"
            R"({"id":"a2","type":"function","function":{"name":"g","arguments":{}}}]})");
  const auto names = [&] {
    std::string out;
    for (const ToolCall& c : waiting_calls(messages)) out += c.name;
    return out;
  };
  EXPECT_EQ(names(), "fg");
  messages.push_back(tool_message("a2", "g", "two"));
  EXPECT_EQ(names(), "f");
  messages.push_back({{"role", "tool"}, {"content", "one"}});  // without an id: the first that waits
  EXPECT_EQ(names(), "");
  messages.push_back(chat_message("assistant", "Done."));
  EXPECT_EQ(names(), "");
  for (const char* odd : {"[]", R"([{"role":"tool"}])", R"([{"role":"assistant","tool_calls":5}])",
                          R"([{"role":"assistant","tool_calls":[7,{"function":3}]}])", R"([1,2])"})
    EXPECT_NO_THROW(waiting_calls(OrderedJson::parse(odd))) << odd;
  r.cut_call = "<|tool_call>call:f{";
  r.tool_calls.clear();
  EXPECT_EQ(assistant_message(r)["content"], "Wait.<|tool_call>call:f{");
}

}  // namespace
}  // namespace hlwq
