// SPDX-License-Identifier: Apache-2.0
// Greedy choice: blocks take the largest of parts of a row, then a warp that of the parts.
#include "launch.cuh"
#include "ops.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kPart = 8 * kThreads;  // logits of a block
constexpr const char* kOp = "choose_likeliest";
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

// ranks: [rows, parts]
__global__ void __launch_bounds__(kThreads) rank_parts_kernel(const ChooseLikeliestParams p, int64_t parts, uint64_t* ranks) {
  __shared__ uint64_t of_warps[kThreads / 32];
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x / parts, begin = blockIdx.x % parts * kPart, end = min(begin + kPart, p.cols);
  const float* logits = p.logits + row * p.cols;
  uint64_t best = 0;
  const auto take = [&](float logit, int64_t position) {
    const uint64_t rank = rank_of(logit, position);
    best = rank > best ? rank : best;
  };
  if (p.cols % 4 == 0) {
#pragma unroll 2
    for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kThreads) {
      const float4 four = *reinterpret_cast<const float4*>(logits + i);
      take(four.x, i), take(four.y, i + 1), take(four.z, i + 2), take(four.w, i + 3);
    }
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) take(logits[i], i);
  }
  best = warp_largest(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) best = of_warps[i] > best ? of_warps[i] : best;
  ranks[blockIdx.x] = best;
}

// A warp a row.
__global__ void __launch_bounds__(32) choose_kernel(const ChooseLikeliestParams p, int64_t parts, const uint64_t* ranks) {
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const uint32_t count = static_cast<uint32_t>(p.counts[row]);
  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < parts; i += 32) best = ranks[row * parts + i] > best ? ranks[row * parts + i] : best;
  best = warp_largest(best);
  if (threadIdx.x > 0) return;
  const bool chosen = best != kNotANumber && best >> 32 > rank_of(-INFINITY, 0) >> 32;
  const int32_t choice = chosen ? static_cast<int32_t>(~static_cast<uint32_t>(best)) : -1;
  p.tokens[row] = chosen ? choice : 0;
  p.choices[count % p.slots * p.rows + row] = choice;
  p.counts[row] = static_cast<int32_t>(count + 1);
}

}  // namespace

Error choose_likeliest(const ChooseLikeliestParams& p) {
  if (p.rows == 0) return nullptr;
  const int64_t parts = p.cols > 0 ? ceil_div(p.cols, kPart) : 1;
  Scratch ranks;
  MAMBATUNE_TRY(ranks.reserve(2 * p.rows * parts));
  uint64_t* memory = reinterpret_cast<uint64_t*>(ranks.get());
  MAMBATUNE_TRY(launch_early(rank_parts_kernel, static_cast<unsigned>(p.rows * parts), kThreads, kOp, p, parts, memory));
  return launch_early(choose_kernel, static_cast<unsigned>(p.rows), 32, kOp, p, parts, memory);
}

}  // namespace cuda
}  // namespace mambatune
