// SPDX-License-Identifier: Apache-2.0
// Launches of kernels that walk a range of elements with a fixed number of threads.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int kThreads = 256;

// Blocks for `count` threads' work; a kernel steps by index_step() where there is more.
inline unsigned blocks_for(int64_t count) {
  constexpr int64_t kMostBlocks = 1 << 16;
  const int64_t blocks = ceil_div(count, kThreads);
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

__device__ __forceinline__ int64_t first_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t index_step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace cuda
}  // namespace mambatune
