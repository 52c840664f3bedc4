// SPDX-License-Identifier: Apache-2.0
// What the kernels of low_rank.cu, low_rank_sum.cu and adapter_gradients.cu share.
#pragma once
#include <type_traits>

#include "dropout.cuh"
#include "launch.cuh"

namespace mambatune {
namespace cuda {

constexpr int kChunk = 8;       // of the rank
constexpr int kPartLanes = 4;   // parts added side by side

// Four neighbouring elements of a row; beyond the row's end zero.
template <bool Vector>
__device__ __forceinline__ float4 load_quad(const float* row, int64_t col, int64_t cols) {
  if constexpr (Vector) return *reinterpret_cast<const float4*>(row + col);
  return make_float4(row[col], col + 1 < cols ? row[col + 1] : 0.0f, col + 2 < cols ? row[col + 2] : 0.0f,
                     col + 3 < cols ? row[col + 3] : 0.0f);
}

__device__ __forceinline__ void add_scaled(float4& sum, float scale, float4 x) {
  sum.x = fmaf(scale, x.x, sum.x);
  sum.y = fmaf(scale, x.y, sum.y);
  sum.z = fmaf(scale, x.z, sum.z);
  sum.w = fmaf(scale, x.w, sum.w);
}

// sums[k] += factors[k] * x
__device__ __forceinline__ void add_row(float4 (&sums)[kChunk], const float* factors, float4 x) {
  const float4 low = reinterpret_cast<const float4*>(factors)[0], high = reinterpret_cast<const float4*>(factors)[1];
  add_scaled(sums[0], low.x, x);
  add_scaled(sums[1], low.y, x);
  add_scaled(sums[2], low.z, x);
  add_scaled(sums[3], low.w, x);
  add_scaled(sums[4], high.x, x);
  add_scaled(sums[5], high.y, x);
  add_scaled(sums[6], high.z, x);
  add_scaled(sums[7], high.w, x);
}

__device__ __forceinline__ float add_dot(float sum, float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Every lane comes with 2 * Half partial sums and leaves with the total of the one of its number.
template <int Half>
__device__ __forceinline__ float transposing_sum(float* sums) {
  const bool upper = threadIdx.x & Half;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const float sent = upper ? sums[i] : sums[i + Half];
    const float kept = upper ? sums[i + Half] : sums[i];
    sums[i] = kept + __shfl_xor_sync(0xffffffffu, sent, Half);
  }
  if constexpr (Half > 1) return transposing_sum<Half / 2>(sums);
  return sums[0];
}

// sum over i of parts[i * size] for this thread's element, by kPartLanes rows of the block.
__device__ __forceinline__ float add_parts(const float* parts, int64_t count, int64_t size, bool live) {
  __shared__ float sums[kPartLanes][kThreads / kPartLanes];
  const int place = threadIdx.x % (kThreads / kPartLanes), lane = threadIdx.x / (kThreads / kPartLanes);
  float sum = 0.0f;
  if (live) {
#pragma unroll 8
    for (int64_t i = lane; i < count; i += kPartLanes) sum += parts[i * size];
  }
  sums[lane][place] = sum;
  __syncthreads();
  sum = sums[0][place];
#pragma unroll
  for (int i = 1; i < kPartLanes; ++i) sum += sums[i][place];
  return sum;
}

template <bool Vector>
__device__ __forceinline__ float4 dropout_quad(const Dropout& dropout, int64_t row, int64_t col) {
  const int64_t element = row * dropout.cols + col;
  if constexpr (Vector) return dropout.factors(element);
  return dropout.factors_from(element);
}

__device__ __forceinline__ float4 multiply(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

// Calls with the flags as types.
template <class Use, class... Types>
void with_flags(Use use, Types... types) {
  use(types...);
}
template <class Use, class... Rest>
void with_flags(Use use, bool flag, Rest... rest) {
  const auto prepend = [&](auto first) { with_flags([&](auto... others) { use(first, others...); }, rest...); };
  flag ? prepend(std::true_type()) : prepend(std::false_type());
}

inline bool is_vector(int64_t cols, int64_t row_stride, const void* x) { return cols % 4 == 0 && row_stride % 4 == 0 && aligned_to(x, 16); }

}  // namespace cuda
}  // namespace mambatune
