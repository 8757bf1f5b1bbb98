#include "text/output_decoder.h"

#include <algorithm>

namespace hlwq {
namespace {

std::string_view trim(std::string_view s) {
  const size_t begin = s.find_first_not_of(" \n");
  if (begin == std::string_view::npos) return {};
  return s.substr(begin, s.find_last_not_of(" \n") - begin + 1);
}

}  // namespace

OutputDecoder::OutputDecoder(const Tokenizer& tokenizer, OutputFormat format, bool skip_special,
                             bool expect_calls)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      parser_(std::move(format), expect_calls),
      stream_(tokenizer.stream(skip_special)) {}

void OutputDecoder::see_prompt(std::span<const int32_t> prompt) {
  const OutputFormat& format = parser_.format();
  if (format.think_open.text.empty()) return;
  // Only a marker that ends the prompt, but for the thought's name, is the template's: anything further back
  // may be somebody's text.
  const auto tail = prompt.last(std::min<size_t>(prompt.size(), 16));
  std::string after;
  if (format.think_open.id >= 0) {
    const auto open = std::find(tail.rbegin(), tail.rend(), format.think_open.id);
    if (open == tail.rend()) return;
    after = tokenizer_.decode({open.base(), tail.end()}, false);
  } else {
    const std::string text = tokenizer_.decode(tail, false);
    const size_t open = text.rfind(format.think_open.text);
    if (open == std::string::npos) return;
    after = text.substr(open + format.think_open.text.size());
  }
  if (const auto name = trim(after); name.empty() || name == trim(format.think_name))
    parser_.start_thought(after);
}

std::vector<OutputEvent> OutputDecoder::push(int32_t id) {
  std::vector<OutputEvent> events;
  if (const Marker* marker = parser_.format().marker(id)) {
    // Bytes that no character came of must not wander behind the marker.
    parser_.push(stream_->finish(), false, events);
    stream_ = tokenizer_.stream(skip_special_);
    parser_.push(marker->text, true, events);
  } else {
    parser_.push(stream_->push(id), false, events);
  }
  return events;
}

std::vector<OutputEvent> OutputDecoder::finish() {
  std::vector<OutputEvent> events;
  parser_.push(stream_->finish(), false, events);
  parser_.finish(events);
  return events;
}

std::vector<int32_t> OutputDecoder::closing_ids() const {
  const Marker& close = parser_.format().think_close;
  if (close.text.empty()) return {};
  if (close.id >= 0) return {close.id};
  return tokenizer_.encode(close.text, false, true);
}

}  // namespace hlwq
