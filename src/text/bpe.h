// Byte-pair encoding: a vocabulary, a table of merges, and the loop that applies them in rank order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hlwq::tok {

/// 64 well mixed bits of a string; not for untrusted keys without a bound on probes.
uint64_t hash_bytes(std::string_view s);

/// Token spellings <-> ids, in one arena and one open-addressing table.
class Vocab {
 public:
  /// The last id given to a spelling wins, as in a JSON object. `what` names the file in errors.
  void add(std::string_view token, int32_t id, const std::string& what);
  int32_t find(std::string_view token) const;                             ///< -1 when absent
  std::string_view spelling(int32_t id) const;                            ///< "" when the id is not used
  int32_t end_id() const { return static_cast<int32_t>(by_id_.size()); }  ///< highest id + 1
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t offset, length;
    int32_t id;
  };
  struct Slot {
    uint32_t tag;
    uint32_t entry;  // index + 1, 0 = empty
  };
  std::string_view text(const Entry& e) const { return {arena_.data() + e.offset, e.length}; }
  void grow();

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> by_id_;  // entry index + 1
};

struct Merge {
  uint32_t rank;
  int32_t id;  ///< of the merged token; -1 = the pair never merges
};

/// (left id, right id) -> Merge.
class MergeTable {
 public:
  void reserve(size_t n);
  void add(int32_t left, int32_t right, Merge merge, const std::string& what);  ///< the last one wins
  Merge find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static uint64_t key(int32_t l, int32_t r) {
    return static_cast<uint64_t>(static_cast<uint32_t>(l)) << 32 | static_cast<uint32_t>(r);
  }
  void insert(const Slot& slot, const std::string& what);
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

struct BpeOptions {
  std::string unk_token;  ///< empty: characters outside the vocabulary vanish
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
  std::string continuing_subword_prefix, end_of_word_suffix;
};

/// The model: word -> ids. Immutable after finish().
class Bpe {
 public:
  Vocab vocab;
  MergeTable merges;
  BpeOptions options;

  /// Derives the lookup tables. `merge_results`: ids that merges can build; `forbidden`: ids that ordinary
  /// text must not become (special tokens). Throws Error(kInvalidFile) when the unknown token is not in the
  /// vocabulary.
  void finish(const std::vector<int32_t>& merge_results, const std::vector<int32_t>& forbidden,
              const std::string& what);

  /// State of one encode call: buffers and the cache of words already seen in it. Words must stay alive until
  /// it dies.
  class Call {
   public:
    /// expected_bytes: about how much text will come, to size the cache.
    Call(const Bpe& bpe, size_t expected_bytes);
    /// Appends the ids of one pre-tokenized word (valid UTF-8). allow_special: merges may build special
    /// tokens.
    void encode(std::string_view word, bool allow_special, std::vector<int32_t>& out);

   private:
    struct Symbol {
      int32_t id, prev, next;
    };
    struct Candidate {
      uint32_t rank, pos;
      int32_t id;
    };
    struct Cached {
      uint64_t hash = 0;
      const char* text = nullptr;  // null: empty
      uint32_t length = 0, begin = 0, count = 0;
    };
    void encode_chunk(std::string_view chunk, std::vector<int32_t>& out);
    void symbols_of(std::string_view chunk);
    void merge_all();
    void push_candidate(int32_t left);

    const Bpe& bpe_;
    bool allow_special_ = true;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
    std::vector<Cached> cache_;
    std::vector<int32_t> cache_ids_;
  };

 private:
  bool is_forbidden(int32_t id) const {
    return any_forbidden_ && static_cast<size_t>(id) < forbidden_.size() &&
           forbidden_[static_cast<size_t>(id)];
  }
  int32_t find_char(std::string_view c, uint32_t code_point) const;

  std::vector<int32_t> bmp_;       // id of each one-character token below U+10000, or -1
  std::vector<int32_t> byte_ids_;  // ids of <0x00>..<0xFF>, or -1
  int32_t unk_id_ = -1;
  std::vector<uint8_t> forbidden_;
  bool any_forbidden_ = false;
  // Whether a character (by id) may be followed by U+2581 inside a token; where it may not, no merge crosses,
  // and the word can be cut there without changing the result.
  bool can_cut_ = false;
  std::vector<uint8_t> joins_separator_;
};

}  // namespace hlwq::tok
