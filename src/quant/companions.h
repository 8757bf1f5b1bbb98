// What a checkpoint directory that we write has besides its tensors, and room for it on the disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/json.h"
#include "io/model_source.h"

namespace hlwq {

/// JSON as our checkpoints store it: indented, with a final newline.
std::string pretty(const OrderedJson& json);
/// A whole file, which appears at once.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Copies the source's side files (tokenizer, template, generation and processor configs, licence) into `dir`
/// and writes those that the source has in another form. `tokenizer_json` stands in where it has none (GGUF).
void write_side_files(const ModelSource& source, const std::string& tokenizer_json,
                      const std::filesystem::path& dir);

/// Throws Error(kIo) when the disk that `out` will be on has less room than `tensor_bytes` and the source's
/// side files take: better said before an hour's work than after it.
void check_disk(const ModelSource& source, const std::filesystem::path& out, uint64_t tensor_bytes);

/// Has the kernel read a part of a mapped file ahead: faults alone wait for the disk a few pages at a time.
void prefetch(std::span<const std::byte> part);

}  // namespace hlwq
