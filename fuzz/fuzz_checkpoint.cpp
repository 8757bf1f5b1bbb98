// Input: an image of a model directory: repeated (file number, 32-bit little-endian length, bytes). It is
// written to a directory in memory-backed storage where there is one, opened as a model, and decoded: plain
// tensors and HLWQ matrices, native and published.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz_input.h"
#include "io/model_source.h"
#include "quant/codec.h"
#include "quant/hlwq_checkpoint.h"

namespace fs = std::filesystem;

namespace {

constexpr const char* kNames[] = {
    "config.json",           "model.safetensors", "model.safetensors.index.json",
    "a.safetensors",         "b.safetensors",     "generation_config.json",
    "tokenizer_config.json", "tokenizer.json",    "chat_template.jinja",
    "chat_template.json",    "model.gguf",        "model.bin",
    "hlwq_config.json",
};

const fs::path& scratch() {
  static const fs::path path = [] {
    std::string pattern = (fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) +
                          std::string("/hlwq-fuzz-XXXXXX");
    if (!::mkdtemp(pattern.data())) std::abort();
    std::atexit([] {
      std::error_code ignored;
      fs::remove_all(scratch(), ignored);
    });
    return fs::path(pattern);
  }();
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<fs::path> written;
  while (size >= 5) {
    const fs::path path = scratch() / kNames[data[0] % std::size(kNames)];
    uint32_t length;
    std::memcpy(&length, data + 1, 4);
    data += 5;
    size -= 5;
    length = static_cast<uint32_t>(std::min<size_t>(length, size));
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), length);
    written.push_back(path);
    data += length;
    size -= length;
  }
  hlwq::fuzz::allow_errors([&] {
    const hlwq::ModelSource model = hlwq::open_model(scratch());
    if (!model.tensors) return;
    hlwq::fuzz::touch(model.tensors->tensors());
    if (!hlwq::HlwqCheckpoint::is_hlwq(model)) return;
    const hlwq::HlwqCheckpoint checkpoint(model);
    std::vector<float> row;
    for (const auto& [name, m] : checkpoint.matrices()) {
      if (m.rows == 0 || m.cols == 0) continue;
      row.resize(m.cols);
      const hlwq::Codebook& codebook = checkpoint.codebook(m.format.bits, m.format.lags);
      for (uint64_t r : {uint64_t{0}, m.rows - 1})
        hlwq::decode_row(m.format, codebook, m.codes + r * m.format.row_bytes(m.cols),
                         m.norms + r * m.format.row_blocks(m.cols), m.cols, row.data());
    }
  });
  for (const fs::path& path : written) fs::remove(path);
  return 0;
}
