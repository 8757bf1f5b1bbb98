// Chat templates: a sandboxed subset of Jinja2, as Hugging Face's apply_chat_template runs it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace hlwq {

struct TemplateLimits {
  uint64_t max_steps = 50'000'000;
  int max_depth = 100;
  size_t max_output_bytes = 64u << 20;
  size_t max_source_bytes = 4u << 20;
};

/// Compiled once, rendered often, from any thread. Behaves like jinja2's ImmutableSandboxedEnvironment with
/// trim_blocks, lstrip_blocks, the loopcontrols extension, `raise_exception`, `strftime_now` and a `tojson`
/// like transformers'.
class ChatTemplate {
 public:
  /// Throws Error(kInvalidFile) with the line of a syntax error.
  explicit ChatTemplate(std::string_view source, const TemplateLimits& limits = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  /// Variables: an object (messages, tools, add_generation_prompt, bos_token...). Throws
  /// Error(kInvalidArgument) with the template's own message for raise_exception, kInvalidFile for a runtime
  /// error (with its line), and for an exceeded limit.
  std::string render(const OrderedJson& variables) const;

  /// Like render, but the output remembers which characters came from `messages` (untrusted: they must never
  /// become special tokens) and which from the template's text and the other variables (trusted).
  std::vector<Tokenizer::Piece> render_pieces(const OrderedJson& variables) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hlwq
