// tokenizer.ggml.* of a GGUF file, written out as the tokenizer.json it came from.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "text/bpe.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace hlwq {
namespace {

constexpr const char* kWhat = "GGUF tokenizer";
constexpr size_t kMaxSpmToken = 1024;  // bounds the search for splits: quadratic in a token's length

enum TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

[[noreturn]] void fail(ErrorCode code, const std::string& message) {
  throw Error(code, std::string(kWhat) + ": " + message);
}

const Json* find(const Json& metadata, const std::string& name) {
  const auto it = metadata.find("tokenizer.ggml." + name);
  return it != metadata.end() ? &*it : nullptr;
}

std::string get_string(const Json& metadata, const std::string& name, const std::string& fallback) {
  const Json* v = find(metadata, name);
  if (!v) return fallback;
  if (!v->is_string()) fail(ErrorCode::kInvalidFile, "tokenizer.ggml." + name + " is not a string");
  return v->get<std::string>();
}

bool get_bool(const Json& metadata, const std::string& name, bool fallback) {
  const Json* v = find(metadata, name);
  if (!v) return fallback;
  if (!v->is_boolean()) fail(ErrorCode::kInvalidFile, "tokenizer.ggml." + name + " is not a boolean");
  return v->get<bool>();
}

int64_t get_id(const Json& metadata, const std::string& name, size_t vocab_size) {
  const Json* v = find(metadata, name);
  if (!v) return -1;
  if (!v->is_number_integer()) fail(ErrorCode::kInvalidFile, "tokenizer.ggml." + name + " is not a number");
  // Writers put -1 (also as 2^32 - 1) for "none".
  if (v->is_number_unsigned()) return v->get<uint64_t>() < vocab_size ? v->get<int64_t>() : -1;
  if (const auto id = v->get<int64_t>(); id >= 0 && static_cast<uint64_t>(id) < vocab_size) return id;
  return -1;
}

const Json& get_array(const Json& metadata, const std::string& name) {
  const Json* v = find(metadata, name);
  if (!v || !v->is_array())
    fail(ErrorCode::kInvalidFile, "tokenizer.ggml." + name + " is missing or not an array");
  return *v;
}

void append_quoted(std::string& out, std::string_view s) {
  out += '"';
  for (const char c : s) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      const char* digits = "0123456789abcdef";
      out += "\\u00";
      out += digits[c >> 4];
      out += digits[c & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

struct Source {
  std::vector<std::string> tokens;
  std::vector<int> types;
};

Source read_tokens(const Json& metadata) {
  Source s;
  const Json& tokens = get_array(metadata, "tokens");
  for (const Json& t : tokens) {
    if (!t.is_string())
      fail(ErrorCode::kInvalidFile,
           "tokenizer.ggml.tokens[" + std::to_string(s.tokens.size()) + "] is not a string");
    const std::string& text = t.get_ref<const std::string&>();
    s.tokens.push_back(unicode::is_valid(text) ? text : unicode::lossy(text));
  }
  if (!find(metadata, "token_type")) {
    s.types.assign(s.tokens.size(), kNormal);
    return s;
  }
  const Json& types = get_array(metadata, "token_type");
  if (types.size() != s.tokens.size())
    fail(ErrorCode::kInvalidFile, "tokenizer.ggml.token_type has " + std::to_string(types.size()) +
                                      " entries for " + std::to_string(s.tokens.size()) + " tokens");
  for (const Json& t : types) {
    if (!t.is_number_integer())
      fail(ErrorCode::kInvalidFile, "tokenizer.ggml.token_type has an entry that is not a number");
    s.types.push_back(t.get<int>());
  }
  return s;
}

void append_vocab(std::string& out, const Source& s) {
  out += "\"vocab\":{";
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    if (i) out += ',';
    append_quoted(out, s.tokens[i]);
    out += ':' + std::to_string(i);
  }
  out += "}";
}

// Control tokens are special; user-defined ones are found in any text but stay ordinary.
std::string added_tokens(const Source& s) {
  std::string out = "[";
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    if (s.types[i] != kControl && s.types[i] != kUserDefined) continue;
    if (s.tokens[i].empty()) continue;
    if (out.size() > 1) out += ',';
    out += "{\"id\":" + std::to_string(i) + ",\"content\":";
    append_quoted(out, s.tokens[i]);
    out += std::string(
               ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":") +
           (s.types[i] == kControl ? "true}" : "false}");
  }
  return out + "]";
}

std::string post_processor(const Json& metadata, const Source& s, bool default_bos) {
  const int64_t bos = get_bool(metadata, "add_bos_token", default_bos)
                          ? get_id(metadata, "bos_token_id", s.tokens.size())
                          : -1;
  const int64_t eos =
      get_bool(metadata, "add_eos_token", false) ? get_id(metadata, "eos_token_id", s.tokens.size()) : -1;
  Json single = Json::array(), special = Json::object();
  const auto add = [&](int64_t id) {
    if (id < 0) return;
    const std::string& name = s.tokens[static_cast<size_t>(id)];
    single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
    special[name] = {{"id", name}, {"ids", Json::array({id})}, {"tokens", Json::array({name})}};
  };
  add(bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(eos);
  return Json{
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", special}}
      .dump();
}

// What a byte-level vocabulary's `pre` type stands for in tokenizer.json.
struct PreType {
  const char* regex = nullptr;  // Split, isolated; null: the GPT-2 expression inside ByteLevel
  bool single_digits = false;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;
};

constexpr const char* kLlama3Regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2Regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
constexpr const char* kO200kRegex =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'"
    "ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'"
    "ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kTekkenRegex =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

PreType pre_type(const std::string& name) {
  if (name == "default" || name == "gpt-2") return {};
  if (name == "smollm" || name == "starcoder" || name == "refact") return {.single_digits = true};
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3")
    return {.regex = kLlama3Regex, .ignore_merges = true, .add_bos = true};
  if (name == "qwen2" || name == "deepseek-r1-qwen") return {.regex = kQwen2Regex, .nfc = true};
  if (name == "gpt-4o" || name == "llama4") return {.regex = kO200kRegex};
  if (name == "tekken") return {.regex = kTekkenRegex, .ignore_merges = true, .add_bos = true};
  fail(ErrorCode::kUnsupported,
       "byte-level pre-tokenizer \"" + name +
           "\" (tokenizer.ggml.pre) is not supported; convert from the model's tokenizer.json instead");
}

void append_merge_lines(std::string& out, const Json& metadata) {
  const Json& merges = get_array(metadata, "merges");
  out += "\"merges\":[";
  bool first = true;
  for (const Json& m : merges) {
    if (!m.is_string())
      fail(ErrorCode::kInvalidFile, "tokenizer.ggml.merges has an entry that is not a string");
    if (!std::exchange(first, false)) out += ',';
    const std::string& line = m.get_ref<const std::string&>();
    append_quoted(out, unicode::is_valid(line) ? line : unicode::lossy(line));
  }
  out += "]";
}

std::string byte_level_json(const Json& metadata, const Source& s) {
  const PreType pre = pre_type(get_string(metadata, "pre", "default"));
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", get_bool(metadata, "add_space_prefix", false)},
                           {"trim_offsets", true},
                           {"use_regex", pre.regex == nullptr}};
  Json steps = Json::array();
  if (pre.regex)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pre.regex}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  if (pre.single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  steps.push_back(byte_level);
  std::string out =
      "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":" + added_tokens(s);
  out += ",\"normalizer\":" + std::string(pre.nfc ? "{\"type\":\"NFC\"}" : "null");
  out += ",\"pre_tokenizer\":" + Json{{"type", "Sequence"}, {"pretokenizers", steps}}.dump();
  out += ",\"post_processor\":" + post_processor(metadata, s, pre.add_bos);
  out += ",\"decoder\":" + byte_level.dump();
  out +=
      ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
      "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":";
  out += pre.ignore_merges ? "true," : "false,";
  append_vocab(out, s);
  out += ',';
  append_merge_lines(out, metadata);
  return out + "}}";
}

struct SpmMerge {
  int32_t token;       // the result
  uint32_t cut;        // bytes of the left part
  uint32_t left_size;  // in characters
  uint32_t right_size;
  int32_t left, right;
  double score;
};

// Every way to cut a token into two tokens is a merge; better scores first, then longer left parts. The order
// of equal ones (by the result's id, then the parts' ids) is part of the format: it decides ranks.
std::vector<SpmMerge> spm_merges(const Source& s, const std::vector<double>& scores) {
  tok::Vocab vocab;
  for (size_t i = 0; i < s.tokens.size(); ++i) vocab.add(s.tokens[i], static_cast<int32_t>(i), kWhat);
  std::vector<SpmMerge> merges;
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    const std::string_view t = s.tokens[i];
    if (s.types[i] == kControl || s.types[i] == kByte || s.types[i] == kUnknown || s.types[i] == kUnused)
      continue;
    if (t.size() > kMaxSpmToken)
      fail(ErrorCode::kUnsupported,
           "token " + std::to_string(i) + " is " + std::to_string(t.size()) + " bytes long");
    const size_t first = merges.size();
    const auto characters =
        static_cast<uint32_t>(std::count_if(t.begin(), t.end(), [](char c) { return (c & 0xC0) != 0x80; }));
    uint32_t n = 0;
    for (size_t at = 0; at < t.size(); ++at) {
      if ((t[at] & 0xC0) == 0x80) continue;
      if (const uint32_t left_size = n++; left_size > 0) {
        const int32_t l = vocab.find(t.substr(0, at)), r = l < 0 ? -1 : vocab.find(t.substr(at));
        if (r >= 0)
          merges.push_back({static_cast<int32_t>(i), static_cast<uint32_t>(at), left_size,
                            characters - left_size, l, r, scores[i]});
      }
    }
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(),
              [](const SpmMerge& a, const SpmMerge& b) {
                return a.left != b.left ? a.left < b.left : a.right < b.right;
              });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const SpmMerge& a, const SpmMerge& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.left_size != b.left_size ? a.left_size > b.left_size : a.right_size > b.right_size;
  });
  return merges;
}

std::vector<double> read_scores(const Json& metadata, size_t n) {
  const Json& list = get_array(metadata, "scores");
  if (list.size() != n)
    fail(ErrorCode::kInvalidFile, "tokenizer.ggml.scores has " + std::to_string(list.size()) +
                                      " entries for " + std::to_string(n) + " tokens");
  std::vector<double> scores;
  for (const Json& v : list) {
    if (!v.is_number() || std::isnan(v.get<double>()))
      fail(ErrorCode::kInvalidFile, "tokenizer.ggml.scores has an entry that is not a number");
    scores.push_back(v.get<double>());
  }
  return scores;
}

// GGUF writers spell user-defined runs of spaces with spaces, where the vocabulary and the merges have
// U+2581; and they lose such tokens' score, which is 0, the best there is.
void restore_user_defined(Source& s, std::vector<double>* scores) {
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    if (s.types[i] != kUserDefined) continue;
    if (scores) (*scores)[i] = 0;
    std::string& t = s.tokens[i];
    if (t.empty() || t.find_first_not_of(' ') != t.npos) continue;
    std::string spelled;
    for (size_t n = 0; n < t.size(); ++n) spelled += "\xE2\x96\x81";
    t = std::move(spelled);
  }
}

// has_scores: merges follow from scores ("llama"); otherwise they are listed ("gemma4").
std::string sentencepiece_json(const Json& metadata, Source s, bool has_scores) {
  std::vector<double> scores;
  if (has_scores) scores = read_scores(metadata, s.tokens.size());
  restore_user_defined(s, has_scores ? &scores : nullptr);
  const bool prefix = get_bool(metadata, "add_space_prefix", has_scores);
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}};
  const Json normalizer =
      prefix ? Json{{"type", "Sequence"},
                    {"normalizers", {{{"type", "Prepend"}, {"prepend", "\xE2\x96\x81"}}, replace}}}
             : replace;
  Json decoders = {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  const int64_t unk = get_id(metadata, "unknown_token_id", s.tokens.size());

  std::string out =
      "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":" + added_tokens(s);
  out += ",\"normalizer\":" + normalizer.dump() + ",\"pre_tokenizer\":null";
  out += ",\"post_processor\":" + post_processor(metadata, s, true);
  out += ",\"decoder\":" + Json{{"type", "Sequence"}, {"decoders", decoders}}.dump();
  out += ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":";
  if (unk >= 0)
    append_quoted(out, s.tokens[static_cast<size_t>(unk)]);
  else
    out += "null";
  out +=
      ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":true,\"byte_fallback\":"
      "true,"
      "\"ignore_merges\":false,";
  append_vocab(out, s);
  out += ',';
  if (!has_scores) {
    append_merge_lines(out, metadata);
    return out + "}}";
  }
  out += "\"merges\":[";
  bool first = true;
  for (const SpmMerge& m : spm_merges(s, scores)) {
    const std::string_view t = s.tokens[static_cast<size_t>(m.token)];
    if (!std::exchange(first, false)) out += ',';
    out += '[';
    append_quoted(out, t.substr(0, m.cut));
    out += ',';
    append_quoted(out, t.substr(m.cut));
    out += ']';
  }
  return out + "]}}";
}

}  // namespace

std::string tokenizer_json_from_gguf(const Json& metadata) {
  if (!metadata.is_object()) fail(ErrorCode::kInvalidFile, "the metadata is not an object");
  const std::string model = get_string(metadata, "model", "");
  if (model.empty())
    fail(ErrorCode::kNotFound, "the file holds no tokenizer (tokenizer.ggml.model is missing)");
  if (model != "gpt2" && model != "llama" && model != "gemma4")
    fail(ErrorCode::kUnsupported,
         "tokenizer.ggml.model \"" + model + "\" is not supported; \"gpt2\", \"llama\" and \"gemma4\" are");
  const Source s = read_tokens(metadata);
  if (model == "gpt2") return byte_level_json(metadata, s);
  return sentencepiece_json(metadata, s, model == "llama");
}

}  // namespace hlwq
