#include "text/output_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace hlwq {
namespace {

using Kind = OutputEvent::Kind;
using ::testing::HasSubstr;

OutputFormat gemma() {
  OutputFormat f;
  f.name = "gemma4";
  f.calls = CallSyntax::kGemma4;
  f.think_open = {"<|channel>", 100};
  f.think_close = {"<channel|>", 101};
  f.call_open = {"<|tool_call>", 48};
  f.call_close = {"<tool_call|>", 49};
  f.quote = {"<|\"|>", 52};
  f.think_name = "thought\n";
  return f;
}

/// tokens: the tokenizer has the markers as tokens.
OutputFormat hermes(bool tokens) {
  OutputFormat f;
  f.name = "hermes";
  f.calls = CallSyntax::kJson;
  f.think_open = {"<think>", tokens ? 1 : -1};
  f.think_close = {"</think>", tokens ? 2 : -1};
  f.call_open = {"<tool_call>", tokens ? 3 : -1};
  f.call_close = {"</tool_call>", tokens ? 4 : -1};
  return f;
}

OutputFormat llama3() {
  OutputFormat f;
  f.name = "llama3";
  f.calls = CallSyntax::kLlama3;
  f.call_open = {"<|python_tag|>", 5};
  return f;
}

struct Piece {
  std::string text;
  bool marker = false;
};

/// `text` with the format's token markers cut out; what stands between « and » is ordinary text even where it
/// spells a marker.
std::vector<Piece> pieces_of(const OutputFormat& f, const std::string& text) {
  std::vector<Piece> pieces;
  std::string plain;
  const auto flush = [&] {
    if (!plain.empty()) pieces.push_back({std::exchange(plain, {})});
  };
  bool quoted = false;
  for (size_t i = 0; i < text.size();) {
    if (text.compare(i, 2, "«") == 0 || text.compare(i, 2, "»") == 0) {
      quoted = text.compare(i, 2, "«") == 0;
      i += 2;
      continue;
    }
    const Marker* found = nullptr;
    for (const Marker* m : {&f.think_open, &f.think_close, &f.call_open, &f.call_close, &f.quote})
      if (!quoted && m->id >= 0 && text.compare(i, m->text.size(), m->text) == 0) found = m;
    if (found) {
      flush();
      pieces.push_back({found->text, true});
      i += found->text.size();
    } else {
      plain += text[i++];
    }
  }
  flush();
  return pieces;
}

struct Options {
  bool expect_calls = true;
  bool in_thought = false;
};

std::vector<OutputEvent> run(const OutputFormat& f, const std::vector<Piece>& pieces, Options o) {
  OutputParser parser(f, o.expect_calls);
  if (o.in_thought) parser.start_thought(f.think_name);
  std::vector<OutputEvent> events;
  for (const Piece& p : pieces) parser.push(p.text, p.marker, events);
  parser.finish(events);
  return events;
}

/// Adjacent texts joined: T:..., K:... (thought), C:name arguments, I:name source (incomplete), N:text | note
std::string summary(const std::vector<OutputEvent>& events) {
  std::string out;
  char last = 0;
  for (const OutputEvent& e : events) {
    if (e.kind == Kind::kToolCall) {
      out += (out.empty() ? "" : "\n") +
             (e.complete ? "C:" + e.name + " " + e.arguments.dump() : "I:" + e.name + " " + e.text);
      last = 0;
    } else if (!e.note.empty()) {
      out += (out.empty() ? "" : "\n") + ("N:" + e.text + " | " + e.note);
      last = 0;
    } else {
      const char kind = e.kind == Kind::kText ? 'T' : 'K';
      if (kind != last) out += (out.empty() ? "" : "\n") + std::string(1, kind) + ":";
      out += e.text;
      last = kind;
    }
  }
  return out;
}

/// Cuts the ordinary text at each position, once; then everywhere; then at random.
void expect(const OutputFormat& f, const std::string& text, const std::string& expected, Options o = {}) {
  const auto pieces = pieces_of(f, text);
  EXPECT_EQ(summary(run(f, pieces, o)), expected) << text;
  std::vector<Piece> bytes;
  for (size_t p = 0; p < pieces.size(); ++p) {
    if (pieces[p].marker) {
      bytes.push_back(pieces[p]);
      continue;
    }
    for (char c : pieces[p].text) bytes.push_back({std::string(1, c)});
    for (size_t cut = 1; cut < pieces[p].text.size(); ++cut) {
      auto halves = pieces;
      halves[p].text = pieces[p].text.substr(0, cut);
      halves.insert(halves.begin() + static_cast<std::ptrdiff_t>(p) + 1, {pieces[p].text.substr(cut)});
      ASSERT_EQ(summary(run(f, halves, o)), expected) << text << " cut at " << cut << " of part " << p;
    }
  }
  EXPECT_EQ(summary(run(f, bytes, o)), expected) << text << ", byte by byte";
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<Piece> some;
    for (const Piece& b : bytes)
      if (b.marker || some.empty() || some.back().marker || random() % 4 == 0)
        some.push_back(b);
      else
        some.back().text += b.text;
    ASSERT_EQ(summary(run(f, some, o)), expected) << text << ", round " << round;
  }
}

TEST(OutputParser, PlainIsAllText) {
  const OutputFormat plain;
  expect(plain, "\n<think>a</think>\n\n<tool_call>{}\n\n", "T:\n<think>a</think>\n\n<tool_call>{}\n\n");
  expect(plain, "", "");
}

TEST(OutputParser, GemmaThoughtsAndText) {
  expect(gemma(), "Hello.\n", "T:Hello.\n");
  expect(gemma(), "<|channel>thought\nlet me\n\nsee\n<channel|>It is 4.\n", "K:let me\n\nsee\nT:It is 4.\n");
  expect(gemma(), "<|channel>thought\n<channel|>Yes", "T:Yes");
  expect(gemma(), "<|channel>thought<channel|>\nYes", "T:Yes");
  expect(gemma(), "A<|channel>thought\nx<channel|>B<|channel>thought\ny<channel|>C",
         "T:A\nK:x\nT:B\nK:y\nT:C");
  // Never closed; without its name; with a name that only begins like it.
  expect(gemma(), "<|channel>thought\nI wonder\n", "K:I wonder");
  expect(gemma(), "<|channel>I wonder<channel|>A", "K:I wonder\nT:A");
  expect(gemma(), "<|channel>thoughts\nx<channel|>A", "K:thoughts\nx\nT:A");
  expect(gemma(), "<|channel>thou", "K:thou");
  expect(gemma(), "<|channel>", "");
  // Ordinary text that spells a marker is text; a stray end is dropped.
  expect(gemma(), "«<|channel>»thought\nx«<channel|>»", "T:<|channel>thought\nx<channel|>");
  expect(gemma(), "<|channel>thought\na «<channel|>» b<channel|>c", "K:a <channel|> b\nT:c");
  expect(gemma(), "a<channel|>b<|\"|>c<tool_call|>d", "T:abcd");
}

TEST(OutputParser, AThoughtThatThePromptHasOpened) {
  expect(gemma(), "so\n<channel|>4", "K:so\nT:4", {.in_thought = true});
  expect(hermes(false), "so\n</think>\n\n4", "K:so\nT:4", {.in_thought = true});
  OutputParser parser(gemma());
  parser.start_thought("thought");
  EXPECT_FALSE(parser.thinking());
  std::vector<OutputEvent> events;
  parser.push("\nso", false, events);
  EXPECT_TRUE(parser.thinking());
  parser.push("<channel|>", true, events);
  EXPECT_FALSE(parser.thinking());
  EXPECT_EQ(summary(events), "K:so");
}

TEST(OutputParser, GemmaCalls) {
  expect(gemma(), "<|tool_call>call:now{}<tool_call|>", "C:now {}");
  expect(gemma(),
         "<|tool_call>call:get_weather{city:<|\"|>Zürich<|\"|>,days:3,f:-2.5e3,t:true,n:null,no:false}<tool_"
         "call|>",
         R"(C:get_weather {"city":"Zürich","days":3,"f":-2500.0,"t":true,"n":null,"no":false})");
  expect(
      gemma(),
      "<|tool_call>call:f{a:{b:[1,<|\"|>x<|\"|>,{c:{}}],d:[]},<|\"|>odd key: }<|\"|>:[[1],[2]]}<tool_call|>",
      R"(C:f {"a":{"b":[1,"x",{"c":{}}],"d":[]},"odd key: }":[[1],[2]]})");
  // Anything may stand in a string: braces, commas, newlines, quotes, markers as ordinary text.
  expect(gemma(),
         "<|tool_call>call:f{s:<|\"|>a \"b\" {c}, [d]:\n'e' «<|\"|>» «<tool_call|>» "
         "\\n<|\"|>,e:<|\"|><|\"|>}<tool_call|>",
         R"(C:f {"s":"a \"b\" {c}, [d]:\n'e' <|\"|> <tool_call|> \\n","e":""})");
  expect(gemma(),
         "Let me see.\n\n<|tool_call>call:a{x:1}<tool_call|>\n<|tool_call>call:b{ y : 2 , z : [ 1 , 2 ] "
         "}<tool_call|>\nDone",
         "T:Let me see.\nC:a {\"x\":1}\nC:b {\"y\":2,\"z\":[1,2]}\nT:Done");
  expect(gemma(), "<|channel>thought\nhm\n<channel|><|tool_call>call:a{}<tool_call|>", "K:hm\nC:a {}");
  expect(gemma(), "<|channel>thought\nhm<|tool_call>call:a{}<tool_call|>x", "K:hm\nC:a {}\nT:x");
  // What models write although they should not: JSON's quotes, no quotes, a trailing comma, the key twice.
  expect(gemma(), "<|tool_call>call:f{\"a\": \"x, \\\"y\\\"}\", b: two words, c: [\"p\",\"q\"],}<tool_call|>",
         R"(C:f {"a":"x, \"y\"}","b":"two words","c":["p","q"]})");
  expect(gemma(), "<|tool_call>call:f{a:1,a:2}<tool_call|>", R"(C:f {"a":2})");
  // Not UTF-8: what is reported is.
  expect(gemma(), "<|tool_call>call:f{a:<|\"|>\xff<|\"|>}<tool_call|>", "C:f {\"a\":\"\uFFFD\"}");
}

TEST(OutputParser, GemmaCallsCutOff) {
  const std::string whole = "<|tool_call>call:f{a:<|\"|>x}y<|\"|>,b:[1,{c:2}]}<tool_call|>";
  const OutputFormat f = gemma();
  const auto pieces = pieces_of(f, whole);
  for (size_t n = 0; n + 1 < pieces.size(); ++n)
    for (size_t bytes = 1; bytes <= (pieces[n].marker ? 1 : pieces[n].text.size()); ++bytes) {
      std::vector<Piece> cut(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(n) + 1);
      if (!cut[n].marker) cut[n].text.resize(bytes);
      const auto events = run(f, cut, {});
      ASSERT_EQ(events.size(), 1u);
      EXPECT_EQ(events[0].kind, Kind::kToolCall);
      // With its last brace all arguments are there.
      const bool complete = n + 2 == pieces.size() && bytes == pieces[n].text.size();
      EXPECT_EQ(events[0].complete, complete) << events[0].text;
      EXPECT_EQ(events[0].name, n == 0 || (n == 1 && bytes < 7) ? "" : "f");
      if (!complete) {
        EXPECT_TRUE(events[0].arguments.empty());
      }
      std::string source;
      for (const Piece& p : cut) source += p.text;
      EXPECT_EQ(events[0].text, source) << "nothing is lost";
    }
}

TEST(OutputParser, MalformedGemmaCallsAreText) {
  const char* const bodies[] = {"",
                                "f{a:1}",
                                "call:{a:1}",
                                "call:f",
                                "call:f{a}",
                                "call:f{a:}",
                                "call:f{a:1",
                                "call:f{a:1}}",
                                "call:f{a:1} x",
                                "call:f{:1}",
                                "call:f{a:[1}",
                                "call:f{a:<|\"|>x}",
                                "call:f{a:<|\"|>x<|\"|>y}",
                                "call:f{a:x<|\"|>y<|\"|>}",
                                "call:<|\"|>f<|\"|>{}",
                                "call:f{a,b:1}"};
  for (const std::string body : bodies) {
    const std::string source = "<|tool_call>" + body + "<tool_call|>";
    const auto events = run(gemma(), pieces_of(gemma(), "A\n" + source + "\nB"), {});
    std::string text;
    for (const auto& e : events) {
      EXPECT_EQ(e.kind, Kind::kText) << body;
      text += e.text;
    }
    EXPECT_EQ(text, "A\n" + source + "\nB") << "nothing is lost";
    ASSERT_EQ(events.size(), 3u) << body;
    EXPECT_THAT(events[1].note, HasSubstr("not a tool call: "));
    expect(gemma(), source + "<|tool_call>call:g{}<tool_call|>",
           "N:" + source + " | " + events[1].note + "\nC:g {}");
  }
  // The next call begins before the end of the last.
  expect(gemma(), "<|tool_call>call:f{a:<|tool_call>call:g{}<tool_call|>",
         "N:<|tool_call>call:f{a: | not a tool call: a value does not end\nC:g {}");
  expect(gemma(), "<|tool_call>call:f{a:1}<|tool_call>call:g{}<tool_call|>", "C:f {\"a\":1}\nC:g {}");
  std::string deep = "<|tool_call>call:f{a:";
  for (int i = 0; i < 100000; ++i) deep += "[";
  const auto events = run(gemma(), pieces_of(gemma(), deep + "<tool_call|>"), {});
  ASSERT_EQ(events.size(), 1u);
  EXPECT_THAT(events[0].note, HasSubstr("nested"));
  std::string many = "call:f{";
  for (int i = 0; i < 5000; ++i) many += "k" + std::to_string(i) + ":1,";
  EXPECT_THAT(parse_call(CallSyntax::kGemma4, {many + "}", {}}, "").error, HasSubstr("too many"));
}

TEST(OutputParser, HermesThoughtsAndCalls) {
  for (bool tokens : {false, true}) {
    const OutputFormat f = hermes(tokens);
    expect(f, "<think>\nlet me\n</think>\n\nIt is 4.\n", "K:let me\nT:It is 4.\n");
    expect(f, "<think>\n\n</think>\n\nYes", "T:Yes");
    expect(f, "<think>never closed </thin", "K:never closed </thin");
    expect(f, "a < b <tool x", "T:a < b <tool x");
    expect(f, "\n\nA\n\nB\n", "T:\n\nA\n\nB\n");
    expect(
        f,
        "Sure.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"}<\"}]}}\n</tool_call>\n"
        "<tool_call>\n{\"name\": \"g\"}\n</tool_call>",
        "T:Sure.\nC:f {\"a\":[1,{\"b\":\"}<\"}]}\nC:g {}");
    expect(f, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "C:f {\"a\":1}");
    // Only thought of, not called.
    expect(f, "<think>I could <tool_call>{\"name\":\"f\"}</tool_call> now</think>No",
           "K:I could <tool_call>{\"name\":\"f\"}</tool_call> now\nT:No");
    expect(f, "<tool_call>\n{\"name\": \"f\", \"argu", "I:f <tool_call>\n{\"name\": \"f\", \"argu");
    expect(f, "<tool_call>\n{\"name\": \"f\"}\n", "C:f {}");
    for (const std::string body :
         {"{\"name\": 5}", "[1]", "{\"name\": \"f\", \"arguments\": [1]}", "{name: f}", ""}) {
      const auto events = run(f, pieces_of(f, "<tool_call>" + body + "</tool_call>"), {});
      ASSERT_EQ(events.size(), 1u);
      EXPECT_EQ(events[0].text, "<tool_call>" + body + "</tool_call>");
      EXPECT_THAT(events[0].note, HasSubstr("not a tool call"));
    }
  }
  // Where the tokenizer has the markers as tokens, spelling them means nothing.
  expect(hermes(true), "«<think>»a«</think>» «<tool_call>»{«</tool_call>»",
         "T:<think>a</think> <tool_call>{</tool_call>");
  expect(hermes(true), "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"«</tool_call>»\"}}</tool_call>",
         "C:f {\"s\":\"</tool_call>\"}");
}

TEST(OutputParser, Llama3Calls) {
  const OutputFormat f = llama3();
  expect(f, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "C:f {\"a\":1}");
  expect(f, "\n {\"name\": \"f\", \"parameters\": {\"a\": 1}}\n", "C:f {\"a\":1}");
  expect(f, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "C:f {}");
  // A JSON answer that is no call is an answer.
  expect(f, " {\"a\": 1}\n", "T: {\"a\": 1}\n");
  expect(f, "{not json", "T:{not json");
  expect(f, "\n\nSome {\"name\": \"f\"}", "T:\n\nSome {\"name\": \"f\"}");
  expect(f, "  \n", "T:  \n");
  expect(f, "{\"name\": \"f\", \"parameters\": {}}", "T:{\"name\": \"f\", \"parameters\": {}}",
         {.expect_calls = false});
  const auto events = run(f, pieces_of(f, "<|python_tag|>print(1)"), {});
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].text, "<|python_tag|>print(1)");
  EXPECT_THAT(events[0].note, HasSubstr("not a tool call"));
}

TEST(OutputParser, RandomSoupLosesNoOrdinaryText) {
  // Any order of markers and words: no crash, the same for any cut, every word comes out once.
  std::mt19937 random(11);
  for (const OutputFormat& f : {gemma(), hermes(true), hermes(false)}) {
    std::vector<std::string> parts = {f.think_open.text,
                                      f.think_close.text,
                                      f.call_open.text,
                                      f.call_close.text,
                                      "thought\n",
                                      "call:f{a:",
                                      "}",
                                      "\n",
                                      "{\"name\":\"g\"}"};
    if (!f.quote.text.empty()) parts.push_back(f.quote.text);
    for (int round = 0; round < 300; ++round) {
      std::string text;
      size_t words = 0;
      for (size_t i = 0, n = random() % 12; i < n; ++i)
        text += random() % 3 == 0 ? "w" + std::to_string(++words) + " " : parts[random() % parts.size()];
      const auto pieces = pieces_of(f, text);
      const auto events = run(f, pieces, {});
      std::string all;
      for (const auto& e : events) all += e.text + "\n";
      for (size_t w = 1; w <= words; ++w) EXPECT_THAT(all, HasSubstr("w" + std::to_string(w) + " ")) << text;
      expect(f, text, summary(events));
    }
  }
}

}  // namespace
}  // namespace hlwq
