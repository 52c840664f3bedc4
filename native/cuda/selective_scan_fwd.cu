// SPDX-License-Identifier: Apache-2.0
// Selective scan, forward. Per tile of 32 steps a block first works on elements (softplus of delta, delta u; one exponential
// each, done once), then runs the recurrence with a channel's states spread over 4 or more threads, y summed by shuffles
// 16 steps at a time, then gates and writes rows. u, delta and z of the next tile are in registers, and its B and C on
// their way to shared memory, while the recurrence runs. The states before each tile are the checkpoints.
//
// Count at 8 x 1536 x 1024, d_state 16, all options: u, delta, z, out 201 MB, checkpoints 25 MB: 53 us at 4.3 TB/s. 201 M
// state exponentials and 4 per element: 60 us at 16 a clock, 132 multiprocessors, 1.98 GHz; 27 instructions a step of 4
// states in the recurrence and 16 outside: 68 us of issue slots. 384 blocks, three a multiprocessor. Predicted: 85 to 100 us.
#include "selective_scan_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kStepLanes = 16;   // threads of a channel in the single-step kernel
constexpr int kRound = 16;       // steps whose y are summed side by side
constexpr int64_t kEnoughWarps = kVeryFewWarps;  // below this, cutting time pays for evaluating the exponentials twice

template <class Config>
struct ForwardMemory {
  static constexpr int kYStride = Config::kChannels + 8;  // lanes of a channel write four steps without bank conflicts
  static constexpr int kRows = kScanTile * Config::kStored;
  float B[2][kRows], C[2][kRows];
  float2 steps[kScanTile * Config::kChannels];  // delta', delta' u
  float y[kScanTile * kYStride];
  int resets[kScanTile];
};

// Sums y of four steps over the lanes of a channel; the thread is left with the sum of step 2 (lane & 1) + (lane >> 1 & 1).
template <int Lanes>
__device__ __forceinline__ float sum_four_steps(const float (&y)[4], int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  const float first = (odd ? y[2] : y[0]) + __shfl_xor_sync(0xffffffffu, odd ? y[0] : y[2], 1);
  const float second = (odd ? y[3] : y[1]) + __shfl_xor_sync(0xffffffffu, odd ? y[1] : y[3], 1);
  float sum = (upper ? second : first) + __shfl_xor_sync(0xffffffffu, upper ? first : second, 2);
#pragma unroll
  for (int mask = 4; mask < Lanes; mask *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  return sum;
}

template <class Config, bool Resets>
__global__ void __launch_bounds__(Config::kThreads, 4)
    scan_forward_kernel(const __grid_constant__ SelectiveScanFwdParams p, const TimeSplit split) {
  constexpr int kElements = Config::kElements, kStates = Config::kStates, kStored = Config::kStored;
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<ForwardMemory<Config>*>(raw_memory);
  const ScanPlace<Config> place(p, split.chunks);
  let_next_start();
  const float bias = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;
  const float skip = p.D && place.staged_live ? p.D[place.staged_channel] : 0.0f;

  const int64_t state_row = (place.batch * p.d_inner + place.channel) * p.d_state;
  float A[kStates], h[kStates];
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = place.lane * kStates + j;
    const bool exists = place.live && n < p.d_state;
    A[j] = exists ? p.A[place.channel * p.d_state + n] * kLog2E : 0.0f;
    if (split.starts) {
      h[j] = place.live ? split.starts[((place.batch * split.chunks + place.chunk) * p.d_inner + place.channel) * kStored + n] : 0.0f;
    } else {
      h[j] = exists && p.h0 ? p.h0[state_row + n] : 0.0f;
    }
  }

  const bool quads = rows_are_quads<Config>(p);
  float u[kElements], raw[kElements], z[kElements] = {};
  const auto fetch_tile = [&](int tile) {
    const int64_t first = static_cast<int64_t>(tile) * kScanTile;
    const int steps = static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first)), left = place.left(first, p.seqlen);
    const int64_t row = place.first_row + first;
    stage_rows_async<Config>(memory.B[tile & 1], p.B + row * p.B_row_stride, p.B_row_stride, steps, p.d_state, quads);
    stage_rows_async<Config>(memory.C[tile & 1], p.C + row * p.C_row_stride, p.C_row_stride, steps, p.d_state, quads);
    __pipeline_commit();
    fetch<Config>(u, p.u + place.offset(first, p.u_row_stride), p.u_row_stride, left);
    fetch<Config>(raw, p.delta + place.offset(first, p.delta_row_stride), p.delta_row_stride, left);
    if (p.z) fetch<Config>(z, p.z + place.offset(first, p.z_row_stride), p.z_row_stride, left);
  };
  const int first_tile = static_cast<int>(place.chunk) * split.chunk_tiles;
  const int end_tile = min(first_tile + split.chunk_tiles, split.tiles);
  fetch_tile(first_tile);
  for (int tile = first_tile; tile < end_tile; ++tile) {
    const int64_t first = static_cast<int64_t>(tile) * kScanTile;
    if (tile > 0 && p.checkpoints && place.live) {
      store_vector(p.checkpoints + checkpoint_offset(place.batch, tile, place.channel, split.tiles, p.d_inner, kStored) +
                       place.lane * kStates,
                   h);
    }
    float sizes[kElements], skipped[kElements], gate[kElements];
    const int left = place.left(first, p.seqlen);
#pragma unroll
    for (int e = 0; e < kElements; ++e) raw[e] += bias;
    step_sizes(sizes, raw, p.delta_softplus);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float delta = e * Config::kRowStep < left ? sizes[e] : 0.0f;
      memory.steps[(place.staged_row + e * Config::kRowStep) * Config::kChannels + place.staged_local] =
          make_float2(delta, delta * u[e]);
      skipped[e] = skip * u[e];
      const float silu = z[e] * sigmoid(z[e]);
      gate[e] = p.z ? silu : 1.0f;
    }
    if constexpr (Resets) stage_resets(memory.resets, p.seq_idx, place.first_row, first, p.seqlen);
    __pipeline_wait_prior(0);
    __syncthreads();
    if (tile + 1 < end_tile) fetch_tile(tile + 1);

    const float *B_tile = memory.B[tile & 1] + place.lane * kStates, *C_tile = memory.C[tile & 1] + place.lane * kStates;
    // All loads and shuffles of a round come before its first store: no load passes a store.
    const int rounds = (static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first)) + kRound - 1) / kRound;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      float y[kRound / 4][4];
#pragma unroll
      for (int i = 0; i < kRound; ++i) {
        const int t = round * kRound + i;
        const float2 step = memory.steps[t * Config::kChannels + place.local];
        float B[kStates], C[kStates], sum = 0.0f;
        load_vector(B, B_tile + t * kStored);
        load_vector(C, C_tile + t * kStored);
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          if (Resets && memory.resets[t]) h[j] = 0.0f;
          h[j] = fmaf(exp2_fast(step.x * A[j]), h[j], step.y * B[j]);
          sum = fmaf(C[j], h[j], sum);
        }
        y[i / 4][i % 4] = sum;
      }
      float sums[kRound / 4];
#pragma unroll
      for (int group = 0; group < kRound / 4; ++group) sums[group] = sum_four_steps<Config::kLanes>(y[group], place.lane);
      const int t = round * kRound + 2 * (place.lane & 1) + (place.lane >> 1 & 1);
#pragma unroll
      for (int group = 0; group < kRound / 4; ++group) {
        if (place.lane < 4) memory.y[(t + group * 4) * ForwardMemory<Config>::kYStride + place.local] = sums[group];
      }
    }
    __syncthreads();
    float* out = p.out + place.offset(first, p.d_inner);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float y = memory.y[(place.staged_row + e * Config::kRowStep) * ForwardMemory<Config>::kYStride + place.staged_local];
      if (e * Config::kRowStep < left) *out = (y + skipped[e]) * gate[e];
      out += Config::kRowStep * p.d_inner;
    }
  }
  if (!p.last_state || end_tile != split.tiles || !place.live) return;
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = place.lane * kStates + j;
    if (n < p.d_state) p.last_state[state_row + n] = h[j];
  }
}

// seqlen 1, as in generation: 16 threads walk the states of one channel as they lie in memory.
__global__ void __launch_bounds__(256) scan_step_kernel(const __grid_constant__ SelectiveScanFwdParams p, const int64_t count) {
  let_next_start();
  wait_for_previous();
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kStepLanes;
  const int lane = threadIdx.x % kStepLanes;
  const bool live = index < count;
  const int64_t batch = live ? index / p.d_inner : 0, channel = live ? index % p.d_inner : 0;
  const float raw = p.delta[batch * p.delta_row_stride + channel] + (p.delta_bias ? p.delta_bias[channel] : 0.0f);
  const float delta = p.delta_softplus ? softplus(raw) : raw;
  const float u = p.u[batch * p.u_row_stride + channel];
  float y = 0.0f;
  for (int64_t n = lane; n < p.d_state && live; n += kStepLanes) {
    const int64_t at = index * p.d_state + n;
    const float decay = exp2_fast(delta * kLog2E * p.A[channel * p.d_state + n]);
    const float h = fmaf(decay, p.h0 ? p.h0[at] : 0.0f, delta * u * p.B[batch * p.B_row_stride + n]);
    y = fmaf(h, p.C[batch * p.C_row_stride + n], y);
    if (p.last_state) p.last_state[at] = h;
  }
#pragma unroll
  for (int mask = 1; mask < kStepLanes; mask *= 2) y += __shfl_xor_sync(0xffffffffu, y, mask);
  if (!live || lane != 0) return;
  if (p.D) y = fmaf(p.D[channel], u, y);
  if (p.z) {
    const float z = p.z[batch * p.z_row_stride + channel];
    y *= z * sigmoid(z);
  }
  p.out[batch * p.d_inner + channel] = y;
}

template <class Config, bool Resets>
Error scan_forward(const SelectiveScanFwdParams& p) {
  const int64_t blocks = p.batch * ceil_div(p.d_inner, Config::kChannels);
  TimeSplit split = split_time(blocks, Config::kThreads / 32, p.seqlen, kEnoughWarps);
  Scratch states;
  MAMBATUNE_TRY((start_chunks<Config, Resets, false>(p, nullptr, p.h0, split, states)));
  constexpr int kBytes = sizeof(ForwardMemory<Config>);
  MAMBATUNE_TRY(describe_error(
      cudaFuncSetAttribute(scan_forward_kernel<Config, Resets>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "selective_scan"));
  // Not early: these blocks are one wave, and those that find room before the kernel ahead has ended would crowd its first idle processors.
  scan_forward_kernel<Config, Resets><<<static_cast<unsigned>(blocks * split.chunks), Config::kThreads, kBytes, stream()>>>(p, split);
  MAMBATUNE_CHECK_LAUNCH("selective_scan");
  return nullptr;
}

}  // namespace

size_t selective_scan_checkpoint_size(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state) {
  const int64_t tiles = ceil_div(seqlen, kScanTile);
  if (tiles < 2) return 0;
  size_t floats = 0;
  with_scan_config(d_state, [&](auto config) -> Error {
    floats = static_cast<size_t>(batch * (tiles - 1) * d_inner * config.kStored);
    return nullptr;
  });
  return floats;
}

Error selective_scan_fwd(const SelectiveScanFwdParams& p) {
  if (p.batch == 0 || p.seqlen == 0 || p.d_inner == 0) return nullptr;
  if (p.seqlen == 1) {
    const int64_t count = p.batch * p.d_inner;
    return launch_early(scan_step_kernel, static_cast<unsigned>(ceil_div(count * kStepLanes, 256)), 256, "selective_scan", p, count);
  }
  return with_scan_config(p, [&](auto config) {
    using Config = decltype(config);
    return p.seq_idx ? scan_forward<Config, true>(p) : scan_forward<Config, false>(p);
  });
}

}  // namespace cuda
}  // namespace mambatune
