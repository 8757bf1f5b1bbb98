#include "quant/companions.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"

namespace hlwq {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSlackBytes = 16u << 20;  // headers, index, card

bool has_content(const OrderedJson& json) { return json.is_object() && !json.empty(); }

uint64_t side_file_bytes(const ModelSource& source) {
  uint64_t bytes = source.tokenizer_json.size();
  for (const fs::path& f : source.side_files) {
    std::error_code ec;
    const uint64_t size = fs::file_size(f, ec);
    if (!ec) bytes += size;
  }
  return bytes;
}

}  // namespace

void write_text(const fs::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string pretty(const OrderedJson& json) {
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

void write_side_files(const ModelSource& source, const std::string& tokenizer_json, const fs::path& dir) {
  for (const fs::path& file : source.side_files) {
    const fs::path to = dir / file.filename();
    std::error_code ec;
    fs::copy_file(file, to, ec);
    if (!ec) fs::permissions(to, fs::perms::owner_write, fs::perm_options::add, ec);
    if (ec)
      throw Error(ErrorCode::kIo, "cannot copy " + file.string() + " into the checkpoint: " + ec.message());
  }
  const auto write_if_new = [&dir](const char* name, const std::string& text) {
    if (!fs::exists(dir / name)) write_text(dir / name, text);
  };
  if (has_content(source.generation_config))
    write_if_new("generation_config.json", pretty(source.generation_config));
  if (has_content(source.tokenizer_config))
    write_if_new("tokenizer_config.json", pretty(source.tokenizer_config));
  const std::string& tokenizer = source.tokenizer_json.empty() ? tokenizer_json : source.tokenizer_json;
  if (!tokenizer.empty()) write_if_new("tokenizer.json", tokenizer);
  if (!source.chat_template.empty()) write_if_new("chat_template.jinja", source.chat_template);
}

void check_disk(const ModelSource& source, const fs::path& out, uint64_t tensor_bytes) {
  const uint64_t needed = tensor_bytes + side_file_bytes(source) + kSlackBytes;
  fs::path existing = fs::absolute(out);
  std::error_code ec;
  while (!fs::exists(existing, ec) && existing.has_parent_path() && existing != existing.parent_path())
    existing = existing.parent_path();
  const fs::space_info space = fs::space(existing, ec);
  // A disk that cannot be asked may still do.
  if (!ec && space.available < needed)
    throw Error(ErrorCode::kIo, "the checkpoint needs " + std::to_string(needed) + " bytes and " +
                                    existing.string() + " has " + std::to_string(space.available) +
                                    " free: make room, choose another disk or fewer bits");
}

void prefetch(std::span<const std::byte> part) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  if (!part.empty()) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

}  // namespace hlwq
