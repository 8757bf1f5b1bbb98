#include "text/tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_added.h"
#include "text/tokenizer_decoder.h"
#include "text/tokenizer_file.h"
#include "text/tokenizer_normalizer.h"
#include "text/unicode.h"

namespace hlwq {
namespace {

using tok::AddedToken;
using tok::Trust;

// What the post-processor puts around a text.
struct Template {
  std::vector<int32_t> before, after;
};

class BpeTokenizer final : public Tokenizer, public std::enable_shared_from_this<BpeTokenizer> {
 public:
  BpeTokenizer(std::string_view text, const std::string& what);

  std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const override {
    std::vector<int32_t> ids;
    if (add_special) ids = around_.before;
    if (unicode::is_valid(text))
      encode_valid(text, Trust{parse_special, nullptr}, ids);
    else
      encode_valid(unicode::lossy(text), Trust{parse_special, nullptr}, ids);
    if (add_special) ids.insert(ids.end(), around_.after.begin(), around_.after.end());
    return ids;
  }
  std::vector<int32_t> encode_pieces(std::span<const Piece> pieces) const override;

  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    const auto s = stream(skip_special);
    std::string text;
    for (const int32_t id : ids) text += s->push(id);
    text += s->finish();
    return text;
  }
  int32_t vocab_size() const override { return vocab_size_; }
  std::string id_to_token(int32_t id) const override { return std::string(spelling(id)); }
  int32_t token_to_id(std::string_view token) const override {
    const auto it = added_ids_.find(std::string(token));
    return it != added_ids_.end() ? it->second : bpe_.vocab.find(token);
  }
  bool is_special(int32_t id) const override {
    return std::binary_search(special_ids_.begin(), special_ids_.end(), id);
  }
  std::unique_ptr<Stream> stream(bool skip_special) const override;

 private:
  void read_added_tokens(const Json& doc, const tok::TokenizerFile& file, const std::string& what);
  void read_model(tok::TokenizerFile& file, const std::string& what);
  void read_post_processor(const Json& spec, const std::string& what);
  void encode_valid(std::string_view text, const Trust& trust, std::vector<int32_t>& ids) const;
  // What one encode call carries along; the words that `bpe` remembers live in the arena.
  struct Job {
    tok::TextArena arena;
    tok::Bpe::Call bpe;
    std::vector<int32_t>& ids;
  };
  void encode_segment(std::string_view segment, bool at_start, const Trust& trust, Job& job) const;
  void encode_words(std::string_view text, bool at_start, bool allow_special, Job& job) const;
  std::string_view spelling(int32_t id) const {
    const auto it = added_spellings_.find(id);
    return it != added_spellings_.end() ? std::string_view(it->second) : bpe_.vocab.spelling(id);
  }

  tok::Bpe bpe_;
  std::unique_ptr<tok::Normalizer> normalizer_;
  std::unique_ptr<tok::PreTokenizer> pre_tokenizer_;
  std::unique_ptr<tok::Decoder> decoder_;
  tok::AddedTokens raw_tokens_, normalized_tokens_;
  std::unordered_map<std::string, int32_t> added_ids_;
  std::unordered_map<int32_t, std::string> added_spellings_;
  std::vector<int32_t> special_ids_;  // sorted
  Template around_;
  int32_t vocab_size_ = 0;
};

class TokenStream final : public Tokenizer::Stream {
 public:
  TokenStream(std::shared_ptr<const Tokenizer> tokenizer, std::unique_ptr<tok::DecodeStage> stage,
              bool skip_special)
      : tokenizer_(std::move(tokenizer)), stage_(std::move(stage)), skip_special_(skip_special) {}
  std::string push(int32_t id) override {
    const std::string token = tokenizer_->id_to_token(id);
    if (token.empty() || (skip_special_ && tokenizer_->is_special(id))) return {};
    stage_->push(token, parts_);
    return take();
  }
  std::string finish() override {
    stage_->finish(parts_);
    return take();
  }

 private:
  std::string take() {
    std::string text;
    for (const std::string& p : parts_) text += p;
    parts_.clear();
    return text;
  }
  const std::shared_ptr<const Tokenizer> tokenizer_;  // owns what the stage refers to
  std::unique_ptr<tok::DecodeStage> stage_;
  bool skip_special_;
  std::vector<std::string> parts_;
};

const Json& field_or_null(const Json& doc, const char* name) {
  static const Json null;
  const auto it = doc.find(name);
  return it != doc.end() ? *it : null;
}

std::string optional_string(const Json& spec, const char* name, const std::string& what) {
  const Json& v = field_or_null(spec, name);
  if (v.is_null()) return {};
  return tok::component_string(spec, name, what);
}

BpeTokenizer::BpeTokenizer(std::string_view text, const std::string& what) {
  tok::TokenizerFile file = tok::read_tokenizer_file(text, what);
  const Json& doc = file.rest;
  normalizer_ = tok::make_normalizer(field_or_null(doc, "normalizer"), what + ": normalizer");
  pre_tokenizer_ = tok::make_pre_tokenizer(field_or_null(doc, "pre_tokenizer"), what + ": pre_tokenizer");
  decoder_ = tok::make_decoder(field_or_null(doc, "decoder"), what + ": decoder");
  read_added_tokens(doc, file, what);
  read_model(file, what);
  vocab_size_ = bpe_.vocab.end_id();
  for (const auto& [id, spelled] : added_spellings_) vocab_size_ = std::max(vocab_size_, id + 1);
  read_post_processor(field_or_null(doc, "post_processor"), what + ": post_processor");
}

void BpeTokenizer::read_added_tokens(const Json& doc, const tok::TokenizerFile& file,
                                     const std::string& what) {
  const Json& list = field_or_null(doc, "added_tokens");
  if (list.is_null()) return;
  if (!list.is_array()) throw Error(ErrorCode::kInvalidFile, what + ": added_tokens is not an array");
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_spellings, normalized_spellings;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string here = what + ": added_tokens[" + std::to_string(i) + "]";
    const Json& id = tok::component_field(list[i], "id", here);
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(file.max_id))
      throw Error(ErrorCode::kInvalidFile, here + ".id is not an id in the range of this file");
    AddedToken t;
    t.content = tok::component_string(list[i], "content", here);
    t.single_word = tok::component_bool(list[i], "single_word", false, here);
    t.lstrip = tok::component_bool(list[i], "lstrip", false, here);
    t.rstrip = tok::component_bool(list[i], "rstrip", false, here);
    t.special = tok::component_bool(list[i], "special", false, here);
    t.normalized = tok::component_bool(list[i], "normalized", !t.special, here);
    if (t.content.empty()) continue;
    t.id = file.vocab.find(t.content);  // the model's own id comes first
    if (t.id < 0) t.id = id.get<int32_t>();
    added_ids_[t.content] = t.id;
    added_spellings_[t.id] = t.content;
    if (t.special) special_ids_.push_back(t.id);
    std::string spelled = t.content;
    if (t.normalized && normalizer_) normalizer_->apply(spelled, nullptr);
    (t.normalized ? normalized_spellings : raw_spellings).push_back(std::move(spelled));
    (t.normalized ? normalized : raw).push_back(std::move(t));
  }
  std::sort(special_ids_.begin(), special_ids_.end());
  raw_tokens_.build(raw, raw_spellings, what);
  normalized_tokens_.build(normalized, normalized_spellings, what);
}

void BpeTokenizer::read_model(tok::TokenizerFile& file, const std::string& what) {
  const Json& model = field_or_null(file.rest, "model");
  if (!model.is_object()) throw Error(ErrorCode::kInvalidFile, what + ": model is missing or not an object");
  // Files older than the "type" field hold BPE models when they have merges.
  const std::string type =
      model.contains("type") ? tok::component_string(model, "type", what + ": model") : "BPE";
  if (type != "BPE")
    throw Error(ErrorCode::kUnsupported,
                what + ": model type \"" + type + "\" is not supported; only BPE is");
  if (!file.has_vocab)
    throw Error(ErrorCode::kInvalidFile, what + ": model.vocab is missing or not an object");
  if (const Json& dropout = field_or_null(model, "dropout"); !dropout.is_null() && dropout != 0.0)
    throw Error(ErrorCode::kUnsupported, what + ": model.dropout is not supported");
  const std::string here = what + ": model";
  bpe_.options.unk_token = optional_string(model, "unk_token", here);
  bpe_.options.fuse_unk = tok::component_bool(model, "fuse_unk", false, here);
  bpe_.options.byte_fallback = tok::component_bool(model, "byte_fallback", false, here);
  bpe_.options.ignore_merges = tok::component_bool(model, "ignore_merges", false, here);
  bpe_.options.continuing_subword_prefix = optional_string(model, "continuing_subword_prefix", here);
  bpe_.options.end_of_word_suffix = optional_string(model, "end_of_word_suffix", here);

  bpe_.vocab = std::move(file.vocab);
  bpe_.merges.reserve(file.merges.size());
  std::vector<int32_t> results;
  results.reserve(file.merges.size());
  std::string joined;
  const size_t prefix = bpe_.options.continuing_subword_prefix.size();
  for (size_t i = 0; i < file.merges.size(); ++i) {
    const auto& m = file.merges[i];
    const std::string_view left(file.merge_arena.data() + m.begin, m.left);
    const std::string_view right(left.data() + m.left, m.right);
    std::string_view whole(left.data(), m.left + m.right);
    if (prefix) {
      if (right.size() < prefix)
        throw Error(ErrorCode::kInvalidFile,
                    here + ".merges[" + std::to_string(i) + "]: the right part lacks the subword prefix");
      joined = std::string(left) + std::string(right.substr(prefix));
      whole = joined;
    }
    const int32_t ids[] = {bpe_.vocab.find(left), bpe_.vocab.find(right), bpe_.vocab.find(whole)};
    for (size_t k = 0; k < 3; ++k)
      if (ids[k] < 0)
        throw Error(ErrorCode::kInvalidFile, here + ".merges[" + std::to_string(i) + "]: token \"" +
                                                 std::string(k == 0   ? left
                                                             : k == 1 ? right
                                                                      : whole) +
                                                 "\" is not in the vocabulary");
    bpe_.merges.add(ids[0], ids[1], {static_cast<uint32_t>(i), ids[2]}, here);
    results.push_back(ids[2]);
  }
  bpe_.finish(results, special_ids_, here);
}

void BpeTokenizer::read_post_processor(const Json& spec, const std::string& what) {
  if (spec.is_null()) return;
  const std::string type = tok::component_type(spec, what);
  const std::string here = what + " (" + type + ")";
  if (type == "ByteLevel") return;  // concerns offsets only
  if (type == "Sequence") {
    const Json& list = tok::component_field(spec, "processors", here);
    if (!list.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".processors is not an array");
    for (size_t i = 0; i < list.size(); ++i)
      read_post_processor(list[i], what + ".processors[" + std::to_string(i) + "]");
    return;
  }
  if (type != "TemplateProcessing")
    throw Error(ErrorCode::kUnsupported, what + ": post-processor \"" + type + "\" is not supported");
  const Json& single = tok::component_field(spec, "single", here);
  const Json& special = tok::component_field(spec, "special_tokens", here);
  if (!single.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".single is not an array");
  std::vector<int32_t> before, after;
  bool seen = false;
  for (const Json& item : single) {
    if (item.is_object() && item.contains("Sequence")) {
      if (std::exchange(seen, true)) throw Error(ErrorCode::kUnsupported, here + ".single repeats the text");
      continue;
    }
    const std::string name = tok::component_string(
        tok::component_field(item, "SpecialToken", here + ".single"), "id", here + ".single");
    const Json& ids =
        tok::component_field(tok::component_field(special, name.c_str(), here + ".special_tokens"), "ids",
                             here + ".special_tokens");
    if (!ids.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".special_tokens: ids is not an array");
    for (const Json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab_size_))
        throw Error(ErrorCode::kInvalidFile,
                    here + ".special_tokens: an id of \"" + name + "\" is not in the vocabulary");
      (seen ? after : before).push_back(id.get<int32_t>());
    }
  }
  if (!seen) throw Error(ErrorCode::kUnsupported, here + ".single leaves the text out");
  around_.before.insert(around_.before.begin(), before.begin(), before.end());
  around_.after.insert(around_.after.end(), after.begin(), after.end());
}

std::vector<int32_t> BpeTokenizer::encode_pieces(std::span<const Piece> pieces) const {
  std::string text;
  std::vector<uint8_t> untrusted;
  // Pieces join before repair: bytes of one character may come in two pieces, but not with different trust.
  for (size_t i = 0; i < pieces.size();) {
    std::string run;
    const bool trusted = pieces[i].trusted;
    for (; i < pieces.size() && pieces[i].trusted == trusted; ++i) run += pieces[i].text;
    if (!unicode::is_valid(run)) run = unicode::lossy(run);
    text += run;
    untrusted.resize(text.size(), trusted ? 0 : 1);
  }
  std::vector<int32_t> ids;
  encode_valid(text, Trust{true, &untrusted}, ids);
  return ids;
}

void BpeTokenizer::encode_valid(std::string_view text, const Trust& trust, std::vector<int32_t>& ids) const {
  Job job{{}, tok::Bpe::Call(bpe_, text.size()), ids};
  for (const auto& part : raw_tokens_.split(text, trust)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const std::string_view segment = text.substr(part.begin, part.end - part.begin);
    if (!trust.untrusted) {
      encode_segment(segment, part.begin == 0, trust, job);
      continue;
    }
    const auto marks = trust.untrusted->begin() + static_cast<std::ptrdiff_t>(part.begin);
    const std::vector<uint8_t> untrusted(marks, marks + static_cast<std::ptrdiff_t>(segment.size()));
    encode_segment(segment, part.begin == 0, Trust{trust.special, &untrusted}, job);
  }
}

void BpeTokenizer::encode_segment(std::string_view segment, bool at_start, const Trust& trust,
                                  Job& job) const {
  // In wholly trusted text a special token's spelling was found before: what merges then build from the rest
  // is as the reference has it. Anywhere else merges must not build one.
  const auto none_marked = [](const std::vector<uint8_t>& m) {
    return std::find(m.begin(), m.end(), 1) == m.end();
  };
  const bool allow_special = trust.special && (!trust.untrusted || none_marked(*trust.untrusted));
  if (!normalizer_ && normalized_tokens_.empty()) {
    encode_words(segment, at_start, allow_special, job);
    return;
  }
  std::string text(segment);
  std::vector<uint8_t> marks;
  Trust normalized_trust{trust.special, nullptr};
  if (trust.untrusted && !normalized_tokens_.empty()) {
    marks = *trust.untrusted;
    normalized_trust.untrusted = &marks;
  }
  if (normalizer_) normalizer_->apply(text, normalized_trust.untrusted ? &marks : nullptr);
  const std::string_view kept = job.arena.keep(text);
  for (const auto& part : normalized_tokens_.split(kept, normalized_trust)) {
    if (part.id >= 0)
      job.ids.push_back(part.id);
    else
      encode_words(kept.substr(part.begin, part.end - part.begin), at_start && part.begin == 0, allow_special,
                   job);
  }
}

void BpeTokenizer::encode_words(std::string_view text, bool at_start, bool allow_special, Job& job) const {
  if (text.empty()) return;
  if (!pre_tokenizer_) {
    job.bpe.encode(text, allow_special, job.ids);
    return;
  }
  std::vector<tok::Word> words;
  pre_tokenizer_->split({text, at_start}, job.arena, words);
  for (const tok::Word& w : words) job.bpe.encode(w.text, allow_special, job.ids);
}

std::unique_ptr<Tokenizer::Stream> BpeTokenizer::stream(bool skip_special) const {
  return std::make_unique<TokenStream>(shared_from_this(), decoder_->start(false), skip_special);
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view text, const std::string& what) {
  return std::make_shared<BpeTokenizer>(text, what);
}

}  // namespace hlwq
