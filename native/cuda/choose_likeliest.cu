// SPDX-License-Identifier: Apache-2.0
// Greedy choice, one block a row: 201 KB of logits from the second-level cache.
#include "launch.cuh"
#include "ops.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kRowThreads = 1024;
constexpr int kRowWarps = kRowThreads / 32;
constexpr uint64_t kNotANumber = ~uint64_t{0};

// Larger for larger logits, then for lower positions; largest for NaN.
__device__ __forceinline__ uint64_t rank_of(float logit, int64_t position) {
  if (logit != logit) return kNotANumber;
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // of both zeros the same
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(position);
}

__device__ __forceinline__ uint64_t warp_largest(uint64_t rank) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, rank, mask);
    rank = other > rank ? other : rank;
  }
  return rank;
}

__global__ void __launch_bounds__(kRowThreads) choose_likeliest_kernel(const ChooseLikeliestParams p) {
  __shared__ uint64_t parts[kRowWarps];
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const float* logits = p.logits + row * p.cols;
  uint64_t best = 0;
  const auto take = [&](float logit, int64_t position) {
    const uint64_t rank = rank_of(logit, position);
    best = rank > best ? rank : best;
  };
  const int64_t quads = p.cols % 4 == 0 ? p.cols / 4 : 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < quads; i += kRowThreads) {
    const float4 quad = reinterpret_cast<const float4*>(logits)[i];
    take(quad.x, 4 * i), take(quad.y, 4 * i + 1), take(quad.z, 4 * i + 2), take(quad.w, 4 * i + 3);
  }
  for (int64_t i = 4 * quads + threadIdx.x; i < p.cols; i += kRowThreads) take(logits[i], i);
  best = warp_largest(best);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = warp_largest(parts[threadIdx.x]);
  if (threadIdx.x > 0) return;
  const bool chosen = best != kNotANumber && best >> 32 > rank_of(-INFINITY, 0) >> 32;
  const int32_t choice = chosen ? static_cast<int32_t>(~static_cast<uint32_t>(best)) : -1;
  const uint32_t count = static_cast<uint32_t>(p.counts[row]);
  p.tokens[row] = chosen ? choice : 0;
  p.choices[count % p.slots * p.rows + row] = choice;
  p.counts[row] = static_cast<int32_t>(count + 1);
}

}  // namespace

Error choose_likeliest(const ChooseLikeliestParams& p) {
  if (p.rows == 0) return nullptr;
  return launch_early(choose_likeliest_kernel, static_cast<unsigned>(p.rows), kRowThreads, "choose_likeliest", p);
}

}  // namespace cuda
}  // namespace mambatune
