// quantize_model's encoder on a GPU.
#pragma once

#include <memory>

#include "quant/tensor_encoder.h"

namespace hlwq::cuda {

/// Rows go to the GPU as they are stored, slab by slab through page-locked memory, and one slab is read and
/// another written while a third is encoded. Host memory: two slabs and their codes. Throws Error(kDevice)
/// when there is no such GPU.
std::unique_ptr<TensorEncoder> make_tensor_encoder(int device);

}  // namespace hlwq::cuda
