#include "io/safetensors_writer.h"

#include <cstdio>
#include <set>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"

namespace hlwq {
namespace {

constexpr uint64_t kAlignment = 64;

[[noreturn]] void bad(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

struct Shard {
  size_t first, last;  ///< specs [first, last)
  uint64_t bytes;
};

// In order, as many tensors as fit; a tensor larger than the limit gets a shard to itself.
std::vector<Shard> split(const std::vector<TensorSpec>& specs, uint64_t max_bytes) {
  std::vector<Shard> shards = {{0, 0, 0}};
  for (size_t i = 0; i < specs.size(); ++i) {
    const uint64_t bytes = specs[i].bytes();
    Shard* s = &shards.back();
    const bool fits = bytes <= max_bytes && s->bytes <= max_bytes - bytes;
    if (!fits && s->last > s->first) s = &shards.emplace_back(Shard{i, i, 0});
    s->last = i + 1;
    s->bytes = checked_add(s->bytes, bytes, "safetensors shard");
  }
  return shards;
}

void check(const std::vector<TensorSpec>& specs) {
  std::set<std::string_view> names;
  for (const TensorSpec& s : specs) {
    if (s.name.empty() || s.name == "__metadata__") bad("a tensor cannot be called '" + s.name + "'");
    if (!names.insert(s.name).second) bad("tensor " + s.name + " is listed twice");
    if (s.dtype > DType::kBool)
      bad("tensor " + s.name + ": safetensors has no element type " + std::string(info(s.dtype).name));
  }
}

std::string dump(const OrderedJson& json) {
  try {
    return json.dump();
  } catch (const OrderedJson::exception& e) {  // names or metadata that are not UTF-8
    bad(std::string("cannot write a safetensors header: ") + e.what());
  }
}

// The length field and the header, padded with spaces so that what follows is aligned.
std::string make_header(const std::vector<TensorSpec>& specs, const Shard& shard,
                        const std::map<std::string, std::string>& metadata) {
  OrderedJson::object_t header;  // appended to directly: operator[] would search all earlier keys
  if (!metadata.empty()) header.emplace_back("__metadata__", metadata);
  uint64_t position = 0;
  for (size_t i = shard.first; i < shard.last; ++i) {
    const uint64_t end = position + specs[i].bytes();
    header.emplace_back(specs[i].name, OrderedJson{{"dtype", info(specs[i].dtype).name},
                                                   {"shape", specs[i].shape},
                                                   {"data_offsets", {position, end}}});
    position = end;
  }
  std::string text = dump(OrderedJson(std::move(header)));
  text.append((kAlignment - (8 + text.size()) % kAlignment) % kAlignment, ' ');
  if (text.size() > kMaxSafetensorsHeader)
    bad("a safetensors header of " + std::to_string(text.size()) +
        " bytes is over the format's limit; use smaller shards");
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

std::string shard_name(size_t k, size_t n) {
  if (n == 1) return "model.safetensors";
  char name[80];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, n);
  return name;
}

}  // namespace

uint64_t TensorSpec::bytes() const {
  return checked_mul(checked_elements(shape, "tensor " + name), info(dtype).block_bytes, "tensor " + name);
}

struct SafetensorsWriter::State {
  std::filesystem::path dir;
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> metadata;
  std::vector<Shard> shards;
  std::vector<std::unique_ptr<AtomicFile>> files;  ///< of the shards begun so far, uncommitted until finish()
  size_t next = 0;                                 ///< the spec being written
  uint64_t written = 0;                            ///< of its bytes
  uint64_t total = 0;
  bool finished = false;

  void open_shard() {
    const size_t k = files.size();
    const std::string header = make_header(specs, shards[k], metadata);
    files.push_back(std::make_unique<AtomicFile>(dir / shard_name(k, shards.size())));
    files.back()->write(header);
  }

  // Steps over finished tensors, empty ones included, and opens the shards they are in.
  void advance() {
    for (;;) {
      while (next == shards[files.size() - 1].last && files.size() < shards.size()) open_shard();
      if (next == specs.size() || written < specs[next].bytes()) return;
      ++next;
      written = 0;
    }
  }

  void write_index() const {
    OrderedJson::object_t map;
    for (size_t k = 0; k < shards.size(); ++k)
      for (size_t i = shards[k].first; i < shards[k].last; ++i)
        map.emplace_back(specs[i].name, shard_name(k, shards.size()));
    OrderedJson index = OrderedJson::object();
    index["metadata"] = {{"total_size", total}};
    index["weight_map"] = OrderedJson(std::move(map));
    AtomicFile file(dir / "model.safetensors.index.json");
    file.write(index.dump(2) + "\n");
    file.commit();
  }
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path dir, std::vector<TensorSpec> specs,
                                     std::map<std::string, std::string> metadata, uint64_t max_shard_bytes)
    : state_(std::make_unique<State>()) {
  check(specs);
  state_->dir = std::move(dir);
  state_->shards = split(specs, max_shard_bytes);
  state_->specs = std::move(specs);
  state_->metadata = std::move(metadata);
  for (const Shard& s : state_->shards)
    state_->total = checked_add(state_->total, s.bytes, "safetensors checkpoint");
  state_->open_shard();
  state_->advance();
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(const void* data, uint64_t bytes) {
  State& s = *state_;
  if (bytes == 0) return;
  if (s.next == s.specs.size()) bad("bytes after the last tensor");
  const TensorSpec& spec = s.specs[s.next];
  if (bytes > spec.bytes() - s.written)
    bad("tensor " + spec.name + " has room for " + std::to_string(spec.bytes() - s.written) +
        " more bytes, not " + std::to_string(bytes));
  s.files.back()->write(data, bytes);
  s.written += bytes;
  s.advance();
}

void SafetensorsWriter::finish() {
  State& s = *state_;
  if (s.finished) bad("finish() was called twice");
  if (s.next != s.specs.size()) bad("tensor " + s.specs[s.next].name + " is incomplete");
  for (const auto& file : s.files) file->commit();
  if (s.shards.size() > 1) s.write_index();
  s.finished = true;
}

uint64_t SafetensorsWriter::total_bytes() const { return state_->total; }

}  // namespace hlwq
