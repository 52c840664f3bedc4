// SPDX-License-Identifier: Apache-2.0
// The first kernel of a layer's step. Every block norms the rows for itself, as they come from the second-level cache, leaving the
// factor of each row to the end; a warp owns two rows of in_proj's weight, asked for before the kernel waits for the one that writes
// x. A channel's convolution needs nothing but that channel, so that the warp that has its input also moves its state on.
//
// Bytes: the weight once, 4.7 MB in bfloat16 of a 130m model, 1.6 us at 3.0 TB/s.
#include "few_rows.cuh"
#include "launch.cuh"
#include "mamba_layer_step.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kOwnRows = 2;  // rows of the weight that a warp owns, for which it reads x once
constexpr int kWarps = kThreads / 32;
constexpr int kMostTaps = 8;
static_assert(kWarps == kMostTaps, "the lanes of a row's taps also add its warps' squares");
constexpr size_t kMostShared = 96 << 10;
constexpr const char* kOp = "mamba_layer_step in_proj";

// Where an element's group of four lies in shared memory: vectors of eight, of which each lane reads one, come as 32 first halves and
// 32 second ones, so that a warp's read is in a row.
template <int Width>
__device__ __forceinline__ int place_of(int quad) {
  if constexpr (Width == 4) return 4 * quad;
  return (quad & ~63) * 4 + (quad & 1) * 128 + (quad >> 1 & 31) * 4;
}

__host__ __device__ constexpr int64_t stored_width(int64_t d_model) { return ceil_div(d_model, 256) * 256; }

// Over the kMostTaps lanes of a row.
__device__ __forceinline__ float tap_sum(float x) {
#pragma unroll
  for (int mask = 1; mask < kMostTaps; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// Vectors of each row of the weight on their way.
template <class Element>
constexpr int kAhead = sizeof(Element) == 2 ? 4 : 6;

template <class Element, int Rows>
__global__ void __launch_bounds__(kThreads, Rows > 4 ? 2 : 3)
    in_proj_step_kernel(const __grid_constant__ InProjStep p, const Element* weight) {
  constexpr int kWidth = 16 / sizeof(Element), kStep = 32 * kWidth, kVectors = kAhead<Element>;
  constexpr int kRounds = (kOwnRows * Rows * kMostTaps + 31) / 32;
  extern __shared__ float4 raw_memory[];
  __shared__ float squares[Rows][kWarps], adapted[Rows][kMostStepRank];
  float* stored = reinterpret_cast<float*>(raw_memory);  // [Rows, width]: s times the norm's weight
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int d_model = static_cast<int>(p.d_model), d_inner = static_cast<int>(p.d_inner), d_conv = static_cast<int>(p.d_conv);
  const int rows = static_cast<int>(p.rows), r = static_cast<int>(p.r), width = static_cast<int>(stored_width(p.d_model));
  const int warp_row = (blockIdx.x * kWarps + warp) * kOwnRows, out_rows = 2 * d_inner;
  const Element* own[kOwnRows];
#pragma unroll
  for (int o = 0; o < kOwnRows; ++o) own[o] = weight + static_cast<int64_t>(min(warp_row + o, out_rows - 1)) * d_model;
  uint4 ahead[kOwnRows][kVectors];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int o = 0; o < kOwnRows; ++o) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int col = first + v * kStep;
        ahead[o][v] = col < d_model ? __ldg(reinterpret_cast<const uint4*>(own[o] + col)) : uint4{};
      }
    }
  };
  // A lane has one tap of one channel and row of x, and in each further round the same tap of another.
  const int tap = lane % kMostTaps;
  const auto pair_of = [&](int round) { return lane / kMostTaps + round * (32 / kMostTaps); };
  const auto row_of = [&](int round) { return warp_row + pair_of(round) % kOwnRows; };
  const auto owns = [&](int round) { return pair_of(round) / kOwnRows < rows && row_of(round) < out_rows; };
  const auto past = [&](int round) {
    return p.conv_state + static_cast<int64_t>(pair_of(round) / kOwnRows * (d_conv - 1) + tap) * d_inner + row_of(round);
  };
  const auto has_past = [&](int round) { return owns(round) && row_of(round) < d_inner && tap + 1 < d_conv; };
  if (p.frozen) fetch(lane * kWidth);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (has_past(round)) prefetch_to_l2(past(round));
  }
  let_next_start();
  wait_for_previous();
  if (!p.frozen) fetch(lane * kWidth);
  float input[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) input[round] = has_past(round) ? *past(round) : 0.0f;
  // The rounds of a lane have the same channel.
  static_assert(32 / kMostTaps % kOwnRows == 0, "");
  const int row = row_of(0);
  const bool live = row < out_rows, convolves = row < d_inner;
  const float tap_weight = convolves && tap < d_conv ? p.conv_weight[row * d_conv + tap] : 0.0f;

#pragma unroll
  for (int i = 0; i < Rows; ++i) {
    float sum = 0.0f;
#pragma unroll 1
    for (int col = threadIdx.x * 4; col < d_model && i < rows; col += kThreads * 4) {
      const int at = i * d_model + col;
      float4 s = *reinterpret_cast<const float4*>(p.x + at);
      const float4 w = *reinterpret_cast<const float4*>(p.norm + col);
      if (p.residual) {
        const float4 residual = *reinterpret_cast<const float4*>(p.residual + at);
        s.x += residual.x, s.y += residual.y, s.z += residual.z, s.w += residual.w;
        if (blockIdx.x == 0) *reinterpret_cast<float4*>(p.residual_out + at) = s;
      }
      sum = fmaf(s.w, s.w, fmaf(s.z, s.z, fmaf(s.y, s.y, fmaf(s.x, s.x, sum))));
      s.x *= w.x, s.y *= w.y, s.z *= w.z, s.w *= w.w;
      *reinterpret_cast<float4*>(stored + i * width + place_of<kWidth>(col / 4)) = s;
    }
    sum = warp_sum(sum);
    if (lane == 0) squares[i][warp] = sum;
  }
  __syncthreads();
  for (int task = warp; task < r * rows; task += kWarps) {
    const int k = task % r, i = task / r;
    float sum = 0.0f;
#pragma unroll 2
    for (int col = lane * 4; col < d_model; col += 128) {
      const float4 a = *reinterpret_cast<const float4*>(p.lora_A + k * d_model + col);
      const float4 s = *reinterpret_cast<const float4*>(stored + i * width + place_of<kWidth>(col / 4));
      sum = fmaf(s.w, a.w, fmaf(s.z, a.z, fmaf(s.y, a.y, fmaf(s.x, a.x, sum))));
    }
    sum = warp_sum(sum);
    if (lane == 0) adapted[i][k] = p.scaling * sum;
  }
  if (r > 0) __syncthreads();

  float sums[kOwnRows][Rows] = {};
  if (lane < r) {
#pragma unroll
    for (int o = 0; o < kOwnRows; ++o) {
      const float b = p.lora_B[min(warp_row + o, out_rows - 1) * r + lane];
#pragma unroll
      for (int i = 0; i < Rows; ++i) sums[o][i] = i < rows ? adapted[i][lane] * b : 0.0f;
    }
  }
#pragma unroll 1
  for (int first = lane * kWidth; first < d_model; first += kVectors * kStep) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int col = first + v * kStep;
      if (col >= d_model) break;
      float w[kOwnRows][kWidth];
#pragma unroll
      for (int o = 0; o < kOwnRows; ++o) widen(w[o], ahead[o][v]);
#pragma unroll
      for (int i = 0; i < Rows; ++i) {
#pragma unroll
        for (int j = 0; j < kWidth; j += 4) {
          const int at = (i < rows ? i : 0) * width + place_of<kWidth>(col / 4 + j / 4);
          const float4 quad = *reinterpret_cast<const float4*>(stored + at);
#pragma unroll
          for (int o = 0; o < kOwnRows; ++o) {
            sums[o][i] = fmaf(quad.x, w[o][j], sums[o][i]);
            sums[o][i] = fmaf(quad.y, w[o][j + 1], sums[o][i]);
            sums[o][i] = fmaf(quad.z, w[o][j + 2], sums[o][i]);
            sums[o][i] = fmaf(quad.w, w[o][j + 3], sums[o][i]);
          }
        }
      }
    }
    if (first + kVectors * kStep < d_model) fetch(first + kVectors * kStep);
  }
#pragma unroll
  for (int o = 0; o < kOwnRows; ++o) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) sums[o][i] = warp_sum(sums[o][i]);
  }
  const float bias = p.bias && live ? p.bias[row] : 0.0f, conv_bias = p.conv_bias && convolves ? p.conv_bias[row] : 0.0f;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int pair = pair_of(round), i = pair / kOwnRows;
    const bool own_pair = owns(round);
    float mine = 0.0f;
#pragma unroll
    for (int j = 0; j < kOwnRows * Rows; ++j) mine = j == pair ? sums[j % kOwnRows][j / kOwnRows] : mine;
    const float square = tap_sum(own_pair ? squares[i][tap] : 0.0f);
    mine = fmaf(mine, 1.0f / sqrtf(square / static_cast<float>(d_model) + p.eps), bias);
    if (tap + 1 == d_conv) input[round] = mine;
    const float pre = tap_sum(input[round] * tap_weight) + conv_bias;
    if (!own_pair) continue;
    if (convolves && tap > 0 && tap < d_conv) p.conv_state[static_cast<int64_t>(i * (d_conv - 1) + tap - 1) * d_inner + row] = input[round];
    if (tap > 0) continue;
    if (convolves) {
      p.u[i * d_inner + row] = pre * sigmoid(pre);
    } else {
      p.z[i * d_inner + row - d_inner] = mine;
    }
  }
}

size_t shared_bytes(int64_t rows, int64_t d_model) { return static_cast<size_t>(rows * stored_width(d_model)) * sizeof(float); }

template <class Element, int Rows>
Error launch(const InProjStep& p, const Element* weight) {
  const auto kernel = in_proj_step_kernel<Element, Rows>;
  const size_t bytes = shared_bytes(Rows, p.d_model);
  constexpr size_t kWithoutAsking = 32 << 10;
  if (bytes > kWithoutAsking) {
    MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), kOp));
  }
  return launch_early_with_memory(kernel, static_cast<unsigned>(ceil_div(2 * p.d_inner, kWarps * kOwnRows)), kThreads, bytes, kOp, p, weight);
}

template <class Element>
Error launch(const InProjStep& p, const Element* weight) {
  if (p.rows == 1) return launch<Element, 1>(p, weight);
  if (p.rows == 2) return launch<Element, 2>(p, weight);
  if (p.rows <= 4) return launch<Element, 4>(p, weight);
  return launch<Element, 8>(p, weight);
}

}  // namespace

bool in_proj_step_fits(const InProjStep& p) {
  const void* weight = p.half ? static_cast<const void*>(p.half) : p.W;
  bool aligned = true;
  for (const void* address : {weight, static_cast<const void*>(p.x), static_cast<const void*>(p.residual), static_cast<const void*>(p.norm),
                              static_cast<const void*>(p.residual_out), static_cast<const void*>(p.lora_A)}) {
    aligned = aligned && aligned_to(address, 16);
  }
  const int64_t rows = p.rows > 4 ? kMostFewRows : p.rows > 2 ? 4 : p.rows;
  return aligned && p.rows <= kMostFewRows && p.r <= kMostStepRank && p.d_model % (p.half ? 8 : 4) == 0 &&
         shared_bytes(rows, p.d_model) <= kMostShared;
}

Error in_proj_step(const InProjStep& p) { return p.half ? launch(p, p.half) : launch(p, p.W); }

}  // namespace cuda
}  // namespace mambatune
