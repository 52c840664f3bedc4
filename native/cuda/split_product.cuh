// SPDX-License-Identifier: Apache-2.0
// Products of float32 matrices at float32's accuracy on the tensor cores, from three products of float16 parts (split_factors.cuh).
#pragma once
#include "cublas.h"
#include "split_factors.cuh"

namespace mambatune {
namespace cuda {

// Whether split_product() takes it and is faster than cuBLAS: a not transposed, b either way, large sides, alignment to 16 bytes.
bool split_product_fits(const Gemm& g);
Error split_product(const Gemm& g, const char* op);

// The same in steps, where a factor is used more than once.
Error split_left(const Gemm& g, SplitCopy* copy, const char* op);
Error split_right(const Gemm& g, SplitCopy* copy, const char* op);
Error multiply_split(const SplitFactor& a, const SplitFactor& b, const Gemm& g, const char* op);

}  // namespace cuda
}  // namespace mambatune
