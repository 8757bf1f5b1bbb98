#include "quant/coupled_tables.h"

#include <array>

namespace hlwq {
namespace {

// clang-format off
constexpr int8_t kQ2L2[] = {25, 84, -42, 15};
constexpr int8_t kQ3L2[] = {9, 31, 57, 86, -40, -1, -21, 30};
constexpr int8_t kQ4L2[] = {4, 10, 18, 26, 34, 45, 56, 82, -4, 19, 10, -29, -44, -14, 28, 3};
constexpr int8_t kQ5L2[] = {0, 3, 7, 10, 13, 17, 20, 23, 27, 32, 36, 40, 46, 53, 62, 81, 29, 3, 7, 10, 23, 35, 44, -5, 0, 13, -19, 16, 19, -14, 7, -27};
constexpr int8_t kQ6L2[] = {0, 2, 3, 4, 5, 7, 8, 9, 11, 12, 14, 15, 16, 18, 19, 21, 23, 24, 27, 29, 30, 32, 34, 37, 40, 42, 45, 48, 53, 59, 66, 80, 5, -26, 9, 0, -4, -5, 27, 18, 1, 16, -2, 10, -20, -8, 11, 7, -38, -13, -14, -46, 3, 21, -24, -17, -5, -22, 30, -9, -7, -32, -12, -16};
constexpr int8_t kQ2L3[] = {5, 61, 19, -16, 46, 1};
constexpr int8_t kQ3L3[] = {4, 18, 40, 61, 13, -21, -32, 0, 31, 7, -13, 33};
constexpr int8_t kQ4L3[] = {2, 8, 12, 19, 26, 34, 42, 59, -7, 19, -12, -10, -1, -23, -34, 4, 33, -1, -14, -20, -8, 24, -11, 4};
constexpr CoupledTable kTables[] = {
    {2, 2, 0.0156619996f, kQ2L2, 0.0965541},
    {3, 2, 0.0207963847f, kQ3L2, 0.0262567},
    {4, 2, 0.026825048f, kQ4L2, 0.00617043},
    {5, 2, 0.0313006341f, kQ5L2, 0.00151558},
    {6, 2, 0.0358220115f, kQ6L2, 0.000369721},
    {2, 3, 0.0187628698f, kQ2L3, 0.0863146},
    {3, 3, 0.0258940067f, kQ3L3, 0.0233239},
    {4, 3, 0.0360606387f, kQ4L3, 0.00590349},
};
// clang-format on

}  // namespace

const CoupledTable* coupled_table(int bits, int lags) {
  for (const CoupledTable& t : kTables)
    if (t.bits == bits && t.lags == lags) return &t;
  return nullptr;
}

}  // namespace hlwq
