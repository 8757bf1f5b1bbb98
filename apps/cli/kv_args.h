// Options of the key/value cache, shared by every command that has one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "args.h"
#include "model/kv_settings.h"

namespace hlwq::cli {

struct KvArgs {
  void declare(Args& args);
  /// The preset of --kv-bits, with each further option replacing its part. Throws UsageError.
  KvSettings settings() const;
  /// The preset alone, for who knows no more. Throws UsageError, that `who` takes only it, for other options.
  int preset(const std::string& who) const;

 private:
  std::string plain_;  // --kv bf16|f32, the older spelling of --kv-bits 16|32
  std::optional<int64_t> bits_, tail_, sinks_;
  std::optional<std::string> sliding_, full_;
  std::string share_;
};

}  // namespace hlwq::cli
