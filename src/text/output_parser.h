// What a model generates, told apart while it streams: answer, thoughts, tool calls.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/output_format.h"
#include "text/tool_call.h"

namespace hlwq {

struct OutputEvent {
  enum class Kind { kText, kThinking, kToolCall };
  Kind kind = Kind::kText;
  std::string text;  ///< the next part of the answer or thought; a call's source, markers included
  std::string name;  ///< of the function called
  OrderedJson arguments = OrderedJson::object();
  /// Of a call: all its arguments have arrived. An incomplete one has its source, perhaps its name, and no
  /// arguments.
  bool complete = true;
  std::string note;  ///< of text that looked like a call: why it is none
};

/// One answer, in pieces. The joined texts and the calls are the same however the answer was cut, between
/// tokens and inside them. Outside "plain", newlines around thoughts and calls belong to the format: those
/// at a thought's ends, and those of the answer that touch a thought or call, are left out.
class OutputParser {
 public:
  /// expect_calls: tools were declared; only then does a bare JSON object (Llama 3) count as a call.
  explicit OutputParser(OutputFormat format, bool expect_calls = true);

  /// A piece of text; `marker`: it is one whole token that `format.marker(id)` knows.
  void push(std::string_view piece, bool marker, std::vector<OutputEvent>& out);
  /// The end of the answer.
  void finish(std::vector<OutputEvent>& out);

  /// The prompt has opened a thought already; `after` is what it wrote behind the marker.
  void start_thought(std::string_view after);
  /// Inside a thought, past its opening.
  bool thinking() const { return state_ == State::kThinking; }
  const OutputFormat& format() const { return format_; }

 private:
  enum class State { kText, kThoughtName, kThinking, kCall };
  using Events = std::vector<OutputEvent>;

  std::vector<const Marker*> wanted() const;
  void take_text(std::string_view text, Events& out);
  void take_marker(const Marker& marker, Events& out);
  void add_text(std::string_view text, Events& out);
  void add_without_edges(OutputEvent::Kind kind, std::string_view text, Events& out);
  void open_thought(Events& out);
  void close_thought(Events& out);
  void open_call(bool marked);
  void close_call(std::string_view closing, Events& out);
  void flush_spelt(Events& out);
  void emit(OutputEvent::Kind kind, std::string text, Events& out);

  OutputFormat format_;
  bool expect_calls_;
  State state_ = State::kText;
  std::string spelt_;           // the end of the text, which may begin a marker
  bool drop_newlines_ = false;  // what comes next stands at an edge
  std::string newlines_;        // held back: an edge may follow
  std::string name_;            // of a thought, as far as it is there
  bool probing_ = false;        // nothing but white space so far: the answer may be a bare call
  std::string space_;           // that white space
  CallBody call_;
  bool call_marked_ = false;  // it began with its marker
  bool at_end_ = false;
};

}  // namespace hlwq
