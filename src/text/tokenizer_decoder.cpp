#include "text/tokenizer_decoder.h"

#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "text/pre_tokenizer.h"
#include "text/tokenizer_normalizer.h"
#include "text/tokenizer_pattern.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

using Strings = std::vector<std::string>;

// A decoder that works token by token; parts of a token are gathered until the end.
class TokenStage : public DecodeStage {
 public:
  explicit TokenStage(bool in_parts) : in_parts_(in_parts) {}
  void push(std::string_view token, Strings& out) final {
    if (in_parts_)
      gathered_ += token;
    else
      out.push_back(decode(token));
  }
  void finish(Strings& out) final {
    if (in_parts_) out.push_back(decode(gathered_));
  }

 protected:
  virtual std::string decode(std::string_view token) = 0;

 private:
  bool in_parts_;
  std::string gathered_;
};

template <class Stage, class Spec>
class TokenDecoder final : public Decoder {
 public:
  explicit TokenDecoder(Spec spec) : spec_(std::move(spec)) {}
  std::unique_ptr<DecodeStage> start(bool in_parts) const override {
    return std::make_unique<Stage>(spec_, in_parts);
  }
  bool fuses(bool in_parts) const override { return in_parts; }

 private:
  Spec spec_;
};

struct ReplaceSpec {
  Pattern pattern;
  std::string content;
};

class ReplaceStage final : public TokenStage {
 public:
  ReplaceStage(const ReplaceSpec& spec, bool in_parts) : TokenStage(in_parts), spec_(spec) {}

 private:
  std::string decode(std::string_view token) override {
    std::string out;
    for (const Span& s : spec_.pattern.find_all(token)) {
      if (s.match)
        out += spec_.content;
      else
        out += token.substr(s.begin, s.end - s.begin);
    }
    return out;
  }
  const ReplaceSpec& spec_;
};

struct StripSpec {
  std::string content;
  size_t start, stop;
};

class StripStage final : public DecodeStage {
 public:
  StripStage(const StripSpec& spec, bool in_parts) : spec_(spec), in_parts_(in_parts) {}
  void push(std::string_view token, Strings& out) override {
    if (!in_parts_) {
      stripped_ = 0;
      at_start_ = true;
      held_ = 0;
    }
    std::string text = release(std::string(held_ * spec_.content.size(), '\0'), token);
    if (!in_parts_) held_ = 0;
    out.push_back(std::move(text));
  }
  void finish(Strings&) override {}  // what is still held back is what gets stripped

 private:
  // Strips at the front while nothing else has been seen, and holds back up to `stop` trailing characters.
  std::string release(std::string held, std::string_view part) {
    const size_t n = spec_.content.size();
    for (size_t i = 0; i < held_; ++i) held.replace(i * n, n, spec_.content);
    std::string text = std::move(held);
    while (at_start_ && stripped_ < spec_.start && part.starts_with(spec_.content)) {
      part.remove_prefix(n);
      ++stripped_;
    }
    if (!part.empty()) at_start_ = false;
    text += part;
    for (held_ = 0; held_ < spec_.stop && text.ends_with(spec_.content); ++held_)
      text.resize(text.size() - n);
    return text;
  }
  const StripSpec& spec_;
  bool in_parts_, at_start_ = true;
  size_t stripped_ = 0, held_ = 0;
};

struct MetaspaceSpec {
  std::string replacement;
  bool prepends;
};

class MetaspaceStage final : public DecodeStage {
 public:
  MetaspaceStage(const MetaspaceSpec& spec, bool in_parts) : spec_(spec), in_parts_(in_parts) {}
  void push(std::string_view token, Strings& out) override {
    std::string text;
    for (const Span& s : find_literal(token, spec_.replacement)) {
      if (!s.match)
        text += token.substr(s.begin, s.end - s.begin);
      else if (!(first_ && spec_.prepends))
        text += ' ';
    }
    if (!in_parts_) first_ = false;
    out.push_back(std::move(text));
  }
  void finish(Strings&) override {}

 private:
  const MetaspaceSpec& spec_;
  bool in_parts_, first_ = true;
};

struct Nothing {};

// <0xHH> tokens: a whole run of them is one piece of text if it is valid UTF-8, or one U+FFFD a byte.
class ByteFallbackStage final : public DecodeStage {
 public:
  ByteFallbackStage(const Nothing&, bool in_parts) : in_parts_(in_parts) {}
  void push(std::string_view token, Strings& out) override {
    if (in_parts_) {
      gathered_ += token;
      return;
    }
    take(token, out);
  }
  void finish(Strings& out) override {
    if (in_parts_) take(gathered_, out);
    flush(out);
  }

 private:
  void take(std::string_view token, Strings& out) {
    if (const std::optional<char> b = byte_of(token)) {
      run_ += *b;
      return;
    }
    flush(out);
    out.emplace_back(token);
  }
  static std::optional<char> byte_of(std::string_view t) {
    if (t.size() != 6 || !t.starts_with("<0x") || t[5] != '>') return std::nullopt;
    const char* from = t.data() + (t[3] == '+' ? 4 : 3);  // the reference's parser takes a plus sign
    unsigned value = 0;
    const auto r = std::from_chars(from, t.data() + 5, value, 16);
    if (r.ec != std::errc{} || r.ptr != t.data() + 5) return std::nullopt;
    return static_cast<char>(value);
  }
  void flush(Strings& out) {
    if (run_.empty()) return;
    if (unicode::is_valid(run_))
      out.push_back(std::move(run_));
    else
      out.insert(out.end(), run_.size(), "\xEF\xBF\xBD");
    run_.clear();
  }
  bool in_parts_;
  std::string run_, gathered_;
};

// Characters back to bytes; the bytes of all tokens together are the text, which may cut characters anywhere.
class ByteLevelStage final : public DecodeStage {
 public:
  ByteLevelStage(const std::array<int16_t, 512>& bytes, bool in_parts) : bytes_(bytes), in_parts_(in_parts) {}
  void push(std::string_view token, Strings& out) override {
    if (in_parts_) {  // whether all characters stand for bytes is known at the end only
      gathered_ += token;
      return;
    }
    take(token);
    const size_t whole = unicode::incomplete_tail(pending_);
    if (whole == 0) return;
    out.push_back(unicode::lossy(std::string_view(pending_).substr(0, whole)));
    pending_.erase(0, whole);
  }
  void finish(Strings& out) override {
    if (in_parts_) take(gathered_);
    if (!pending_.empty()) out.push_back(unicode::lossy(pending_));
    pending_.clear();
  }

 private:
  void take(std::string_view token) {
    const size_t before = pending_.size();
    size_t length;
    for (size_t i = 0; i < token.size(); i += length) {
      const uint32_t c = unicode::decode_at(token, i, length);
      if (c >= bytes_.size() || bytes_[c] < 0) {
        pending_.resize(before);
        pending_ += token;  // not byte-level: an added token, taken as it is
        return;
      }
      pending_ += static_cast<char>(bytes_[c]);
    }
  }
  const std::array<int16_t, 512>& bytes_;
  bool in_parts_;
  std::string pending_, gathered_;
};

class ByteLevelDecoder final : public Decoder {
 public:
  ByteLevelDecoder() {
    bytes_.fill(-1);
    for (unsigned b = 0; b < 256; ++b)
      bytes_[byte_level_char(static_cast<unsigned char>(b))] = static_cast<int16_t>(b);
  }
  std::unique_ptr<DecodeStage> start(bool in_parts) const override {
    return std::make_unique<ByteLevelStage>(bytes_, in_parts);
  }
  bool fuses(bool) const override { return true; }

 private:
  std::array<int16_t, 512> bytes_;
};

class FuseStage final : public DecodeStage {
 public:
  void push(std::string_view token, Strings& out) override { out.emplace_back(token); }
  void finish(Strings&) override {}
};

class FuseDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool) const override { return std::make_unique<FuseStage>(); }
  bool fuses(bool) const override { return true; }
};

// No decoder at all: spellings with spaces between.
class SpacedStage final : public DecodeStage {
 public:
  void push(std::string_view token, Strings& out) override {
    out.push_back(std::exchange(first_, false) ? std::string(token) : " " + std::string(token));
  }
  void finish(Strings&) override {}

 private:
  bool first_ = true;
};

class SpacedDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool) const override { return std::make_unique<SpacedStage>(); }
  bool fuses(bool in_parts) const override { return in_parts; }
};

class SequenceStage final : public DecodeStage {
 public:
  explicit SequenceStage(std::vector<std::unique_ptr<DecodeStage>> stages) : stages_(std::move(stages)) {}
  void push(std::string_view token, Strings& out) override { feed(0, Strings{std::string(token)}, out); }
  void finish(Strings& out) override {
    for (size_t i = 0; i < stages_.size(); ++i) {
      Strings rest;
      stages_[i]->finish(rest);
      feed(i + 1, std::move(rest), out);
    }
  }

 private:
  void feed(size_t stage, Strings tokens, Strings& out) {
    for (; stage < stages_.size() && !tokens.empty(); ++stage) {
      Strings next;
      for (const std::string& t : tokens) stages_[stage]->push(t, next);
      tokens = std::move(next);
    }
    for (std::string& t : tokens) out.push_back(std::move(t));
  }
  std::vector<std::unique_ptr<DecodeStage>> stages_;
};

class SequenceDecoder final : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<Decoder>> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<DecodeStage> start(bool in_parts) const override {
    std::vector<std::unique_ptr<DecodeStage>> stages;
    for (const auto& p : parts_) {
      stages.push_back(p->start(in_parts));
      in_parts = p->fuses(in_parts);
    }
    return std::make_unique<SequenceStage>(std::move(stages));
  }
  bool fuses(bool in_parts) const override {
    for (const auto& p : parts_) in_parts = p->fuses(in_parts);
    return in_parts;
  }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

std::string one_character(const Json& spec, const char* name, const std::string& what) {
  std::string c = component_string(spec, name, what);
  if (c.empty() || unicode::char_length(static_cast<unsigned char>(c[0])) != c.size())
    throw Error(ErrorCode::kInvalidFile, what + "." + name + " is not one character");
  return c;
}

size_t count_field(const Json& spec, const char* name, const std::string& what) {
  const Json& v = component_field(spec, name, what);
  if (!v.is_number_unsigned() || v.get<uint64_t>() > 1024)
    throw Error(ErrorCode::kInvalidFile, what + "." + name + " is not a number from 0 to 1024");
  return v.get<size_t>();
}

}  // namespace

std::unique_ptr<Decoder> make_decoder(const Json& spec, const std::string& what) {
  if (spec.is_null()) return std::make_unique<SpacedDecoder>();
  const std::string type = component_type(spec, what);
  const std::string here = what + " (" + type + ")";
  if (type == "Sequence") {
    const Json& list = component_field(spec, "decoders", here);
    if (!list.is_array()) throw Error(ErrorCode::kInvalidFile, here + ".decoders is not an array");
    std::vector<std::unique_ptr<Decoder>> parts;
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i].is_null()) throw Error(ErrorCode::kInvalidFile, here + ".decoders has a null entry");
      parts.push_back(make_decoder(list[i], what + ".decoders[" + std::to_string(i) + "]"));
    }
    return std::make_unique<SequenceDecoder>(std::move(parts));
  }
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "ByteFallback") return std::make_unique<TokenDecoder<ByteFallbackStage, Nothing>>(Nothing{});
  if (type == "Replace")
    return std::make_unique<TokenDecoder<ReplaceStage, ReplaceSpec>>(
        ReplaceSpec{Pattern(component_field(spec, "pattern", here), here + ".pattern"),
                    component_string(spec, "content", here)});
  if (type == "Strip")
    return std::make_unique<TokenDecoder<StripStage, StripSpec>>(
        StripSpec{one_character(spec, "content", here), count_field(spec, "start", here),
                  count_field(spec, "stop", here)});
  if (type == "Metaspace") {
    bool prepends = component_bool(spec, "add_prefix_space", true, here);
    if (spec.contains("prepend_scheme")) prepends = component_string(spec, "prepend_scheme", here) != "never";
    return std::make_unique<TokenDecoder<MetaspaceStage, MetaspaceSpec>>(
        MetaspaceSpec{one_character(spec, "replacement", here), prepends});
  }
  throw Error(ErrorCode::kUnsupported, what + ": decoder \"" + type + "\" is not supported");
}

}  // namespace hlwq::tok
