#include "text/tokenizer_file.h"

#include <utility>

namespace hlwq::tok {
namespace {

constexpr size_t kMaxBytes = 256u << 20;
constexpr size_t kMaxDepth = 64;

class Reader final : public nlohmann::json_sax<Json> {
 public:
  Reader(TokenizerFile& file, const std::string& what) : file_(file), what_(what) {}

  bool null() override { return value(Json(nullptr)); }
  bool boolean(bool v) override { return value(Json(v)); }
  bool number_integer(number_integer_t v) override {
    if (mode_ == Mode::kVocab) fail("id " + std::to_string(v) + " of token \"" + key_ + "\" is negative");
    return value(Json(v));
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (mode_ != Mode::kVocab) return value(Json(v));
    if (v > static_cast<uint64_t>(file_.max_id))
      fail("id " + std::to_string(v) + " of token \"" + key_ + "\" is far beyond the size of the file");
    file_.vocab.add(key_, static_cast<int32_t>(v), what_);
    return true;
  }
  bool number_float(number_float_t v, const string_t&) override { return value(Json(v)); }
  bool binary(binary_t&) override { return true; }  // not in JSON text
  bool string(string_t& v) override {
    switch (mode_) {
      case Mode::kMerges:
        merge_line(v);
        return true;
      case Mode::kMergePair:
        if (pair_parts_ == 2) fail(merge_name() + " has more than two parts");
        (pair_parts_++ == 0 ? pair_left_ : pair_right_) = v;
        return true;
      default:
        return value(Json(std::move(v)));
    }
  }
  bool start_object(size_t) override {
    if (mode_ == Mode::kRest && in_model() && key_ == "vocab") {
      if (file_.has_vocab) fail("model.vocab appears twice");
      file_.has_vocab = true;
      mode_ = Mode::kVocab;
      return true;
    }
    return open(Json::object());
  }
  bool key(string_t& v) override {
    key_ = std::move(v);
    return true;
  }
  bool end_object() override {
    if (mode_ == Mode::kVocab)
      mode_ = Mode::kRest;
    else
      stack_.pop_back();
    return true;
  }
  bool start_array(size_t) override {
    if (mode_ == Mode::kRest && in_model() && key_ == "merges") {
      if (!file_.merges.empty()) fail("model.merges appears twice");
      mode_ = Mode::kMerges;
      return true;
    }
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kMergePair;
      pair_parts_ = 0;
      return true;
    }
    return open(Json::array());
  }
  bool end_array() override {
    if (mode_ == Mode::kMergePair) {
      if (pair_parts_ != 2) fail(merge_name() + " has fewer than two parts");
      add_merge(pair_left_, pair_right_);
      mode_ = Mode::kMerges;
    } else if (mode_ == Mode::kMerges) {
      mode_ = Mode::kRest;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    fail(std::string("not valid JSON: ") + e.what());
  }

 private:
  enum class Mode { kRest, kVocab, kMerges, kMergePair };

  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kInvalidFile, what_ + ": " + message);
  }
  bool in_model() const { return stack_.size() == 2 && model_ == stack_.back(); }
  std::string merge_name() const { return "model.merges[" + std::to_string(file_.merges.size()) + "]"; }

  Json* place(Json&& v) {
    if (stack_.empty()) return &(file_.rest = std::move(v));
    Json& top = *stack_.back();
    if (top.is_object()) return &(top[key_] = std::move(v));
    top.push_back(std::move(v));
    return &top.back();
  }
  bool value(Json&& v) {
    if (mode_ == Mode::kVocab) fail("model.vocab: the id of token \"" + key_ + "\" is not a number");
    if (mode_ != Mode::kRest) fail(merge_name() + " is not a string or a pair of strings");
    place(std::move(v));
    return true;
  }
  // Pointers on the stack stay valid: only the innermost container grows.
  bool open(Json&& v) {
    if (mode_ == Mode::kVocab) fail("model.vocab: the id of token \"" + key_ + "\" is not a number");
    if (mode_ != Mode::kRest) fail(merge_name() + " is not a string or a pair of strings");
    if (stack_.size() >= kMaxDepth) fail("JSON nested deeper than " + std::to_string(kMaxDepth));
    const bool is_model = stack_.size() == 1 && key_ == "model";
    stack_.push_back(place(std::move(v)));
    if (is_model) model_ = stack_.back();
    return true;
  }
  void merge_line(const std::string& line) {
    const size_t space = line.find(' ');
    if (space == line.npos || line.find(' ', space + 1) != line.npos)
      fail(merge_name() + " \"" + line + "\" is not two tokens with one space between");
    add_merge(std::string_view(line).substr(0, space), std::string_view(line).substr(space + 1));
  }
  void add_merge(std::string_view left, std::string_view right) {
    file_.merges.push_back(
        {file_.merge_arena.size(), static_cast<uint32_t>(left.size()), static_cast<uint32_t>(right.size())});
    file_.merge_arena += left;
    file_.merge_arena += right;
  }

  TokenizerFile& file_;
  const std::string& what_;
  Mode mode_ = Mode::kRest;
  std::vector<Json*> stack_;
  Json* model_ = nullptr;
  std::string key_, pair_left_, pair_right_;
  int pair_parts_ = 0;
};

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view text, const std::string& what) {
  if (text.size() > kMaxBytes)
    throw Error(ErrorCode::kInvalidFile, what + ": " + std::to_string(text.size()) +
                                             " bytes is over the limit of " + std::to_string(kMaxBytes));
  TokenizerFile file;
  // A vocabulary entry takes at least six bytes; four times as many ids leave room for gaps and padding.
  file.max_id = static_cast<int64_t>(text.size() / 6 * 4 + (1 << 16));
  Reader reader(file, what);
  Json::sax_parse(text.begin(), text.end(), &reader);
  if (!file.rest.is_object()) throw Error(ErrorCode::kInvalidFile, what + ": not a JSON object");
  return file;
}

}  // namespace hlwq::tok
