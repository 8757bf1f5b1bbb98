#include "model/model.h"

#include "model/config_reader.h"

namespace hlwq {
namespace {

// The processor's word on tokens per image, where there is one; it stands beside the weights.
void read_processor_files(const ModelSource& source, VisionSpec& vision) {
  for (const char* name : {"processor_config.json", "preprocessor_config.json"}) {
    const auto path = source.path / name;
    if (source.kind == ModelSource::Kind::kHuggingFace && std::filesystem::exists(path))
      return read_image_processor(read_ordered_json(path), vision);
  }
}

}  // namespace

std::shared_ptr<const Tokenizer> load_tokenizer(const ModelSource& source) {
  if (!source.tokenizer_json.empty())
    return Tokenizer::from_json(source.tokenizer_json, (source.path / "tokenizer.json").string());
  if (source.gguf_metadata.contains("tokenizer.ggml.model"))
    return Tokenizer::from_json(tokenizer_json_from_gguf(source.gguf_metadata), source.path.string());
  return nullptr;
}

std::shared_ptr<const Model> Model::load(const std::filesystem::path& path) {
  std::shared_ptr<Model> model(new Model);
  model->source_ = open_model(path);
  ModelSpec spec = model_spec(model->source_.config);
  if (spec.vision) read_processor_files(model->source_, *spec.vision);
  model->weights_ = std::make_unique<WeightStore>(model->source_);
  model->transformer_ = std::make_unique<Transformer>(std::move(spec), *model->weights_);
  if (model->spec().vision && VisionTower::present(*model->weights_))
    model->vision_ =
        std::make_unique<VisionTower>(*model->spec().vision, model->spec().hidden, *model->weights_);
  model->tokenizer_ = load_tokenizer(model->source_);
  if (!model->source_.chat_template.empty()) model->template_.emplace(model->source_.chat_template);
  return model;
}

const VisionTower& Model::require_vision() const {
  if (vision_ && spec().image_token >= 0) return *vision_;
  throw Error(ErrorCode::kUnsupported, source_.path.string() + " takes no images: " +
                                           (!spec().vision ? "it is a text model"
                                            : !vision_     ? "its vision weights (vision_tower.*) are missing"
                                                           : "its config.json names no image_token_id"));
}

const Tokenizer& Model::tokenizer() const {
  if (!tokenizer_)
    throw Error(ErrorCode::kNotFound,
                source_.path.string() + " has no tokenizer (tokenizer.json); only token ids work (--ids)");
  return *tokenizer_;
}

std::string special_token(const OrderedJson& tokenizer_config, const char* key) {
  if (!tokenizer_config.is_object() || !tokenizer_config.contains(key)) return {};
  const OrderedJson& token = tokenizer_config[key];
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string())
    return token["content"].get<std::string>();
  return {};
}

int32_t bos_token(const Model& model) {
  const std::string bos = special_token(model.source().tokenizer_config, "bos_token");
  if (!bos.empty() && model.has_tokenizer()) return model.tokenizer().token_to_id(bos);
  const OrderedJson& config = model.source().config;
  for (const OrderedJson* c : {&config, config.contains("text_config") ? &config["text_config"] : nullptr})
    if (c && c->contains("bos_token_id") && (*c)["bos_token_id"].is_number_integer())
      return (*c)["bos_token_id"].get<int32_t>();
  return -1;
}

}  // namespace hlwq
