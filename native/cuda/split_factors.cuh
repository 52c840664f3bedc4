// SPDX-License-Identifier: Apache-2.0
// Float32 factors of a product as pairs of float16: x 2^e = high + low, with one e for each row or column that is no inner side of the
// product, so that its largest element lies between 2^14 and 2^15. Both parts are rounded to the nearest: eleven bits each, and low's sign.
// Of an element float32's last bit is lost where low needs twelve bits, in one of four; below 2^-17 of its row's largest an element is
// kept to 2^-40 of that. An infinity or a NaN makes everything NaN that its row or column takes part in.
//
// A factor is laid out as a block's shared memory wants it: panels of 64 rows (columns of the product's right factor), of each panel 32
// of the inner side at a time, of each row of these 128 bytes: the high parts of sixteen, their low parts, and those of the other
// sixteen. Eight parts, 16 bytes, are a chunk, and chunk i of row r lies at place i ^ (r % 8), so that eight rows' chunks are in different
// banks. Rows and inner side beyond the factor are zeros.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int kPanelRows = 64;
constexpr int kStepInner = 32;
constexpr int kPanelRowBytes = kStepInner * sizeof(float);
constexpr int kPanelBytes = kPanelRows * kPanelRowBytes;  // of one step of the inner side

struct SplitFactor {
  const char* panels;    // [panels, steps, kPanelBytes]
  const float* largest;  // of each row, its absolute value
  int rows, steps;
};

// A factor's panels and largest elements in scratch memory.
class SplitCopy {
 public:
  // Of [rows, inner], aligned to 16 bytes.
  Error split(const float* from, int64_t from_stride, int64_t rows, int64_t inner, const char* op);
  // Of the transpose of [inner, rows].
  Error split_transposed(const float* from, int64_t from_stride, int64_t rows, int64_t inner, const char* op);
  const SplitFactor& factor() const { return factor_; }

 private:
  Error reserve(int64_t rows, int64_t inner);

  Scratch panels_, largest_;
  SplitFactor factor_ = {};
};

// e for a row whose largest element is given: 0 if that is 0, infinite or NaN. Between -113 and 126, so that 2^e and 2^-e are normal.
__device__ __forceinline__ int split_exponent(float largest) {
  const int biased = static_cast<int>(__float_as_uint(largest) >> 23 & 255);
  return largest == 0.0f || biased == 255 ? 0 : min(14 + 127 - biased, 126);
}

__device__ __forceinline__ float power_of_two(int e) { return __uint_as_float(static_cast<uint32_t>(127 + e) << 23); }

}  // namespace cuda
}  // namespace mambatune
