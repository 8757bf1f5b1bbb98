#include "text/bpe.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hlwq/error.h"
#include "text/unicode.h"

namespace hlwq::tok {
namespace {

constexpr std::string_view kSeparator = "\xE2\x96\x81";  // U+2581, the visible space of SentencePiece
constexpr uint32_t kSeparatorCode = 0x2581;
constexpr size_t kCachedWordBytes = 128;  // longer words rarely repeat
constexpr size_t kMaxCacheSlots = 1 << 16;
constexpr size_t kCacheWays = 4;  // looked at before an old word is forgotten
// At half load an honest table never probes this far: more means keys made to collide.
constexpr size_t kMaxProbes = 512;

[[noreturn]] void throw_degenerate(const std::string& what) {
  throw Error(ErrorCode::kInvalidFile,
              what + ": the vocabulary's entries collide on purpose; refuse the file");
}

uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using u128 = unsigned __int128;
  const u128 p = static_cast<u128>(a) * b;
  return static_cast<uint64_t>(p) ^ static_cast<uint64_t>(p >> 64);
}

bool before(uint32_t rank_a, uint32_t pos_a, uint32_t rank_b, uint32_t pos_b) {
  return rank_a != rank_b ? rank_a < rank_b : pos_a < pos_b;
}

}  // namespace

uint64_t hash_bytes(std::string_view s) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ s.size();
  size_t i = 0;
  for (; i + 8 <= s.size(); i += 8) {
    uint64_t w;
    std::memcpy(&w, s.data() + i, 8);
    h = mix(h ^ w, 0xD6E8FEB86659FD93u);
  }
  uint64_t w = 0;
  if (i < s.size()) std::memcpy(&w, s.data() + i, s.size() - i);
  return mix(h ^ w, 0xA0761D6478BD642Fu);
}

void Vocab::add(std::string_view token, int32_t id, const std::string& what) {
  if (entries_.size() * 2 >= slots_.size()) grow();
  const uint64_t h = hash_bytes(token);
  const size_t mask = slots_.size() - 1;
  size_t i = h & mask;
  for (size_t probes = 0; slots_[i].entry; i = (i + 1) & mask) {
    Entry& e = entries_[slots_[i].entry - 1];
    if (slots_[i].tag == static_cast<uint32_t>(h >> 32) && text(e) == token) {
      if (by_id_[static_cast<size_t>(e.id)] == slots_[i].entry) by_id_[static_cast<size_t>(e.id)] = 0;
      e.id = id;
      break;
    }
    if (++probes > kMaxProbes) throw_degenerate(what);
  }
  if (!slots_[i].entry) {
    entries_.push_back({static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(token.size()), id});
    arena_ += token;
    slots_[i] = {static_cast<uint32_t>(h >> 32), static_cast<uint32_t>(entries_.size())};
  }
  if (by_id_.size() <= static_cast<size_t>(id)) by_id_.resize(static_cast<size_t>(id) + 1);
  by_id_[static_cast<size_t>(id)] = slots_[i].entry;
}

int32_t Vocab::find(std::string_view token) const {
  if (slots_.empty()) return -1;
  const uint64_t h = hash_bytes(token);
  const size_t mask = slots_.size() - 1;
  for (size_t i = h & mask; slots_[i].entry; i = (i + 1) & mask) {
    if (slots_[i].tag != static_cast<uint32_t>(h >> 32)) continue;
    const Entry& e = entries_[slots_[i].entry - 1];
    if (text(e) == token) return e.id;
  }
  return -1;
}

std::string_view Vocab::spelling(int32_t id) const {
  if (id < 0 || id >= end_id() || !by_id_[static_cast<size_t>(id)]) return {};
  return text(entries_[by_id_[static_cast<size_t>(id)] - 1]);
}

void Vocab::grow() {
  slots_.assign(std::max<size_t>(1024, slots_.size() * 2), Slot{});
  const size_t mask = slots_.size() - 1;
  for (uint32_t e = 0; e < entries_.size(); ++e) {
    const uint64_t h = hash_bytes(text(entries_[e]));
    size_t i = h & mask;
    while (slots_[i].entry) i = (i + 1) & mask;
    slots_[i] = {static_cast<uint32_t>(h >> 32), e + 1};
  }
}

void MergeTable::reserve(size_t n) {
  size_t size = 1024;
  while (size < n * 2) size *= 2;
  if (size <= slots_.size()) return;
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(size, Slot{~uint64_t{0}, {}}));
  used_ = 0;
  for (const Slot& s : old)
    if (s.key != ~uint64_t{0}) insert(s, "merges");
}

void MergeTable::insert(const Slot& slot, const std::string& what) {
  const size_t mask = slots_.size() - 1;
  size_t i = mix(slot.key, 0x9E3779B97F4A7C15u) & mask;
  for (size_t probes = 0; slots_[i].key != ~uint64_t{0}; i = (i + 1) & mask) {
    if (slots_[i].key == slot.key) {
      slots_[i] = slot;
      return;
    }
    if (++probes > kMaxProbes) throw_degenerate(what);
  }
  slots_[i] = slot;
  ++used_;
}

void MergeTable::add(int32_t left, int32_t right, Merge merge, const std::string& what) {
  if (used_ * 2 >= slots_.size()) reserve(used_ * 2 + 1024);
  insert({key(left, right), merge}, what);
}

Merge MergeTable::find(int32_t left, int32_t right) const {
  if (slots_.empty()) return {0, -1};
  const uint64_t k = key(left, right);
  const size_t mask = slots_.size() - 1;
  for (size_t i = mix(k, 0x9E3779B97F4A7C15u) & mask; slots_[i].key != ~uint64_t{0}; i = (i + 1) & mask)
    if (slots_[i].key == k) return slots_[i].merge;
  return {0, -1};
}

void Bpe::finish(const std::vector<int32_t>& merge_results, const std::vector<int32_t>& forbidden,
                 const std::string& what) {
  bmp_.assign(0x10000, -1);
  for (int32_t id = 0; id < vocab.end_id(); ++id) {
    const std::string_view s = vocab.spelling(id);
    if (s.empty() || s.size() > 3 || unicode::char_length(static_cast<unsigned char>(s[0])) != s.size())
      continue;
    size_t length;
    bmp_[unicode::decode_at(s, 0, length)] = vocab.find(s);
  }
  if (options.byte_fallback) {
    byte_ids_.resize(256);
    for (unsigned b = 0; b < 256; ++b) {
      const char* digits = "0123456789ABCDEF";
      const char name[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
      byte_ids_[b] = vocab.find({name, sizeof name});
    }
  }
  if (!options.unk_token.empty()) {
    unk_id_ = vocab.find(options.unk_token);
    if (unk_id_ < 0)
      throw Error(ErrorCode::kInvalidFile,
                  what + ": unknown token \"" + options.unk_token + "\" is not in the vocabulary");
  }
  forbidden_.assign(static_cast<size_t>(vocab.end_id()), 0);
  for (int32_t id : forbidden)
    if (id >= 0 && id < vocab.end_id()) forbidden_[static_cast<size_t>(id)] = any_forbidden_ = true;

  can_cut_ = options.continuing_subword_prefix.empty() && options.end_of_word_suffix.empty() &&
             !options.ignore_merges && bmp_[kSeparatorCode] >= 0;
  if (!can_cut_) return;
  joins_separator_.assign(static_cast<size_t>(vocab.end_id()), 0);
  for (int32_t id : merge_results) {
    const std::string_view s = vocab.spelling(id);
    for (size_t at = s.find(kSeparator); at != s.npos; at = s.find(kSeparator, at + 1)) {
      if (at == 0) continue;
      size_t start = at - 1, length;
      while ((static_cast<unsigned char>(s[start]) & 0xC0) == 0x80) --start;
      const int32_t left = find_char(s.substr(start, at - start), unicode::decode_at(s, start, length));
      if (left >= 0) joins_separator_[static_cast<size_t>(left)] = 1;
    }
  }
}

int32_t Bpe::find_char(std::string_view c, uint32_t code_point) const {
  return code_point < 0x10000 ? bmp_[code_point] : vocab.find(c);
}

Bpe::Call::Call(const Bpe& bpe, size_t expected_bytes) : bpe_(bpe) {
  size_t size = 64;
  while (size < expected_bytes / 4 && size < kMaxCacheSlots) size *= 2;
  cache_.resize(size);
}

void Bpe::Call::encode(std::string_view word, bool allow_special, std::vector<int32_t>& out) {
  if (word.empty()) return;
  if (bpe_.any_forbidden_ && allow_special != allow_special_) cache_.assign(cache_.size(), Cached{});
  allow_special_ = allow_special;
  if (!bpe_.can_cut_ || word.size() <= kSeparator.size()) {
    encode_chunk(word, out);
    return;
  }
  size_t begin = 0;
  for (size_t at = word.find(kSeparator, 1); at != word.npos; at = word.find(kSeparator, at + 1)) {
    size_t start = at - 1, length;
    while ((static_cast<unsigned char>(word[start]) & 0xC0) == 0x80) --start;
    const int32_t left =
        bpe_.find_char(word.substr(start, at - start), unicode::decode_at(word, start, length));
    if (left < 0 || bpe_.joins_separator_[static_cast<size_t>(left)]) continue;
    encode_chunk(word.substr(begin, at - begin), out);
    begin = at;
  }
  encode_chunk(word.substr(begin), out);
}

void Bpe::Call::encode_chunk(std::string_view chunk, std::vector<int32_t>& out) {
  Cached* slot = nullptr;
  uint64_t hash = 0;
  if (chunk.size() <= kCachedWordBytes) {
    hash = hash_bytes(chunk);
    const size_t mask = cache_.size() - 1;
    slot = &cache_[hash & mask];
    for (size_t way = 0; way < kCacheWays; ++way) {
      Cached& c = cache_[(hash + way) & mask];
      if (!c.text) {
        slot = &c;
        break;
      }
      if (c.hash == hash && std::string_view(c.text, c.length) == chunk) {
        out.insert(out.end(), cache_ids_.begin() + c.begin, cache_ids_.begin() + c.begin + c.count);
        return;
      }
    }
  }
  const size_t out_begin = out.size();
  int32_t whole = bpe_.options.ignore_merges ? bpe_.vocab.find(chunk) : -1;
  if (whole >= 0 && !allow_special_ && bpe_.is_forbidden(whole)) whole = -1;
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    symbols_of(chunk);
    merge_all();
    for (int32_t i = symbols_.empty() ? -1 : 0; i >= 0; i = symbols_[static_cast<size_t>(i)].next)
      out.push_back(symbols_[static_cast<size_t>(i)].id);
  }
  if (slot) {
    *slot = {hash, chunk.data(), static_cast<uint32_t>(chunk.size()),
             static_cast<uint32_t>(cache_ids_.size()), static_cast<uint32_t>(out.size() - out_begin)};
    cache_ids_.insert(cache_ids_.end(), out.begin() + static_cast<std::ptrdiff_t>(out_begin), out.end());
  }
}

// The initial symbols: one a character, or one a byte where the vocabulary lacks the character. A pending
// unknown token is only placed before the next known character, not before fallback bytes: the reference does
// so too.
void Bpe::Call::symbols_of(std::string_view chunk) {
  const BpeOptions& o = bpe_.options;
  const bool affixes = !o.continuing_subword_prefix.empty() || !o.end_of_word_suffix.empty();
  symbols_.clear();
  const auto add = [&](int32_t id) { symbols_.push_back({id, 0, 0}); };
  bool pending_unk = false;
  std::string affixed;
  for (size_t i = 0, length; i < chunk.size(); i += length) {
    const uint32_t code = unicode::decode_at(chunk, i, length);
    std::string_view c = chunk.substr(i, length);
    int32_t id;
    if (affixes) {
      affixed = (i ? o.continuing_subword_prefix : std::string()) + std::string(c) +
                (i + length == chunk.size() ? o.end_of_word_suffix : std::string());
      c = affixed;
      id = bpe_.vocab.find(c);
    } else {
      id = bpe_.find_char(c, code);
    }
    if (id >= 0 && !allow_special_ && bpe_.is_forbidden(id)) id = -1;
    if (id >= 0) {
      if (std::exchange(pending_unk, false)) add(bpe_.unk_id_);
      add(id);
      continue;
    }
    const auto byte_id = [&](char b) { return bpe_.byte_ids_[static_cast<unsigned char>(b)]; };
    if (o.byte_fallback && std::all_of(c.begin(), c.end(), [&](char b) { return byte_id(b) >= 0; })) {
      for (char b : c) add(byte_id(b));
      continue;
    }
    if (bpe_.unk_id_ < 0) continue;
    if (pending_unk && !o.fuse_unk) add(bpe_.unk_id_);
    pending_unk = true;
  }
  if (pending_unk) add(bpe_.unk_id_);
  for (size_t i = 0; i < symbols_.size(); ++i) {
    symbols_[i].prev = static_cast<int32_t>(i) - 1;
    symbols_[i].next = i + 1 < symbols_.size() ? static_cast<int32_t>(i + 1) : -1;
  }
}

void Bpe::Call::push_candidate(int32_t left) {
  const Symbol& l = symbols_[static_cast<size_t>(left)];
  const Merge m = bpe_.merges.find(l.id, symbols_[static_cast<size_t>(l.next)].id);
  if (m.id < 0 || (!allow_special_ && bpe_.is_forbidden(m.id))) return;
  heap_.push_back({m.rank, static_cast<uint32_t>(left), m.id});
}

// Lowest rank first, leftmost among equals; stale candidates are recognised when they come up.
void Bpe::Call::merge_all() {
  const auto later = [](const Candidate& a, const Candidate& b) {
    return before(b.rank, b.pos, a.rank, a.pos);
  };
  heap_.clear();
  for (size_t i = 0; i + 1 < symbols_.size(); ++i) push_candidate(static_cast<int32_t>(i));
  std::make_heap(heap_.begin(), heap_.end(), later);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate top = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[top.pos];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols_[static_cast<size_t>(left.next)];
    if (bpe_.merges.find(left.id, right.id).id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) {
      symbols_[static_cast<size_t>(left.next)].prev = static_cast<int32_t>(top.pos);
      const size_t n = heap_.size();
      push_candidate(static_cast<int32_t>(top.pos));
      if (heap_.size() > n) std::push_heap(heap_.begin(), heap_.end(), later);
    }
    if (left.prev >= 0) {
      const size_t n = heap_.size();
      push_candidate(left.prev);
      if (heap_.size() > n) std::push_heap(heap_.begin(), heap_.end(), later);
    }
  }
}

}  // namespace hlwq::tok
