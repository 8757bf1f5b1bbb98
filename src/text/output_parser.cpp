#include "text/output_parser.h"

#include <algorithm>

namespace hlwq {
namespace {

using Kind = OutputEvent::Kind;

bool is(const Marker& a, const Marker& b) { return !b.text.empty() && a.text == b.text; }

}  // namespace

OutputParser::OutputParser(OutputFormat format, bool expect_calls)
    : format_(std::move(format)),
      expect_calls_(expect_calls),
      probing_(format_.calls == CallSyntax::kLlama3 && expect_calls) {}

void OutputParser::emit(Kind kind, std::string text, Events& out) {
  if (text.empty()) return;
  OutputEvent event;
  event.kind = kind;
  event.text = std::move(text);
  out.push_back(std::move(event));
}

/// The markers that mean something here and are spelt in ordinary text.
std::vector<const Marker*> OutputParser::wanted() const {
  std::vector<const Marker*> all;
  const auto want = [&](const Marker& m) {
    if (!m.text.empty() && m.id < 0) all.push_back(&m);
  };
  switch (state_) {
    case State::kText:
      want(format_.think_open);
      want(format_.call_open);
      break;
    case State::kThoughtName:
    case State::kThinking:
      want(format_.think_close);
      break;
    case State::kCall:
      want(format_.call_close);
      want(format_.quote);
      break;
  }
  return all;
}

void OutputParser::push(std::string_view piece, bool marker, Events& out) {
  if (marker) {
    flush_spelt(out);
    for (const Marker* m :
         {&format_.think_open, &format_.think_close, &format_.call_open, &format_.call_close, &format_.quote})
      if (!m->text.empty() && m->text == piece) return take_marker(*m, out);
    return take_text(piece, out);
  }
  spelt_ += piece;
  for (;;) {
    const auto markers = wanted();
    const Marker* first = nullptr;
    size_t at = std::string::npos, hold = 0;
    for (const Marker* m : markers) {
      if (const size_t found = spelt_.find(m->text); found < at) {
        at = found;
        first = m;
      }
      for (size_t n = std::min(m->text.size() - 1, spelt_.size()); n > hold; --n)
        if (spelt_.compare(spelt_.size() - n, n, m->text, 0, n) == 0) hold = n;
    }
    const State before = state_;
    std::string text = spelt_.substr(0, first ? at : spelt_.size() - hold);
    if (first) {
      spelt_.erase(0, at + first->text.size());
      take_text(text, out);
      // Text may itself have changed the state (a bare call): then the marker meant nothing.
      if (state_ == before || !is(*first, format_.call_open))
        take_marker(*first, out);
      else
        take_text(first->text, out);
      continue;
    }
    spelt_.erase(0, text.size());
    take_text(text, out);
    if (state_ == before || spelt_.empty()) return;
  }
}

void OutputParser::flush_spelt(Events& out) { take_text(std::exchange(spelt_, {}), out); }

void OutputParser::take_text(std::string_view text, Events& out) {
  if (text.empty()) return;
  switch (state_) {
    case State::kText:
      return add_text(text, out);
    case State::kThoughtName: {
      name_ += text;
      const size_t n = std::min(name_.size(), format_.think_name.size());
      if (name_.compare(0, n, format_.think_name, 0, n) == 0) {
        if (n < format_.think_name.size()) return;
        name_.erase(0, n);
      }
      state_ = State::kThinking;
      return add_without_edges(Kind::kThinking, std::exchange(name_, {}), out);
    }
    case State::kThinking:
      return add_without_edges(Kind::kThinking, text, out);
    case State::kCall:
      call_.text += text;
  }
}

void OutputParser::take_marker(const Marker& marker, Events& out) {
  const bool thought = state_ == State::kThinking || state_ == State::kThoughtName;
  if (state_ == State::kCall) {
    if (is(marker, format_.quote)) {
      call_.quotes.push_back(call_.text.size());
      call_.text += marker.text;
    } else if (is(marker, format_.call_close)) {
      close_call(marker.text, out);
    } else if (is(marker, format_.call_open)) {
      close_call("", out);
      open_call(true);
    } else {
      call_.text += marker.text;
    }
    return;
  }
  if (is(marker, format_.think_open)) {
    if (!thought) open_thought(out);
    return;
  }
  if (is(marker, format_.think_close)) {
    if (thought) close_thought(out);
    return;
  }
  if (is(marker, format_.call_open)) {
    // Gemma 4 may call out of an open thought; elsewhere a call inside a thought is only being thought of.
    if (thought && format_.calls != CallSyntax::kGemma4) return take_text(marker.text, out);
    if (thought) close_thought(out);
    space_.clear();
    return open_call(true);
  }
  if (is(marker, format_.call_close) || is(marker, format_.quote)) {
    // Without its opening it is noise; thoughts and answers go on.
    if (format_.calls != CallSyntax::kGemma4 && thought) take_text(marker.text, out);
  }
}

void OutputParser::add_text(std::string_view text, Events& out) {
  if (format_.name == "plain") return emit(Kind::kText, std::string(text), out);
  if (probing_) {
    const size_t begin = text.find_first_not_of(" \t\r\n");
    space_ += text.substr(0, begin);
    if (begin == std::string_view::npos) return;
    probing_ = false;
    text.remove_prefix(begin);
    if (text.front() == '{') {
      open_call(false);
      call_.text = text;
      return;
    }
    newlines_ = std::exchange(space_, {});
  }
  add_without_edges(Kind::kText, text, out);
}

// Newlines at the beginning and the end of a text or a thought belong to the format: the last ones wait for
// what follows.
void OutputParser::add_without_edges(Kind kind, std::string_view text, Events& out) {
  if (drop_newlines_) {
    const size_t begin = text.find_first_not_of('\n');
    if (begin == std::string_view::npos) return;
    drop_newlines_ = false;
    text.remove_prefix(begin);
  }
  const size_t last = text.find_last_not_of('\n');
  if (last == std::string_view::npos) {
    newlines_ += text;
    return;
  }
  std::string certain = std::exchange(newlines_, std::string(text.substr(last + 1)));
  certain += text.substr(0, last + 1);
  emit(kind, std::move(certain), out);
}

void OutputParser::open_thought(Events&) {
  newlines_.clear();
  space_.clear();
  probing_ = false;
  name_.clear();
  drop_newlines_ = true;
  state_ = format_.think_name.empty() ? State::kThinking : State::kThoughtName;
}

void OutputParser::start_thought(std::string_view after) {
  Events none;
  open_thought(none);
  take_text(after, none);
}

void OutputParser::close_thought(Events& out) {
  if (state_ == State::kThoughtName) {
    // A name without its newline is still the name; anything else has been thought.
    const std::string name = std::exchange(name_, {});
    if (name + "\n" != format_.think_name) add_without_edges(Kind::kThinking, name, out);
  }
  newlines_.clear();
  drop_newlines_ = true;
  state_ = State::kText;
}

void OutputParser::open_call(bool marked) {
  state_ = State::kCall;
  call_ = {};
  call_marked_ = marked;
  probing_ = false;
}

void OutputParser::close_call(std::string_view closing, Events& out) {
  const CallBody body = std::exchange(call_, {});
  const std::string before = std::exchange(newlines_, {});
  ParsedCall parsed = parse_call(format_.calls, body, format_.quote.text);
  OutputEvent event;
  event.text = (call_marked_ ? format_.call_open.text : "") + body.text + std::string(closing);
  // Cut off: by the end of the answer, not by the next call.
  const bool open = at_end_ && call_marked_ && !format_.call_close.text.empty();
  if (parsed.error.empty()) {
    event.kind = Kind::kToolCall;
    event.name = std::move(parsed.name);
    event.arguments = std::move(parsed.arguments);
  } else if (open) {
    event.kind = Kind::kToolCall;
    event.name = call_name(format_.calls, body);
    event.complete = false;
  } else {
    event.text = before + space_ + event.text;
    if (call_marked_) event.note = "not a tool call: " + parsed.error;
  }
  space_.clear();
  drop_newlines_ = event.kind == Kind::kToolCall;
  out.push_back(std::move(event));
  state_ = State::kText;
}

void OutputParser::finish(Events& out) {
  at_end_ = true;
  flush_spelt(out);
  if (state_ == State::kCall) close_call("", out);
  if (state_ == State::kThinking || state_ == State::kThoughtName) close_thought(out);
  emit(Kind::kText, std::exchange(space_, {}) + std::exchange(newlines_, {}), out);
}

}  // namespace hlwq
