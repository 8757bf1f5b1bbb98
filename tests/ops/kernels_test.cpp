// Choosing an implementation: automatically, by name, and the errors.
#include <gmock/gmock.h>

#include "hlwq/error.h"
#include "ops/ops_test_util.h"

namespace hlwq {
namespace {

std::string error_of(const CpuFeatures& cpu, std::string_view force, ErrorCode code) {
  try {
    select_kernels(cpu, force);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code);
    return e.what();
  }
  ADD_FAILURE() << "no error for \"" << force << "\"";
  return "";
}

TEST(SelectKernels, TakesTheFastestThatRuns) {
  EXPECT_EQ(select_kernels(CpuFeatures{false, false}, "").name, "scalar");
#if defined(__x86_64__)
  EXPECT_EQ(select_kernels(CpuFeatures{true, false}, "").name, "avx2");
  EXPECT_EQ(select_kernels(CpuFeatures{true, true}, "").name, "avx512");
#endif
}

TEST(SelectKernels, ForcedByName) {
  for (const Kernels* kernels : all_kernels())
    EXPECT_EQ(&select_kernels(CpuFeatures{true, true}, kernels->name), kernels) << kernels->name;
}

TEST(SelectKernels, UnknownNameListsTheNames) {
  const std::string message = error_of(CpuFeatures{true, true}, "sse9", ErrorCode::kInvalidArgument);
  EXPECT_THAT(message, testing::HasSubstr("sse9"));
  for (const Kernels* kernels : all_kernels())
    EXPECT_THAT(message, testing::HasSubstr(std::string(kernels->name)));
}

TEST(SelectKernels, MissingInstructionsAreAnError) {
#if defined(__x86_64__)
  EXPECT_THAT(error_of(CpuFeatures{true, false}, "avx512", ErrorCode::kUnsupported),
              testing::HasSubstr("avx512"));
  EXPECT_THAT(error_of(CpuFeatures{false, false}, "avx2", ErrorCode::kUnsupported),
              testing::HasSubstr("avx2"));
#else
  EXPECT_EQ(all_kernels().size(), 1u);
#endif
}

TEST(SelectKernels, EveryImplementationHasItsOwnLinear) {
  // A name is only proof of what ran if no two names share the function that does the work.
  for (const Kernels* a : all_kernels())
    for (const Kernels* b : all_kernels())
      EXPECT_TRUE(a == b || a->linear.hlwq_rows != b->linear.hlwq_rows) << a->name << " and " << b->name;
}

// ---- lookup tables

TEST(LookupTables, Int8CostsLittleAndMoreBitsNothing) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Codebook codebook = lloyd_max_codebook(bits);
    const LookupTables tables = make_lookup_tables(codebook);
    const size_t half = codebook.values.size() / 2;
    double error = 0;
    for (size_t m = 0; m < half; ++m) {
      const double below = m ? 0.5 * (codebook.values[m - 1] + codebook.values[m]) : 0;
      const double above = m + 1 < half ? 0.5 * (codebook.values[m] + codebook.values[m + 1]) : 40;
      const double probability = std::erfc(below / std::sqrt(2.0)) - std::erfc(above / std::sqrt(2.0));
      const double value = tables.step * (tables.hi[0][m] + tables.lo[0][m] / 128.0 + tables.offset);
      error += probability * (value - codebook.values[m]) * (value - codebook.values[m]);
      const double twin =
          tables.step * (tables.hi[0][m + half] + tables.lo[0][m + half] / 128.0 + tables.offset);
      EXPECT_EQ(value, -twin) << "bits " << bits << ", magnitude " << m;
      EXPECT_GE(tables.hi[0][m], 0);
      EXPECT_GE(tables.lo[0][m], 0);
      EXPECT_GE(tables.hi[0][m + half], -127);
    }
    // Found by an exhaustive scan of the step in double precision: 0.00004, 0.002, 0.134, 0.856 % at 2..5
    // bits.
    const double most[] = {0, 0, 1e-5, 1e-4, 0.0015, 0.0088, 1e-4, 2e-4, 6e-4};
    EXPECT_LT(error / gaussian_mse(codebook), most[bits]) << "bits " << bits;
  }
}

TEST(LookupTables, CoupledTablesAreMetExactly) {
  for (int lags = 2; lags <= 3; ++lags)
    for (int bits = 2; bits <= 6; ++bits) {
      if (!has_standard_codebook(bits, lags)) continue;
      const Codebook codebook = coupled_codebook(bits, lags);
      const LookupTables tables = make_lookup_tables(codebook);
      const size_t levels = size_t{1} << bits;
      for (int lag = 0; lag < lags; ++lag)
        for (size_t q = 0; q < levels; ++q) {
          const float value = codebook.values[static_cast<size_t>(lag) * levels + q];
          // The step is found again from one value: two roundings of 2^-24 in it, one in each product.
          EXPECT_NEAR(tables.step * (static_cast<float>(tables.hi[lag][q]) + tables.offset), value,
                      std::abs(value) * 0x1p-22f)
              << bits << " bits, lag " << lag << " of " << lags << ", code " << q;
        }
      // A multiple of the tables' own grid would be exact too, but not fit.
      if (bits <= 5) {
        EXPECT_LE(tables.largest_sum, 127) << bits << " bits, " << lags << " lags";
      }
    }
}

TEST(LookupTables, PublishedTablesAreAccepted) {
  for (int bits : {2, 3, 4, 5, 6})
    for (PublishedVariant variant : {PublishedVariant::kFinite4, PublishedVariant::kInfinite})
      EXPECT_NO_THROW(make_lookup_tables(published_codebook(bits, variant))) << bits;
}

TEST(LookupTables, DamagedCodebooksAreErrors) {
  const Codebook good = lloyd_max_codebook(4);
  const auto rejects = [](Codebook c, const char* why) {
    try {
      make_lookup_tables(c);
      ADD_FAILURE() << "accepted: " << why;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidFile);
      EXPECT_THAT(e.what(), testing::HasSubstr(why));
    }
  };
  Codebook c = good;
  c.values.pop_back();
  rejects(c, "15 values");
  c = good;
  c.values[3] = std::nanf("");
  rejects(c, "finite");
  c = good;
  c.values[3] += 0.1f;
  rejects(c, "odd");
  c = good;
  std::swap(c.values[2], c.values[10]);
  rejects(c, "sign");
  c = good;
  std::fill(c.values.begin(), c.values.end(), 0.0f);
  rejects(c, "magnitude");
  c = good;
  c.bits = 9;
  rejects(c, "bits");
}

}  // namespace
}  // namespace hlwq
