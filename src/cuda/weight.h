// One weight on the GPU, whichever kind it is of, and what its input must look like.
#pragma once

#include "cuda/dense.h"
#include "cuda/matrix.h"

namespace hlwq::cuda {

/// A weight of either kind on the GPU.
struct GpuWeight {
  DeviceMatrix hlwq;  ///< rows 0: dense
  DenseView dense;
  uint64_t rows() const { return hlwq.rows ? hlwq.rows : dense.rows; }
  uint64_t cols() const { return hlwq.rows ? hlwq.cols : dense.cols; }
  bool quantized() const { return hlwq.rows != 0; }
  explicit operator bool() const { return rows() != 0; }
};

/// In what forms the matrices that read one input want it.
struct InputForms {
  int block = 0;        ///< block of the INT8 form that comes fused with what makes the input; 0: none
  int lags = 1;         ///< forms turned by up to lags - 1
  bool floats = false;  ///< also as floats: for plain matrices and for blocks of another size
};

}  // namespace hlwq::cuda
