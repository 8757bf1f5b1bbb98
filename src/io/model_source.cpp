#include "io/model_source.h"

#include <algorithm>
#include <array>

#include "base/file.h"
#include "io/compressed_tensors.h"
#include "io/gguf_model.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfig = 16u << 20;
constexpr uint64_t kMaxSideFile = 256u << 20;

// Files that complete a model without being its weights or its config, as Hugging Face names them.
constexpr std::array<std::string_view, 18> kSideFiles = {"tokenizer.json",
                                                         "tokenizer_config.json",
                                                         "special_tokens_map.json",
                                                         "added_tokens.json",
                                                         "vocab.json",
                                                         "vocab.txt",
                                                         "merges.txt",
                                                         "tokenizer.model",
                                                         "chat_template.jinja",
                                                         "chat_template.json",
                                                         "generation_config.json",
                                                         "processor_config.json",
                                                         "preprocessor_config.json",
                                                         "video_preprocessor_config.json",
                                                         "LICENSE",
                                                         "LICENSE.txt",
                                                         "LICENSE.md",
                                                         "NOTICE"};

bool is_pickle(const fs::path& path) {
  const auto extension = path.extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt";
}

OrderedJson read_object(const fs::path& path);

/// What the published tools say of where their files come from: hlwq_config.json or polar_config.json.
std::string published_base(const fs::path& directory) {
  for (const char* file : {"hlwq_config.json", "polar_config.json"})
    if (std::error_code ec; fs::exists(directory / file, ec)) {
      const OrderedJson config = read_object(directory / file);
      const auto base = config.find("base_model");
      return base != config.end() && base->is_string() ? base->get<std::string>()
                                                       : "the model that it was made from";
    }
  return "";
}

[[noreturn]] void refuse_pickle(const fs::path& path) {
  const std::string base = published_base(path.parent_path());
  throw Error(
      ErrorCode::kUnsupported,
      path.string() + " is a pickle, which can run code when it is opened" +
          (base.empty() ? std::string("; convert the model to safetensors (save_pretrained of transformers "
                                      "does) and open that")
                        : " (INT4 of torchao, no codes); quantize what it was made from: hlwq quantize " +
                              base + " -o DIR"));
}

OrderedJson read_object(const fs::path& path) {
  JsonLimits limits;
  limits.max_bytes = kMaxConfig;
  OrderedJson json = read_ordered_json(path, limits);
  if (!json.is_object()) throw Error(ErrorCode::kInvalidFile, path.string() + ": not a JSON object");
  return json;
}

OrderedJson read_object_if_there(const fs::path& path) {
  return fs::exists(path) ? read_object(path) : OrderedJson::object();
}

// A template is a string, or (old multi-template form) a list of {name, template} of which "default" counts.
std::string template_of(const OrderedJson& config, const fs::path& path) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array())
    for (const OrderedJson& e : *it)
      if (e.is_object() && e.value("name", OrderedJson()) == "default" && e.contains("template") &&
          e["template"].is_string())
        return e["template"].get<std::string>();
  throw Error(ErrorCode::kInvalidFile,
              path.string() + ": chat_template is neither a string nor a list with a 'default'");
}

std::string read_chat_template(const fs::path& directory, const OrderedJson& tokenizer_config) {
  if (const fs::path own = directory / "chat_template.jinja"; fs::exists(own))
    return read_file(own, kMaxConfig);
  if (std::string text = template_of(tokenizer_config, directory / "tokenizer_config.json"); !text.empty())
    return text;
  const fs::path old = directory / "chat_template.json";
  return fs::exists(old) ? template_of(read_object(old), old) : "";
}

class RenamedSource : public TensorSource {
 public:
  RenamedSource(std::unique_ptr<TensorSource> source, std::vector<Tensor> tensors, const fs::path& path)
      : source_(std::move(source)), tensors_(std::move(tensors)) {
    try {
      build_index();
    } catch (const Error& e) {
      throw Error(e.code(), path.string() + ": " + e.what());
    }
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor& tensor) const override { source_->drop(tensor); }

 private:
  std::unique_ptr<TensorSource> source_;
  std::vector<Tensor> tensors_;
};

ModelSource open_gguf_model(const fs::path& path) {
  GgufFile file = open_gguf(path);
  GgufModel model = translate_gguf(file.tensors->tensors(), file.metadata, path.string());
  ModelSource source;
  source.kind = ModelSource::Kind::kGguf;
  source.path = path;
  source.tensors = std::make_unique<RenamedSource>(std::move(file.tensors), std::move(model.tensors), path);
  source.config = std::move(model.config);
  source.generation_config = std::move(model.generation_config);
  source.tokenizer_config = std::move(model.tokenizer_config);
  source.gguf_metadata = std::move(file.metadata);
  source.chat_template = std::move(model.chat_template);
  return source;
}

std::vector<fs::path> files_of(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code ec;
  for (fs::directory_iterator it(directory, ec), end; !ec && it != end; it.increment(ec))
    if (std::error_code ignored; it->is_regular_file(ignored)) files.push_back(it->path());
  if (ec) throw Error(ErrorCode::kIo, "cannot list " + directory.string() + ": " + ec.message());
  std::sort(files.begin(), files.end());
  return files;
}

/// Several files as one. Names of the published kind without dots get them back ("model__norm__weight"), but
/// for the parts of codes, which their reader knows.
class MergedSource : public TensorSource {
 public:
  explicit MergedSource(const std::vector<fs::path>& files) {
    for (const fs::path& file : files) {
      sources_.push_back(open_safetensors(file));
      for (Tensor t : sources_.back()->tensors()) {
        t.name = dotted(t.name);
        owner_.push_back(sources_.back().get());
        tensors_.push_back(std::move(t));
      }
    }
    build_index();
  }
  const std::vector<Tensor>& tensors() const override { return tensors_; }
  void drop(const Tensor& tensor) const override {
    const auto i = static_cast<size_t>(&tensor - tensors_.data());
    if (i < tensors_.size()) owner_[i]->drop(tensor);
  }

 private:
  static std::string dotted(const std::string& name) {
    for (const char* end : {"__packed", "__norms", "__meta", "__codes"})
      if (name.ends_with(end)) return name;
    if (name.find('.') != name.npos) return name;
    std::string with_dots = name;
    for (size_t i = 0; (i = with_dots.find("__", i)) != with_dots.npos; ++i) with_dots.replace(i, 2, ".");
    return with_dots;
  }

  std::vector<std::unique_ptr<TensorSource>> sources_;
  std::vector<const TensorSource*> owner_;
  std::vector<Tensor> tensors_;
};

/// Published codes beside what stayed BF16: codes.safetensors in the directory or in one folder of it (PQ5/),
/// and bf16.safetensors. Null when the directory is none of these.
std::unique_ptr<TensorSource> open_split_codes(const fs::path& directory, const std::string& folder) {
  constexpr const char* kCodes = "codes.safetensors";
  const fs::path rest = directory / "bf16.safetensors";
  std::error_code ec;
  if (!fs::exists(rest, ec)) return nullptr;
  std::vector<fs::path> codes;
  if (!folder.empty()) {
    codes.push_back(directory / folder / kCodes);
  } else if (fs::exists(directory / kCodes, ec)) {
    codes.push_back(directory / kCodes);
  } else {
    for (fs::directory_iterator it(directory, ec), end; !ec && it != end; it.increment(ec))
      if (std::error_code ignored; fs::exists(it->path() / kCodes, ignored))
        codes.push_back(it->path() / kCodes);
    std::sort(codes.begin(), codes.end());
  }
  if (codes.empty()) return nullptr;
  if (codes.size() > 1)
    throw Error(ErrorCode::kInvalidArgument, directory.string() +
                                                 " holds codes of several widths; name a folder, e.g. " +
                                                 codes[0].parent_path().string());
  return std::make_unique<MergedSource>(std::vector<fs::path>{codes[0], rest});
}

// Null when the directory holds no weights at all: its config alone still answers `hlwq info`.
std::unique_ptr<TensorSource> open_weights(const fs::path& directory, const std::vector<fs::path>& files,
                                           const std::string& folder) {
  if (auto split = open_split_codes(directory, folder)) return split;
  if (fs::exists(directory / "model.safetensors") || fs::exists(directory / "model.safetensors.index.json"))
    return open_safetensors(directory);
  std::vector<fs::path> loose;
  for (const fs::path& f : files)
    if (f.extension() == ".safetensors") loose.push_back(f);
  if (loose.size() == 1) return open_safetensors(loose.front());
  if (loose.size() > 1)
    throw Error(ErrorCode::kNotFound,
                directory.string() + ": " + std::to_string(loose.size()) +
                    " safetensors files but no model.safetensors.index.json; fetch the index too");
  const auto pickle = std::find_if(files.begin(), files.end(), is_pickle);
  if (pickle != files.end()) refuse_pickle(*pickle);
  for (const fs::path& f : files)
    if (f.extension() == ".eoq" || f.filename() == "eoq_metadata.json")
      throw Error(
          ErrorCode::kUnsupported,
          f.string() +
              ": EOQ checkpoints are not read; quantize the model that it was made from: hlwq quantize "
              "BASE -o DIR");
  return nullptr;
}

/// `folder`: where in the directory its codes are, when they are not beside its config.
ModelSource open_directory(const fs::path& directory, const std::string& folder = "") {
  const std::vector<fs::path> files = files_of(directory);
  if (!fs::exists(directory / "config.json")) {
    const fs::path whole = fs::absolute(directory).lexically_normal();
    const fs::path own = whole.filename().empty() ? whole.parent_path() : whole;
    if (folder.empty() && fs::exists(own / "codes.safetensors") &&
        fs::exists(own.parent_path() / "config.json"))
      return open_directory(own.parent_path(), own.filename().string());
    std::vector<fs::path> ggufs;
    for (const fs::path& f : files)
      if (f.extension() == ".gguf") ggufs.push_back(f);
    if (ggufs.size() == 1) return open_gguf_model(ggufs.front());
    if (ggufs.size() > 1)
      throw Error(ErrorCode::kInvalidArgument, directory.string() +
                                                   " holds several .gguf files; name the one to open, e.g. " +
                                                   ggufs.front().string());
    const auto pickle = std::find_if(files.begin(), files.end(), is_pickle);
    if (pickle != files.end()) refuse_pickle(*pickle);
    throw Error(ErrorCode::kNotFound,
                directory.string() + " has no config.json; it is not a model directory");
  }
  ModelSource source;
  source.path = directory;
  source.config = read_object(directory / "config.json");
  source.tensors = open_weights(directory, files, folder);
  if (source.tensors && is_compressed_tensors(source.config))
    source.tensors = open_compressed_tensors(std::move(source.tensors), source.config, directory.string());
  source.generation_config = read_object_if_there(directory / "generation_config.json");
  source.tokenizer_config = read_object_if_there(directory / "tokenizer_config.json");
  if (const fs::path tokenizer = directory / "tokenizer.json"; fs::exists(tokenizer))
    source.tokenizer_json = read_file(tokenizer, kMaxSideFile);
  source.chat_template = read_chat_template(directory, source.tokenizer_config);
  for (const fs::path& f : files) {
    std::error_code ec;
    const std::string name = f.filename().string();
    if (std::find(kSideFiles.begin(), kSideFiles.end(), name) != kSideFiles.end() &&
        fs::file_size(f, ec) <= kMaxSideFile && !ec)
      source.side_files.push_back(f);
  }
  return source;
}

}  // namespace

ModelSource open_model(const fs::path& path) {
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (!fs::exists(status))
    throw Error(ErrorCode::kNotFound, path.string() + ": no such model directory or file");
  if (fs::is_directory(status)) return open_directory(path);
  if (path.extension() == ".gguf") return open_gguf_model(path);
  if (is_pickle(path)) refuse_pickle(path);
  if (path.extension() == ".safetensors")
    throw Error(
        ErrorCode::kUnsupported,
        path.string() + ": weights alone are not a model; give the directory that also has config.json");
  throw Error(ErrorCode::kUnsupported, path.string() + " is neither a model directory nor a .gguf file");
}

}  // namespace hlwq
