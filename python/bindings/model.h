// A loaded model as the Python class sees it: every call is a job, run in order on the model's own thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/chat.h"
#include "engine/engine.h"
#include "engine/images.h"
#include "engine/session.h"
#include "job.h"
#include "model/model.h"

namespace hlwq::python {

/// Contents of image files, by the names that messages use for them.
using ImageFiles = std::map<std::string, std::string>;

class LoadedModel {
 public:
  /// options: object with kv_bits, ctx, threads, isa, device, gpu_layers, image_tokens, vision; null or
  /// absent means the default. The job loads; nothing else may be called before it has ended well.
  LoadedModel(const std::string& path, const OrderedJson& options);
  LoadedModel(const LoadedModel&) = delete;

  std::shared_ptr<Job> load();
  /// Generates from request's "messages", "text" or "ids"; events are "text", "thinking" and "tool_call", the
  /// result is JSON.
  std::shared_ptr<Job> generate(const OrderedJson& request, ImageFiles images);
  /// Logits [ids - first, vocab] after the tokens first .. of `ids`, into `out`.
  std::shared_ptr<Job> logits(std::vector<int32_t> ids, uint64_t first, float* out);
  /// Log-probabilities of the tokens first .. of `ids`, each after those before it, and whether it is the
  /// likeliest there.
  std::shared_ptr<Job> score(std::vector<int32_t> ids, uint64_t first, double* logprobs, bool* likeliest);
  std::shared_ptr<Job> info();
  /// Forgets the conversation that is kept for its prefix, and gives its memory back.
  std::shared_ptr<Job> reset();
  /// Stops everything and frees what it can; only the tokenizer and the template still work.
  void close();
  bool forked() const { return worker_->forked(); }
  /// What a context would take with a cache of so many bits; JSON.
  std::string plan(uint64_t context, int kv_bits) const;

  /// For what needs no machine (tokenizer, template); after the load.
  const Model& model() const { return *model_; }
  ChatOptions chat_options(const OrderedJson& request) const;
  /// What there is to tell since the last call.
  std::vector<std::string> take_notes();

 private:
  void open();
  Session& session();
  ImageEncoder& encoder();
  Prompt make_prompt(Job& job, const OrderedJson& request, bool templated);
  std::string run_generate(Job& job, const OrderedJson& request);
  std::string describe_model();
  uint64_t context();
  uint64_t chunk() const;
  uint64_t image_tokens() const { return encoder_ ? encoder_->max_tokens() : 0; }
  /// Runs `ids` and calls visit(position, logits) for positions first ..
  void read(Job& job, std::span<const int32_t> ids, uint64_t first,
            const std::function<void(uint64_t, std::span<const float>)>& visit);

  std::string path_;
  OrderedJson options_;
  KvSettings kv_;
  uint64_t asked_context_ = 0;
  bool vision_ = true;

  std::shared_ptr<const Model> model_;
  std::optional<Engine> engine_;
  std::optional<ImageEncoder> encoder_;
  std::string why_no_images_;
  const ImageFiles* images_ = nullptr;  // of the job that runs
  std::optional<Session> session_;
  std::unique_ptr<Sequence> scorer_;  // for logits and scores
  std::vector<int32_t> scored_;       // what it holds
  std::mutex notes_mutex_;
  std::vector<std::string> notes_;
  std::unique_ptr<Worker> worker_;  // last: ends first
};

}  // namespace hlwq::python
