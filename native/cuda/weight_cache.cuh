// SPDX-License-Identifier: Apache-2.0
// Conversion to bfloat16, and the copies of frozen weights that are kept in it.
#pragma once
#include <cuda_bf16.h>

#include "common.cuh"

namespace mambatune {
namespace cuda {

// to[rows, to_stride] = from[rows, cols], the columns from `cols` on zero.
Error to_bfloat16(const float* from, int64_t from_stride, int64_t rows, int64_t cols, __nv_bfloat16* to, int64_t to_stride);

// The weight in bfloat16: the copy in its cache, made on first use, or one in scratch memory that `owner` keeps: of a weight
// that may change, or while a graph is recorded (the conversion would not have run when the cache is next used).
Error bfloat16_weight(const Weight& W, Scratch* owner, const __nv_bfloat16** copy);

void free_weight_cache(WeightCache* cache);

}  // namespace cuda
}  // namespace mambatune
