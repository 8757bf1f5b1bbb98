#include "io/model_source.h"

#include <algorithm>
#include <array>

#include "base/file.h"
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

[[noreturn]] void refuse_pickle(const fs::path& path) {
  throw Error(ErrorCode::kUnsupported,
              path.string() +
                  " is a pickle, which can run code when it is opened; convert the model to "
                  "safetensors (save_pretrained of transformers does) and open that");
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

// Null when the directory holds no weights at all: its config alone still answers `hlwq info`.
std::unique_ptr<TensorSource> open_weights(const fs::path& directory, const std::vector<fs::path>& files) {
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
  return nullptr;
}

ModelSource open_directory(const fs::path& directory) {
  const std::vector<fs::path> files = files_of(directory);
  if (!fs::exists(directory / "config.json")) {
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
  source.tensors = open_weights(directory, files);
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
