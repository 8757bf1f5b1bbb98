// The tokenizer's own contracts: trust, repair of bytes, streaming, size, and refusal of bad files.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <functional>

#include "hlwq/error.h"
#include "text/tokenizer_regex.h"
#include "text/unicode.h"

namespace hlwq {
namespace {

using Ids = std::vector<int32_t>;

// Characters a..z < > / space \n and U+FFFD, all 256 byte tokens after id 40; "ab" and "abc" by merges;
// special <s>, <s/>, plain <t>.
Json small_doc() {
  Json vocab = Json::object();
  int32_t id = 0;
  for (char c = 'a'; c <= 'z'; ++c) vocab[std::string(1, c)] = id++;
  for (const char* s : {"<", ">", "/", " ", "\n", "\xEF\xBF\xBD", "ab", "abc"}) vocab[s] = id++;
  id = 40;
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    vocab[name] = id++;
  }
  const auto added = [](int32_t i, const char* text, bool special) {
    return Json{{"id", i},         {"content", text},     {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  return {
      {"added_tokens", {added(300, "<s>", true), added(301, "<s/>", true), added(302, "<t>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}},
      {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", {"a b", "ab c"}}}}};
}

std::shared_ptr<const Tokenizer> make(const Json& doc) {
  return Tokenizer::from_json(doc.dump(), "test.json");
}

Ids spell(const Tokenizer& t, std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(t.token_to_id(std::string(1, c)));
  return ids;
}

TEST(Tokenizer, SpecialTokensOnlyWhereParsed) {
  const auto t = make(small_doc());
  EXPECT_EQ(t->encode("<s>", false, true), Ids{300});
  EXPECT_EQ(t->encode("<s>", false, false), spell(*t, "<s>"));
  EXPECT_EQ(t->encode("<t>", false, false), Ids{302}) << "not special: found in any text";
  EXPECT_TRUE(t->is_special(300));
  EXPECT_FALSE(t->is_special(302));
  EXPECT_EQ(t->vocab_size(), 303);
  EXPECT_EQ(t->token_to_id("<s/>"), 301);
  EXPECT_EQ(t->token_to_id("absent"), -1);
  EXPECT_EQ(t->id_to_token(9999), "");
  EXPECT_EQ(t->id_to_token(-1), "");
  EXPECT_EQ(t->decode(Ids{300, 0, 9999, -5}, true), "a");
}

TEST(Tokenizer, PiecesKeepTrustApart) {
  const auto t = make(small_doc());
  const auto encode = [&](std::vector<Tokenizer::Piece> pieces) { return t->encode_pieces(pieces); };
  EXPECT_EQ(encode({{"<s>a", true}, {"<s>", false}, {"<s>", true}}), (Ids{300, 0, 26, 18, 27, 300}));
  EXPECT_EQ(encode({{"a", true}, {"b", false}, {"c", true}}), Ids{t->token_to_id("abc")})
      << "merges cross pieces";
  EXPECT_EQ(encode({{"<", true}, {"s>", false}}), spell(*t, "<s>"))
      << "a straddling spelling is ordinary text";
  EXPECT_EQ(encode({{"<", false}, {"s>", true}}), spell(*t, "<s>"));
  EXPECT_EQ(encode({{"<", false}, {"<s>", true}}), (Ids{26, 300}));
  EXPECT_EQ(encode({{"<t", false}, {">", true}}), Ids{302}) << "plain added tokens need no trust";
  EXPECT_EQ(encode({}), Ids{});
  EXPECT_EQ(encode({{"", true}, {"", false}}), Ids{});
  EXPECT_EQ(encode({{"\xF0\x9F", false}, {"\x98\x80", false}}),
            (Ids{40 + 0xF0, 40 + 0x9F, 40 + 0x98, 40 + 0x80}))
      << "one character in two pieces";
}

// A user's text must not swallow the template's token that follows, even where spellings overlap.
TEST(Tokenizer, UntrustedTextCannotHideATrustedToken) {
  Json doc = small_doc();
  doc["added_tokens"].push_back({{"id", 303}, {"content", "x<s>"}, {"special", true}, {"normalized", false}});
  const auto t = make(doc);
  EXPECT_EQ(t->encode("x<s>", false, true), Ids{303});
  EXPECT_EQ(t->encode_pieces(std::vector<Tokenizer::Piece>{{"x", false}, {"<s>", true}}), (Ids{23, 300}));
}

TEST(Tokenizer, NormalizedSpecialTokensKeepTrust) {
  Json doc = small_doc();
  doc["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "zz"}};
  doc["added_tokens"].push_back({{"id", 303}, {"content", "< s>"}, {"special", true}, {"normalized", true}});
  const auto t = make(doc);
  EXPECT_EQ(t->encode("a< s>", false, true), (Ids{0, 303}));
  EXPECT_EQ(t->encode("a<zzs>", false, true), (Ids{0, 303})) << "it is sought in the normalised text";
  EXPECT_EQ(t->encode("< s>", false, false), spell(*t, "<zzs>"));
  EXPECT_EQ(t->encode_pieces(std::vector<Tokenizer::Piece>{{"< s>", false}, {"< s>", true}}),
            (Ids{26, 25, 25, 18, 27, 303}));
  EXPECT_EQ(t->encode_pieces(std::vector<Tokenizer::Piece>{{"<", true}, {" ", false}, {"s>", true}}),
            spell(*t, "<zzs>"));
}

// A merge that would build a special token applies to trusted text only.
TEST(Tokenizer, MergesDoNotBuildSpecialTokensFromUserText) {
  Json doc = small_doc();
  doc["added_tokens"].push_back(
      {{"id", doc["model"]["vocab"]["abc"]}, {"content", "abc"}, {"special", true}, {"normalized", false}});
  doc["added_tokens"].push_back({{"id", 25}, {"content", "z"}, {"special", true}, {"normalized", false}});
  for (const bool ignore_merges : {false, true}) {
    doc["model"]["ignore_merges"] = ignore_merges;
    const auto t = make(doc);
    EXPECT_EQ(t->encode("abc", false, true), Ids{t->token_to_id("abc")});
    EXPECT_EQ(t->encode("abc", false, false), (Ids{t->token_to_id("ab"), 2}));
    EXPECT_EQ(t->encode("z", false, false), Ids{40 + 'z'})
        << "a single character that is special is spelled in bytes";
  }
}

TEST(Tokenizer, InvalidUtf8IsReplaced) {
  const auto t = make(small_doc());
  const int32_t replacement = t->token_to_id("\xEF\xBF\xBD");
  EXPECT_EQ(t->encode("a\xFF"
                      "b",
                      false, false),
            (Ids{0, replacement, 1}));
  EXPECT_EQ(t->encode("\xE2\x82", false, false), Ids{replacement}) << "a maximal part is one replacement";
  EXPECT_EQ(t->encode("\xED\xA0\x80", false, false), (Ids{replacement, replacement, replacement}))
      << "a surrogate";
  EXPECT_EQ(t->encode("\xF0\x80\x80", false, false), (Ids{replacement, replacement, replacement}))
      << "an overlong form";
}

TEST(Tokenizer, StreamHoldsHalfCharactersBack) {
  const auto t = make(small_doc());
  const auto stream = t->stream(true);
  EXPECT_EQ(stream->push(0), "a");
  EXPECT_EQ(stream->push(40 + 0xC3), "");
  EXPECT_EQ(stream->push(300), "") << "skipped: does not end the run of bytes";
  EXPECT_EQ(stream->push(40 + 0xA9), "") << "a run of bytes is certain only when it ends";
  EXPECT_EQ(stream->push(1),
            "\xC3\xA9"
            "b");
  EXPECT_EQ(stream->push(40 + 0xC3), "");
  EXPECT_EQ(stream->finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, StreamOutlivesTheCallersTokenizer) {
  auto t = make(small_doc());
  const auto stream = t->stream(false);
  t.reset();
  EXPECT_EQ(stream->push(2), "c");
}

// Work must grow about linearly: these would take hours if merging were quadratic. The ids are checked, not
// the time.
TEST(Tokenizer, LongTextsWithoutBreaks) {
  const auto t = make(small_doc());
  constexpr size_t kRepeats = 350'000;
  std::string text;
  for (size_t i = 0; i < kRepeats; ++i) text += "abc";
  EXPECT_EQ(t->encode(text, false, false), Ids(kRepeats, t->token_to_id("abc")));
  EXPECT_EQ(t->encode(std::string(1'000'000, 'a'), false, false), Ids(1'000'000, 0));
  EXPECT_EQ(t->encode(std::string(1'000'000, '<'), false, true).size(), 1'000'000u);
}

TEST(Tokenizer, LongRunsThroughRegularExpressions) {
  Json doc = small_doc();
  doc["pre_tokenizer"] = {
      {"type", "Split"},
      {"behavior", "Isolated"},
      {"pattern", {{"Regex", "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}}};
  const auto t = make(doc);
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(t->encode(spaces, false, false).size(), spaces.size());
  EXPECT_EQ(t->encode(spaces + "a", false, false).size(), spaces.size() + 1);
  EXPECT_EQ(t->encode(spaces + "\n", false, false).size(), spaces.size() + 1);
}

TEST(Tokenizer, RegularExpressionsThatExplodeAreAnError) {
  Json doc = small_doc();
  doc["pre_tokenizer"] = {
      {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a|aa)+[bc]"}}}};
  const auto t = make(doc);
  try {
    t->encode(std::string(3000, 'a'), false, false);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << e.what();
    EXPECT_NE(std::string(e.what()).find("regular expression"), std::string::npos);
  }
}

struct BadFile {
  const char* name;
  std::function<void(Json&)> damage;
  ErrorCode code;
  const char* says;
};

TEST(Tokenizer, BadFilesAreNamedErrors) {
  Json deep = Json::object({{"type", "NFC"}});
  for (int i = 0; i < 100; ++i) deep = {{"type", "Sequence"}, {"normalizers", Json::array({deep})}};
  const Json added = {{"id", 5}, {"content", "x"}};
  const BadFile files[] = {
      {"no model", [](Json& d) { d.erase("model"); }, ErrorCode::kInvalidFile, "model"},
      {"model is a list", [](Json& d) { d["model"] = Json::array(); }, ErrorCode::kInvalidFile, "model"},
      {"no vocab", [](Json& d) { d["model"].erase("vocab"); }, ErrorCode::kInvalidFile, "vocab"},
      {"vocab is a list", [](Json& d) { d["model"]["vocab"] = {"a"}; }, ErrorCode::kInvalidFile, "vocab"},
      {"id is text", [](Json& d) { d["model"]["vocab"]["a"] = "0"; }, ErrorCode::kInvalidFile,
       "not a number"},
      {"id is an object", [](Json& d) { d["model"]["vocab"]["a"] = Json::object(); }, ErrorCode::kInvalidFile,
       "not a number"},
      {"id is a fraction", [](Json& d) { d["model"]["vocab"]["a"] = 0.5; }, ErrorCode::kInvalidFile,
       "not a number"},
      {"id is negative", [](Json& d) { d["model"]["vocab"]["a"] = -1; }, ErrorCode::kInvalidFile, "negative"},
      {"id is huge", [](Json& d) { d["model"]["vocab"]["a"] = 4'000'000'000u; }, ErrorCode::kInvalidFile,
       "beyond"},
      {"id is absurd", [](Json& d) { d["model"]["vocab"]["a"] = UINT64_MAX; }, ErrorCode::kInvalidFile,
       "beyond"},
      {"merge of missing token", [](Json& d) { d["model"]["merges"] = {"a missing"}; },
       ErrorCode::kInvalidFile, "missing"},
      {"merge into missing token", [](Json& d) { d["model"]["merges"] = {"a c"}; }, ErrorCode::kInvalidFile,
       "\"ac\""},
      {"merge of one", [](Json& d) { d["model"]["merges"] = {"a"}; }, ErrorCode::kInvalidFile, "merges[0]"},
      {"merge of three", [](Json& d) { d["model"]["merges"] = {"a b c"}; }, ErrorCode::kInvalidFile,
       "merges[0]"},
      {"pair of one", [](Json& d) { d["model"]["merges"] = Json::array({Json::array({"a"})}); },
       ErrorCode::kInvalidFile, "merges[0]"},
      {"pair of three",
       [](Json& d) {
         d["model"]["merges"] = Json::array({Json::array({"a", "b", "c"})});
       },
       ErrorCode::kInvalidFile, "merges[0]"},
      {"pair of numbers",
       [](Json& d) {
         d["model"]["merges"] = Json::array({Json::array({1, 2})});
       },
       ErrorCode::kInvalidFile, "merges[0]"},
      {"pair of pairs",
       [](Json& d) {
         d["model"]["merges"] = Json::array({Json::array({Json::array({"a", "b"})})});
       },
       ErrorCode::kInvalidFile, "merges[0]"},
      {"merges are numbers",
       [](Json& d) {
         d["model"]["merges"] = {1, 2};
       },
       ErrorCode::kInvalidFile, "merges[0]"},
      {"unknown token absent", [](Json& d) { d["model"]["unk_token"] = "<nope>"; }, ErrorCode::kInvalidFile,
       "<nope>"},
      {"flag of a wrong type", [](Json& d) { d["model"]["byte_fallback"] = "yes"; }, ErrorCode::kInvalidFile,
       "byte_fallback"},
      {"dropout", [](Json& d) { d["model"]["dropout"] = 0.1; }, ErrorCode::kUnsupported, "dropout"},
      {"unigram", [](Json& d) { d["model"]["type"] = "Unigram"; }, ErrorCode::kUnsupported, "Unigram"},
      {"unknown normalizer",
       [](Json& d) {
         d["normalizer"] = {{"type", "Precompiled"}};
       },
       ErrorCode::kUnsupported, "Precompiled"},
      {"unknown pre-tokenizer",
       [](Json& d) {
         d["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
       },
       ErrorCode::kUnsupported, "BertPreTokenizer"},
      {"unknown decoder",
       [](Json& d) {
         d["decoder"] = {{"type", "WordPiece"}};
       },
       ErrorCode::kUnsupported, "WordPiece"},
      {"unknown post-processor",
       [](Json& d) {
         d["post_processor"] = {{"type", "BertProcessing"}};
       },
       ErrorCode::kUnsupported, "BertProcessing"},
      {"component without a type", [](Json& d) { d["decoder"] = Json::object(); }, ErrorCode::kInvalidFile,
       "type"},
      {"component is a list", [](Json& d) { d["normalizer"] = Json::array(); }, ErrorCode::kInvalidFile,
       "normalizer"},
      {"null inside a sequence",
       [](Json& d) {
         d["normalizer"] = {{"type", "Sequence"}, {"normalizers", {nullptr}}};
       },
       ErrorCode::kInvalidFile, "null"},
      {"deep nesting", [&](Json& d) { d["normalizer"] = deep; }, ErrorCode::kInvalidFile, "nested"},
      {"broken expression",
       [](Json& d) {
         d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}};
       },
       ErrorCode::kInvalidFile, "regular expression"},
      {"enormous expression",
       [](Json& d) {
         d["normalizer"] = {
             {"type", "Replace"}, {"pattern", {{"Regex", "((a{1000}){1000}){1000}"}}}, {"content", ""}};
       },
       ErrorCode::kInvalidFile, "regular expression"},
      {"nested class",
       [](Json& d) {
         d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "[a[bc]]"}}}, {"content", ""}};
       },
       ErrorCode::kUnsupported, "nested"},
      {"added tokens are an object", [](Json& d) { d["added_tokens"] = Json::object(); },
       ErrorCode::kInvalidFile, "added_tokens"},
      {"added token without an id", [](Json& d) { d["added_tokens"][0].erase("id"); },
       ErrorCode::kInvalidFile, "added_tokens[0]"},
      {"added token with a huge id", [](Json& d) { d["added_tokens"][0]["id"] = 1u << 31; },
       ErrorCode::kInvalidFile, "added_tokens[0]"},
      {"added token of 1 MB", [](Json& d) { d["added_tokens"][0]["content"] = std::string(1 << 20, 'a'); },
       ErrorCode::kUnsupported, "1048576"},
      {"template names an absent token",
       [](Json& d) {
         d["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "<q>"}}}}}},
                                {"special_tokens", Json::object()}};
       },
       ErrorCode::kInvalidFile, "<q>"},
  };
  for (const BadFile& f : files) {
    Json doc = small_doc();
    f.damage(doc);
    try {
      make(doc);
      ADD_FAILURE() << f.name << ": no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), f.code) << f.name << ": " << e.what();
      EXPECT_NE(std::string(e.what()).find(f.says), std::string::npos) << f.name << ": " << e.what();
      EXPECT_EQ(std::string(e.what()).rfind("test.json", 0), 0u) << "the file is named: " << e.what();
    }
  }
}

TEST(Tokenizer, EveryTruncationIsAnError) {
  const std::string text = small_doc().dump();
  for (size_t n = 0; n < text.size(); ++n)
    EXPECT_THROW(Tokenizer::from_json(text.substr(0, n), "cut"), Error) << n;
}

TEST(Tokenizer, DamagedBytesNeverCrash) {
  const std::string text = small_doc().dump();
  uint64_t state = 1;
  const auto random = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; };
  size_t loaded = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string damaged = text;
    for (uint64_t k = random() % 4 + 1; k > 0; --k) {
      const size_t at = random() % damaged.size();
      if (random() % 2)
        damaged[at] = static_cast<char>(random());
      else
        damaged.erase(at, random() % 20);
    }
    try {
      const auto t = Tokenizer::from_json(damaged, "damaged");
      t->decode(t->encode("abc <s>\xFFz", true, true), false);
      ++loaded;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(loaded, 0u) << "every file was refused: encoding after damage was never tried";
}

TEST(GgufTokenizer, BadMetadataIsAnError) {
  const Json good = {
      {"tokenizer.ggml.model", "llama"},          {"tokenizer.ggml.tokens", {"<unk>", "a", "b", "ab"}},
      {"tokenizer.ggml.scores", {0, -1, -2, -3}}, {"tokenizer.ggml.token_type", {2, 1, 1, 1}},
      {"tokenizer.ggml.unknown_token_id", 0},     {"tokenizer.ggml.add_bos_token", false},
      {"tokenizer.ggml.add_space_prefix", false}};
  EXPECT_EQ(Tokenizer::from_json(tokenizer_json_from_gguf(good), "gguf")->encode("abba", true, true),
            (Ids{3, 2, 1}));
  const std::pair<const char*, Json> changes[] = {
      {"tokenizer.ggml.model", "bert"},
      {"tokenizer.ggml.model", 3},
      {"tokenizer.ggml.tokens", "x"},
      {"tokenizer.ggml.tokens", {1, 2}},
      {"tokenizer.ggml.scores", {1}},
      {"tokenizer.ggml.scores", {"a", "b", "c", "d"}},
      {"tokenizer.ggml.token_type", {1}},
      {"tokenizer.ggml.add_bos_token", 7},
      {"tokenizer.ggml.add_space_prefix", "no"},
      {"tokenizer.ggml.tokens", {"<unk>", "a", "b", std::string(5000, 'a')}}};
  for (const auto& [key, value] : changes) {
    Json bad = good;
    bad[key] = value;
    EXPECT_THROW(tokenizer_json_from_gguf(bad), Error) << key << " = " << value.dump().substr(0, 50);
  }
  EXPECT_THROW(tokenizer_json_from_gguf(Json::object()), Error);
  Json odd = good;
  odd["tokenizer.ggml.model"] = "gpt2";
  odd["tokenizer.ggml.pre"] = "no-such-pre";
  odd["tokenizer.ggml.merges"] = Json::array();
  try {
    tokenizer_json_from_gguf(odd);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("no-such-pre"), std::string::npos);
  }
}

TEST(Unicode, IncompleteTail) {
  EXPECT_EQ(unicode::incomplete_tail("ab"), 2u);
  EXPECT_EQ(unicode::incomplete_tail("a\xE2\x82"), 1u);
  EXPECT_EQ(unicode::incomplete_tail("a\xF0\x9F\x98"), 1u);
  EXPECT_EQ(unicode::incomplete_tail("\xE2\x82\xAC"), 3u);
  EXPECT_EQ(unicode::incomplete_tail("\xFF"), 1u) << "never valid: nothing to wait for";
  EXPECT_EQ(unicode::incomplete_tail("\xE0\x80"), 2u) << "already invalid";
}

}  // namespace
}  // namespace hlwq
