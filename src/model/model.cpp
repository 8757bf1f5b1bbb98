#include "model/model.h"

#include "model/config_reader.h"

namespace hlwq {

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
  model->weights_ = std::make_unique<WeightStore>(model->source_);
  model->transformer_ = std::make_unique<Transformer>(std::move(spec), *model->weights_);
  model->tokenizer_ = load_tokenizer(model->source_);
  if (!model->source_.chat_template.empty()) model->template_.emplace(model->source_.chat_template);
  return model;
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

}  // namespace hlwq
