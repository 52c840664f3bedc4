// SPDX-License-Identifier: Apache-2.0
// Products of a few rows with a weight, as single tokens need: bound by reading the weight once.
#pragma once
#include <cuda_bf16.h>

#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int64_t kMostFewRows = 8;

// y = x W^T + bias + scale * xa B^T; sums in float32. W: [out, in] in float32, or in bfloat16 where `half` is given; x: [rows, in],
// y: [rows, out] and xa: [rows, r] with row strides; B: [out, r], r may be 0; bias: [out] or null.
struct FewRows {
  int64_t rows, out, in;
  const float* x;
  int64_t x_row_stride;
  const float* W;
  const __nv_bfloat16* half;
  const float* bias;
  int64_t r;
  const float* xa;
  int64_t xa_row_stride;
  const float* B;
  float scale;
  float* y;
  int64_t y_row_stride;
  bool frozen;  // the kernel just before this one does not write W
};

// Sixteen bytes of a weight as floats.
__device__ __forceinline__ void widen(float (&to)[4], const uint4& bits) {
  to[0] = __uint_as_float(bits.x), to[1] = __uint_as_float(bits.y), to[2] = __uint_as_float(bits.z), to[3] = __uint_as_float(bits.w);
}
__device__ __forceinline__ void widen(float (&to)[8], const uint4& bits) {
  const unsigned pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

// Whether the kernel takes these rows and this alignment.
bool few_rows_fit(const FewRows& p);
Error few_rows_linear(const FewRows& p, const char* op);

}  // namespace cuda
}  // namespace mambatune
