// The list of implementations, and the choice among them.
#include "ops/kernels.h"

#include <string>

#include "hlwq/error.h"

namespace hlwq {

std::span<const Kernels* const> all_kernels() {
  static constexpr const Kernels* kAll[] = {
#if defined(__x86_64__)
    &kAvx512Kernels,
    &kAvx2Kernels,
#endif
    &kScalarKernels,
  };
  return kAll;
}

bool runs_on([[maybe_unused]] const Kernels& kernels, [[maybe_unused]] const CpuFeatures& cpu) {
#if defined(__x86_64__)
  if (&kernels == &kAvx512Kernels) return cpu.avx512;
  if (&kernels == &kAvx2Kernels) return cpu.avx2;
#endif
  return true;
}

const Kernels& select_kernels(const CpuFeatures& cpu, std::string_view force) {
  std::string names;
  for (const Kernels* kernels : all_kernels()) {
    const bool runs = runs_on(*kernels, cpu);
    if (force.empty()) {
      if (runs) return *kernels;
    } else if (kernels->name == force) {
      if (runs) return *kernels;
      throw Error(ErrorCode::kUnsupported,
                  "kernels \"" + std::string(force) +
                      "\" need instructions that this processor lacks; leave the choice to "
                      "the program, or ask for \"scalar\"");
    }
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "there are no kernels called \"" + std::string(force) + "\"; choose one of: " + names);
}

}  // namespace hlwq
