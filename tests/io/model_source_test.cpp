// Whole models: translated GGUF files against the weights that they were made of, and directories of every
// kind.
#include "io/model_source.h"

#include <set>

#include "io/gguf_model.h"
#include "io/test_files.h"

namespace hlwq {
namespace {

std::vector<float> decode_all(const Tensor& t) {
  std::vector<float> out(t.elements());
  decode_rows(t, 0, t.rows(), out.data());
  return out;
}

void expect_same_weights(const ModelSource& model, const std::string& reference, float tolerance) {
  const auto expected = open_safetensors(golden(reference));
  std::set<std::string> names, wanted;
  for (const Tensor& t : model.tensors->tensors()) names.insert(t.name);
  for (const Tensor& t : expected->tensors()) wanted.insert(t.name);
  ASSERT_EQ(names, wanted);
  for (const Tensor& t : model.tensors->tensors()) {
    const Tensor& e = expected->at(t.name);
    ASSERT_EQ(t.shape, e.shape) << t.name;
    const auto a = decode_all(t), b = decode_all(e);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], t.add != 0 ? tolerance : 0) << t.name << " " << i;
  }
}

TEST(OpenModel, LlamaGgufEqualsItsHuggingFaceWeights) {
  const ModelSource m = open_model(golden("llama.gguf"));
  EXPECT_EQ(m.kind, ModelSource::Kind::kGguf);
  expect_same_weights(m, "llama.safetensors", 0);
  const OrderedJson expected = OrderedJson::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": true, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8,
    "hidden_act": "silu", "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 256, "mlp_bias": false,
    "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 12})");
  EXPECT_EQ(m.config, expected);
  EXPECT_EQ(m.generation_config,
            OrderedJson::parse(R"({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0,
    "temperature": 0.6, "top_k": 20, "do_sample": true})"));
  EXPECT_EQ(m.tokenizer_config["bos_token"], "<s>");
  EXPECT_EQ(m.tokenizer_config["eos_token"], "</s>");
  EXPECT_EQ(m.chat_template, "{{ messages[0]['content'] }}");
  EXPECT_EQ(m.gguf_metadata["tokenizer.ggml.tokens"].size(), 12u);
  m.tensors->drop(m.tensors->tensors().front());
}

TEST(OpenModel, Gemma3GgufEqualsItsHuggingFaceWeights) {
  const ModelSource m = open_model(golden("gemma3.gguf"));
  // The converter rounded 1 + w to float32, |w| < 1: half a unit in the last place of 2 is 2^-24 * 2.
  expect_same_weights(m, "gemma3.safetensors", 0x1p-23f);
  EXPECT_EQ(m.config, OrderedJson::parse(R"({
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": null, "bos_token_id": 1,
    "eos_token_id": 2, "final_logit_softcapping": null, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 16, "intermediate_size": 24,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                    "sliding_attention", "full_attention"],
    "max_position_embeddings": 256, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 6,
    "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 8, "rms_norm_eps": 1e-5,
    "rope_local_base_freq": 10000.0, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000.0,
    "sliding_window": 16, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 12})"));
  EXPECT_EQ(m.generation_config,
            OrderedJson::parse(R"({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})"));
}

// A llama of one layer as metadata; `change` spoils it. Tensors: an embedding, and what the change adds.
struct Spoiled {
  Json metadata = {{"general.architecture", "llama"},
                   {"llama.block_count", 1},
                   {"llama.embedding_length", 16},
                   {"llama.context_length", 64},
                   {"llama.feed_forward_length", 32},
                   {"llama.attention.head_count", 2},
                   {"llama.attention.layer_norm_rms_epsilon", 1e-5}};
  std::vector<Tensor> tensors;
  std::vector<float> storage = std::vector<float>(4096, 1.0f);

  Spoiled() { add("token_embd.weight", {10, 16}); }
  void add(const std::string& name, std::vector<uint64_t> shape) {
    Tensor t;
    t.name = name;
    t.shape = std::move(shape);
    t.data = std::as_bytes(std::span(storage)).first(t.elements() * 4);
    tensors.push_back(t);
  }
  GgufModel translate() const { return translate_gguf(tensors, metadata, "f"); }
};

void refuses(ErrorCode code, const std::string& part, const std::function<void(Spoiled&)>& change) {
  Spoiled s;
  change(s);
  expect_error(
      code, part, [&] { s.translate(); }, part);
}

void refuses_value(ErrorCode code, const std::string& key, const Json& value, const std::string& part) {
  refuses(code, part, [&](Spoiled& s) { s.metadata[key] = value; });
}

TEST(TranslateGguf, DefaultsFollowTheFormat) {
  const GgufModel m = Spoiled().translate();
  EXPECT_EQ(m.config["num_key_value_heads"], 2);
  EXPECT_EQ(m.config["head_dim"], 8);
  EXPECT_EQ(m.config["rope_theta"], 10000.0);
  EXPECT_TRUE(m.config["rope_scaling"].is_null());
  EXPECT_TRUE(m.config["bos_token_id"].is_null());
  EXPECT_EQ(m.config["tie_word_embeddings"], true);
  EXPECT_TRUE(m.generation_config.empty());
}

TEST(TranslateGguf, RefusesBadMetadata) {
  const auto invalid = ErrorCode::kInvalidFile, unsupported = ErrorCode::kUnsupported;
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.embedding_length", "llama.context_length",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"})
    refuses(invalid, "missing", [&](Spoiled& s) { s.metadata.erase(key); });
  refuses_value(unsupported, "general.architecture", "mamba", "mamba");
  refuses_value(invalid, "general.architecture", 5, "not a string");
  refuses_value(invalid, "llama.block_count", 4000000000u, "integer");
  refuses_value(invalid, "llama.block_count", 1000000, "layers in a file");
  refuses_value(invalid, "llama.block_count", -1, "integer");
  refuses_value(invalid, "llama.block_count", "1", "integer");
  refuses_value(invalid, "llama.block_count", 1.5, "integer");
  refuses_value(invalid, "llama.attention.head_count", 0, "zero");
  refuses_value(invalid, "llama.attention.head_count", Json::array(), "empty");
  refuses_value(unsupported, "llama.attention.head_count", {2, 4}, "differs");
  refuses_value(invalid, "llama.attention.head_count_kv", 0, "divide");
  refuses_value(invalid, "llama.attention.head_count_kv", 3, "divide");
  refuses_value(invalid, "llama.attention.key_length", 7, "rotate");
  refuses_value(unsupported, "llama.attention.value_length", 16, "different");
  refuses_value(unsupported, "llama.rope.dimension_count", 4, "partial");
  refuses_value(unsupported, "llama.expert_count", 8, "mixture");
  refuses_value(invalid, "llama.attention.layer_norm_rms_epsilon", std::numeric_limits<double>::infinity(),
                "finite");
  refuses_value(invalid, "llama.rope.freq_base", "x", "number");
  refuses_value(unsupported, "llama.rope.scaling.type", "longrope", "longrope");
  refuses_value(invalid, "llama.rope.scaling.type", "linear", "factor");
  refuses_value(invalid, "tokenizer.chat_template", "\xff", "UTF-8");
  refuses_value(invalid, "tokenizer.ggml.bos_token_id", "1", "integer");
  refuses_value(invalid, "llama.rope.scaling.type", "yarn", "factor");
}

TEST(TranslateGguf, KeepsKnownRopeScalings) {
  Spoiled s;
  s.metadata["llama.rope.scaling.type"] = "yarn";
  s.metadata["llama.rope.scaling.factor"] = 4.0f;
  s.metadata["llama.rope.scaling.original_context_length"] = 32;
  EXPECT_EQ(
      s.translate().config["rope_scaling"],
      OrderedJson::parse(R"({"factor": 4.0, "rope_type": "yarn", "original_max_position_embeddings": 32})"));
  s.metadata["llama.rope.scaling.type"] = "none";
  EXPECT_TRUE(s.translate().config["rope_scaling"].is_null());
  s.metadata.erase("llama.rope.scaling.type");
  s.metadata.erase("llama.rope.scaling.factor");
  s.metadata["llama.rope.scale_linear"] = 2.0f;
  EXPECT_EQ(s.translate().config["rope_scaling"],
            OrderedJson::parse(R"({"factor": 2.0, "rope_type": "linear"})"));
}

TEST(TranslateGguf, RefusesBadTensors) {
  const auto invalid = ErrorCode::kInvalidFile, unsupported = ErrorCode::kUnsupported;
  const auto adding = [](const std::string& name, std::vector<uint64_t> shape) {
    return [=](Spoiled& s) { s.add(name, shape); };
  };
  refuses(invalid, "token_embd", [](Spoiled& s) { s.tensors[0].name = "output.weight"; });
  refuses(invalid, "token_embd", [](Spoiled& s) { s.tensors[0].shape = {16, 10}; });
  refuses(invalid, "no layer", adding("blk.1.attn_q.weight", {16, 16}));
  refuses(unsupported, "not known", adding("blk.0.ffn_gate_exps.weight", {16, 16}));
  refuses(unsupported, "not known", adding("blk.99999999999999999999.attn_q.weight", {16, 16}));
  refuses(unsupported, "not known", adding("blk.0", {16}));
  refuses(unsupported, "not known", adding("blk.0.attn_q.scale", {16}));
  refuses(unsupported, "not known", adding("", {16}));
  refuses(invalid, "heads", adding("blk.0.attn_q.weight", {12, 16}));
  refuses(invalid, "heads", adding("blk.0.attn_q.weight", {16, 16, 1}));
  refuses(invalid, "head_dim / 2", adding("rope_freqs.weight", {64}));
  refuses(unsupported, "Llama 3", [](Spoiled& s) {
    s.storage[1] = 3.0f;
    s.add("rope_freqs.weight", {4});
  });
}

TEST(OpenModel, ReadsADirectory) {
  TempDir dir;
  dir.write("config.json", R"({"model_type": "x", "a": 1})");
  const ModelSource bare = open_model(dir.path());
  EXPECT_EQ(bare.tensors, nullptr);
  EXPECT_EQ(bare.config["a"], 1);
  EXPECT_TRUE(bare.generation_config.empty());
  EXPECT_TRUE(bare.side_files.empty());

  dir.write("model.safetensors", slurp(golden("llama.safetensors")));
  dir.write("generation_config.json", R"({"top_k": 3})");
  dir.write("tokenizer_config.json",
            R"({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]})");
  dir.write("tokenizer.json", "{}");
  dir.write("processor_config.json", "{}");
  dir.write("pytorch_model.bin", "a pickle beside safetensors is ignored");
  ModelSource m = open_model(dir.path());
  EXPECT_EQ(m.kind, ModelSource::Kind::kHuggingFace);
  EXPECT_EQ(m.tensors->tensors().size(), open_safetensors(golden("llama.safetensors"))->tensors().size());
  EXPECT_EQ(m.generation_config["top_k"], 3);
  EXPECT_EQ(m.tokenizer_json, "{}");
  EXPECT_EQ(m.chat_template, "D");
  std::vector<std::string> names;
  for (const auto& f : m.side_files) names.push_back(f.filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"generation_config.json", "processor_config.json",
                                             "tokenizer.json", "tokenizer_config.json"}));
  dir.write("chat_template.jinja", "J");
  EXPECT_EQ(open_model(dir.path()).chat_template, "J");
}

TEST(OpenModel, OpensTheOnlyGgufOfADirectory) {
  TempDir dir;
  dir.write("a.gguf", slurp(golden("llama.gguf")));
  EXPECT_EQ(open_model(dir.path()).config["model_type"], "llama");
  dir.write("b.gguf", "");
  expect_error(ErrorCode::kInvalidArgument, "several", [&] { open_model(dir.path()); });
}

TEST(OpenModel, SaysWhatIsMissingOrRefused) {
  TempDir dir;
  expect_error(ErrorCode::kNotFound, "no such", [&] { open_model(dir.path() / "x"); });
  expect_error(ErrorCode::kNotFound, "config.json", [&] { open_model(dir.path()); });
  const auto pickle = dir.write("pytorch_model.bin", "x");
  expect_error(ErrorCode::kUnsupported, "convert", [&] { open_model(dir.path()); });
  expect_error(ErrorCode::kUnsupported, "convert", [&] { open_model(pickle); });
  dir.write("config.json", "{}");
  expect_error(ErrorCode::kUnsupported, "convert", [&] { open_model(dir.path()); });
  expect_error(ErrorCode::kUnsupported, "directory", [&] { open_model(dir.write("x.safetensors", "")); });
  dir.write("y.safetensors", "");
  expect_error(ErrorCode::kNotFound, "index", [&] { open_model(dir.path()); });
  expect_error(ErrorCode::kUnsupported, "neither", [&] { open_model(dir.write("notes.txt", "")); });
  dir.write("config.json", "[]");
  expect_error(ErrorCode::kInvalidFile, "object", [&] { open_model(dir.path()); });
  dir.write("config.json", "{");
  expect_error(ErrorCode::kInvalidFile, "config.json", [&] { open_model(dir.path()); });
}

}  // namespace
}  // namespace hlwq
