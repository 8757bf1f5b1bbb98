// Test driver: tokenises records from standard input with a tokenizer.json and prints ids, for
// tests/golden/compare_tokenizers.py.
//   tokenize_lines TOKENIZER.JSON [--no-special] < records
// Each record is a decimal byte count, a newline, then that many bytes. Per record: one line of ids, then one
// line with the byte count of the decoded text (all tokens kept), then the text and a newline. Times go to
// standard error.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "hlwq/error.h"
#include "text/tokenizer.h"

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  if (argc < 2) {
    std::fputs("usage: tokenize_lines TOKENIZER.JSON [--no-special] < records\n", stderr);
    return 2;
  }
  const bool special = argc < 3 || std::string(argv[2]) != "--no-special";
  try {
    std::ifstream file(argv[1], std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto t0 = Clock::now();
    const auto tokenizer = hlwq::Tokenizer::from_json(text, argv[1]);
    const double load = seconds(Clock::now() - t0);
    std::ios::sync_with_stdio(false);
    double encode = 0, decode = 0;
    size_t bytes = 0, records = 0;
    std::string out;
    for (std::string count; std::getline(std::cin, count); ++records) {
      std::string record(std::stoul(count), '\0');
      std::cin.read(record.data(), static_cast<std::streamsize>(record.size()));
      bytes += record.size();
      const auto t1 = Clock::now();
      const auto ids = tokenizer->encode(record, special, special);
      const auto t2 = Clock::now();
      const std::string decoded = tokenizer->decode(ids, false);
      decode += seconds(Clock::now() - t2);
      encode += seconds(t2 - t1);
      for (const int32_t id : ids) out += std::to_string(id) + " ";
      out += "\n" + std::to_string(decoded.size()) + "\n" + decoded + "\n";
      if (out.size() > 1 << 20) {
        std::cout << out;
        out.clear();
      }
    }
    std::cout << out;
    std::fprintf(stderr, "%zu records, %zu bytes: load %.3f s, encode %.2f MB/s, decode %.2f MB/s of text\n",
                 records, bytes, load, static_cast<double>(bytes) / 1e6 / encode,
                 static_cast<double>(bytes) / 1e6 / decode);
  } catch (const hlwq::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
