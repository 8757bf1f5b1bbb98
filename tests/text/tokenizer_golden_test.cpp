// The tokenizer against goldens made by the PyPI package `tokenizers`
// (tests/golden/make_tokenizer_goldens.py).
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include "text/tokenizer.h"
#include "text/tokenizer_files.h"
#include "text/unicode.h"

namespace hlwq {
namespace {

struct Golden {
  uint64_t decoded_hash;  // FNV-1a
  std::vector<int32_t> ids;
};

uint64_t fnv(std::string_view text) {
  uint64_t h = 0xCBF29CE484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return h;
}

std::vector<std::string> golden_lines() {
  const std::string data = test::read_xz(test::golden_path("lines.bin.xz"));
  std::vector<std::string> lines;
  for (size_t pos = 0; pos < data.size();) {
    const size_t end = data.find('\n', pos);
    const size_t count = std::stoul(data.substr(pos, end - pos));
    lines.push_back(data.substr(end + 1, count));
    pos = end + 1 + count;
  }
  return lines;
}

std::vector<Golden> golden_ids(const std::string& name) {
  std::istringstream in(test::read_xz(test::golden_path(name + ".ids.xz")));
  std::vector<Golden> goldens;
  for (std::string line; std::getline(in, line);) {
    std::istringstream row(line);
    Golden g;
    row >> std::hex >> g.decoded_hash >> std::dec;
    for (int32_t id; row >> id;) g.ids.push_back(id);
    goldens.push_back(std::move(g));
  }
  return goldens;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  const auto stream = tokenizer.stream(skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream->push(id);
    EXPECT_TRUE(unicode::is_valid(part)) << "half a character came out";
    text += part;
  }
  return text + stream->finish();
}

class GoldenTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, SameIdsAndTextAsReference) {
  const auto tokenizer = Tokenizer::from_json(test::tokenizer_json(GetParam()), GetParam());
  const auto lines = golden_lines();
  const auto goldens = golden_ids(GetParam());
  ASSERT_GE(lines.size(), 2000u);
  ASSERT_EQ(lines.size(), goldens.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    ASSERT_EQ(tokenizer->encode(lines[i], true, true), goldens[i].ids) << "line " << i << ": " << lines[i];
    const std::string text = tokenizer->decode(goldens[i].ids, false);
    ASSERT_EQ(fnv(text), goldens[i].decoded_hash)
        << "line " << i << ": " << lines[i] << "\ndecoded: " << text;
    ASSERT_EQ(streamed(*tokenizer, goldens[i].ids, false), text) << "line " << i;
  }
}

TEST_P(GoldenTokenizer, UserTextNeverBecomesSpecial) {
  const auto tokenizer = Tokenizer::from_json(test::tokenizer_json(GetParam()), GetParam());
  std::string every;
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id)
    if (tokenizer->is_special(id)) every += tokenizer->id_to_token(id);
  ASSERT_FALSE(every.empty());
  std::vector<std::string> texts = golden_lines();
  texts.push_back(every);
  for (const std::string& text : texts) {
    for (const int32_t id : tokenizer->encode(text, false, false))
      ASSERT_FALSE(tokenizer->is_special(id)) << text;
    const std::vector<Tokenizer::Piece> pieces{{text, false}};
    for (const int32_t id : tokenizer->encode_pieces(pieces)) ASSERT_FALSE(tokenizer->is_special(id)) << text;
  }
}

TEST_P(GoldenTokenizer, PiecesAreTheConcatenation) {
  const auto tokenizer = Tokenizer::from_json(test::tokenizer_json(GetParam()), GetParam());
  const auto lines = golden_lines();
  for (size_t i = 0; i + 2 < lines.size(); i += 3) {
    if (!unicode::is_valid(lines[i]) || !unicode::is_valid(lines[i + 1]) || !unicode::is_valid(lines[i + 2]))
      continue;
    const std::vector<Tokenizer::Piece> trusted{{lines[i], true}, {lines[i + 1], true}, {lines[i + 2], true}};
    ASSERT_EQ(tokenizer->encode_pieces(trusted),
              tokenizer->encode(lines[i] + lines[i + 1] + lines[i + 2], false, true));
    std::vector<Tokenizer::Piece> untrusted = trusted;
    for (auto& p : untrusted) p.trusted = false;
    ASSERT_EQ(tokenizer->encode_pieces(untrusted),
              tokenizer->encode(lines[i] + lines[i + 1] + lines[i + 2], false, false));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTokenizer, testing::Values("gemma3", "qwen3", "llama3", "gemma4-nano"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SmallPipelines, SameIdsAndTextAsReference) {
  std::ifstream file(test::golden_path("small.json"));
  const Json golden = Json::parse(file);
  ASSERT_GE(golden["pipelines"].size(), 40u);
  for (const Json& pipeline : golden["pipelines"]) {
    Json doc = golden["base"];
    for (const auto& [key, value] : pipeline["patch"].items()) {
      if (key == "model")
        doc["model"].update(value);
      else
        doc[key] = value;
    }
    const std::string name = pipeline["name"];
    const auto tokenizer = Tokenizer::from_json(doc.dump(), name);
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const std::string text = golden["texts"][i];
      const auto expected = pipeline["results"][i][0].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->encode(text, true, true), expected) << name << ": " << golden["texts"][i];
      for (const bool skip : {false, true}) {
        if (const Json& decoded = pipeline["results"][i][skip ? 2 : 1];
            !decoded.is_null()) {  // why: see the script
          EXPECT_EQ(tokenizer->decode(expected, skip), decoded.get<std::string>())
              << name << ": " << golden["texts"][i] << " skip_special " << skip;
        }
        EXPECT_EQ(streamed(*tokenizer, expected, skip), tokenizer->decode(expected, skip))
            << name << ": " << text;
      }
    }
  }
}

// tokenizer.ggml.* as a converter writes it for this byte-level tokenizer.json.
Json byte_level_metadata(const Json& doc, const char* pre) {
  Json tokens = Json::array(), types = Json::array(), merges = Json::array();
  std::map<int32_t, std::pair<std::string, int>> by_id;
  for (const auto& [token, id] : doc["model"]["vocab"].items()) by_id[id.get<int32_t>()] = {token, 1};
  for (const Json& t : doc["added_tokens"])
    by_id[t["id"].get<int32_t>()] = {t["content"], t["special"].get<bool>() ? 3 : 4};
  for (const auto& [id, token] : by_id) {
    EXPECT_EQ(static_cast<size_t>(id), tokens.size()) << "ids have gaps";
    tokens.push_back(token.first);
    types.push_back(token.second);
  }
  for (const Json& m : doc["model"]["merges"])
    merges.push_back(m.is_string() ? m.get<std::string>()
                                   : m[0].get<std::string>() + " " + m[1].get<std::string>());
  return {{"tokenizer.ggml.model", "gpt2"},     {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", tokens},    {"tokenizer.ggml.merges", merges},
          {"tokenizer.ggml.token_type", types}, {"tokenizer.ggml.add_bos_token", false}};
}

void expect_golden_ids(const Tokenizer& tokenizer, const std::string& name) {
  const auto lines = golden_lines();
  const auto goldens = golden_ids(name);
  for (size_t i = 0; i < lines.size(); ++i)
    ASSERT_EQ(tokenizer.encode(lines[i], true, true), goldens[i].ids) << "line " << i << ": " << lines[i];
}

TEST(GgufTokenizer, ByteLevelKindsGiveTheOriginalIds) {
  for (const auto& [name, pre] : {std::pair{"llama3", "llama-bpe"}, std::pair{"qwen3", "qwen2"}}) {
    const Json metadata = byte_level_metadata(Json::parse(test::tokenizer_json(name)), pre);
    expect_golden_ids(*Tokenizer::from_json(tokenizer_json_from_gguf(metadata), "gguf"), name);
  }
}

// The vocabulary's scores, as SentencePiece trains them: later merges score lower; user-defined tokens 0,
// which converters overwrite with -1000, spelling their U+2581 as spaces.
TEST(GgufTokenizer, SentencePieceMergesFollowFromScores) {
  const Json doc = Json::parse(test::tokenizer_json("gemma3"));
  std::vector<std::string> tokens(doc["model"]["vocab"].size());
  std::vector<int> types(tokens.size(), 1);
  std::vector<double> scores(tokens.size(), -1000);
  for (const auto& [token, id] : doc["model"]["vocab"].items()) tokens.at(id.get<size_t>()) = token;
  for (const Json& t : doc["added_tokens"]) {
    const auto id = t["id"].get<size_t>();
    if (id == types.size()) {  // <image_soft_token> is in no vocabulary of the original, but in a GGUF's list
                               // of tokens
      tokens.push_back(t["content"]);
      types.push_back(1);
      scores.push_back(-1000);
    }
    types.at(id) = t["special"].get<bool>() ? 3 : 4;
  }
  std::map<std::string, size_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i) ids[tokens[i]] = i;
  double next = -1;
  for (const Json& m : doc["model"]["merges"]) {
    const size_t id = ids.at(m[0].get<std::string>() + m[1].get<std::string>());
    if (types[id] == 1 && scores[id] == -1000) scores[id] = next--;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == 1 && tokens[i].size() == 6 && tokens[i].starts_with("<0x")) types[i] = 6;
    if (types[i] != 4) continue;
    std::string spaces;
    for (size_t at = 0; tokens[i].compare(at, 3, "\xE2\x96\x81") == 0; at += 3) spaces += ' ';
    if (!spaces.empty() && spaces.size() * 3 == tokens[i].size()) tokens[i] = spaces;
  }
  const Json metadata = {{"tokenizer.ggml.model", "llama"},      {"tokenizer.ggml.tokens", tokens},
                         {"tokenizer.ggml.token_type", types},   {"tokenizer.ggml.scores", scores},
                         {"tokenizer.ggml.bos_token_id", 2},     {"tokenizer.ggml.unknown_token_id", 3},
                         {"tokenizer.ggml.add_bos_token", true}, {"tokenizer.ggml.add_space_prefix", false}};
  const std::string text = tokenizer_json_from_gguf(metadata);
  Json rebuilt = Json::parse(text);
  rebuilt["model"]["vocab"].erase("<image_soft_token>");
  ASSERT_EQ(rebuilt["model"]["vocab"], doc["model"]["vocab"]);
  ASSERT_EQ(rebuilt["model"]["merges"].size(), doc["model"]["merges"].size());
  expect_golden_ids(*Tokenizer::from_json(text, "gguf"), "gemma3");
}

}  // namespace
}  // namespace hlwq
