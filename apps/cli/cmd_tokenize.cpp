// hlwq tokenize: text to token ids and back.
#include <sstream>

#include "base/file.h"
#include "common.h"
#include "hub_args.h"
#include "model/model.h"
#include "terminal.h"

namespace hlwq::cli {
namespace {

/// Of a tokenizer.json, a directory that has one, or any model.
std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& path) {
  const std::filesystem::path file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  if (file.extension() == ".json" && std::filesystem::exists(file))
    return Tokenizer::from_json(read_file(file), file.string());
  auto tokenizer = load_tokenizer(open_model(path));
  if (!tokenizer) throw Error(ErrorCode::kNotFound, path.string() + " has no tokenizer");
  return tokenizer;
}

std::string joined(const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

class Tokenize : public Command {
 public:
  std::string name() const override { return "tokenize"; }
  std::string summary() const override { return "Show the tokens of a text, or the text of tokens"; }
  std::string examples() const override {
    return "  hlwq tokenize SmolLM2-Q5 -p 'Hello, world'\n"
           "  hlwq tokenize tokenizer.json -f text.txt --json\n"
           "  hlwq tokenize SmolLM2-Q5 --decode 19556,28,905\n"
           "  printf '%s\\n' '\"one\"' '\"two\\nlines\"' | hlwq tokenize SmolLM2-Q5 --lines";
  }

  void declare(Args& args) override {
    args.positional("MODEL", model_, "Model directory, .gguf file, tokenizer.json or owner/name");
    args.option("-p,--prompt", prompt_, "TEXT", "The text (default: standard input)");
    args.option("-f,--file", file_, "FILE", "The text from a file");
    args.option("--decode", decode_, "IDS", "Show the text of these ids, 1,2,3");
    args.flag("--lines", lines_, "Each input line is a JSON string; a line of ids comes out for each");
    args.flag("--no-special-tokens", bare_,
              "Leave out the tokens that the tokenizer adds (BOS and the like)");
    args.flag("--special", special_, "Special tokens spelt out in the text count as such");
    args.flag("--json", json_, "Print {ids, pieces} as JSON");
  }

  int run() override {
    if (prompt_.has_value() + file_.has_value() + decode_.has_value() > 1)
      throw UsageError("tokenize takes one of -p, -f and --decode");
    if (lines_ && (decode_ || json_)) throw UsageError("--lines goes with neither --decode nor --json");
    const auto tokenizer = open_tokenizer(find_model(model_, FileSet::kNoWeights));
    if (decode_) return run_decode(*tokenizer);
    const std::string text = prompt_ && *prompt_ != "-" ? *prompt_ : read_text(file_ ? *file_ : "-");
    if (lines_) return run_lines(*tokenizer, text);
    return run_encode(*tokenizer, text);
  }

 private:
  int run_encode(const Tokenizer& tokenizer, const std::string& text) const {
    print(tokenizer, tokenizer.encode(text, !bare_, special_));
    return kDone;
  }

  int run_lines(const Tokenizer& tokenizer, const std::string& text) const {
    std::istringstream in(text);
    std::string line;
    for (uint64_t number = 1; std::getline(in, line); ++number) {
      const Json json = parse_json(line, "line " + std::to_string(number));
      if (!json.is_string())
        throw Error(ErrorCode::kInvalidFile, "line " + std::to_string(number) + " is not a JSON string");
      const std::string ids = joined(tokenizer.encode(json.get<std::string>(), !bare_, special_)) + "\n";
      std::fwrite(ids.data(), 1, ids.size(), stdout);
    }
    return kDone;
  }

  int run_decode(const Tokenizer& tokenizer) const {
    const std::vector<int32_t> ids = parse_ids(*decode_);
    for (int32_t id : ids)
      if (id >= tokenizer.vocab_size())
        throw UsageError("token id " + std::to_string(id) + " is not below " +
                         std::to_string(tokenizer.vocab_size()));
    const std::string text = tokenizer.decode(ids, !special_);
    if (json_)
      print_json({{"ids", ids}, {"pieces", pieces(tokenizer, ids)}, {"text", text}});
    else
      show(text + "\n");
    return kDone;
  }

  void print(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) const {
    if (json_) {
      print_json({{"ids", ids}, {"pieces", pieces(tokenizer, ids)}});
      return;
    }
    Table table({"token", "id"});
    for (int32_t id : ids) table.add({json_line(tokenizer.id_to_token(id)), std::to_string(id)});
    show(table.str() + format_count(ids.size()) + " tokens\n");
  }

  static OrderedJson pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
    OrderedJson list = OrderedJson::array();
    for (int32_t id : ids) list.push_back(tokenizer.id_to_token(id));
    return list;
  }

  std::string model_;
  std::optional<std::string> prompt_, file_, decode_;
  bool lines_ = false, bare_ = false, special_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_tokenize() { return std::make_unique<Tokenize>(); }

}  // namespace hlwq::cli
