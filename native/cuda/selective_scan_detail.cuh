// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward scan share: how states spread over threads, how tiles of time are staged in shared
// memory, and the summaries that let several blocks walk one row of time.
//
// A block of 128 threads owns 128 / Lanes neighbouring channels of one batch row; Lanes threads share a channel, States
// states each. Time goes in tiles of 32 steps; a step past the end has delta = 0 and so leaves every state alone. When
// batch and channels give too few blocks, time is cut into chunks of tiles: a summary kernel walks each chunk from zero and
// leaves its end state and its decay, one thread per state joins them in order, and the scan starts every chunk from the
// right state. The reverse recurrence g <- a (g + C dy) has the same form and uses the same kernels.
#pragma once
#include <cuda_pipeline_primitives.h>

#include "../include/selective_scan.h"
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int kScanTile = 32;
constexpr int kScanThreads = 128;
constexpr int kTargetBlocks = 384;      // about three blocks a multiprocessor on the largest cards
constexpr int kMinTilesPerChunk = 4;

template <int TheLanes, int TheStates>
struct ScanConfig {
  static constexpr int kLanes = TheLanes;                            // threads of a channel
  static constexpr int kStates = TheStates;                          // states of a thread
  static constexpr int kStored = kLanes * kStates;                   // d_state rounded up
  static constexpr int kChannels = kScanThreads / kLanes;            // channels of a block
  static constexpr int kElements = kScanTile * kChannels / kScanThreads;  // (time, channel) pairs of a thread in a tile
  static constexpr int kRowStep = kScanThreads / kChannels;          // time steps between two of them
};

// Calls body(ScanConfig<...>{}) for the smallest configuration that holds d_state.
template <class Body>
Error with_scan_config(int64_t d_state, Body body) {
  if (d_state <= 8) return body(ScanConfig<4, 2>{});
  if (d_state <= 16) return body(ScanConfig<4, 4>{});
  if (d_state <= 32) return body(ScanConfig<8, 4>{});
  if (d_state <= 64) return body(ScanConfig<16, 4>{});
  if (d_state <= 128) return body(ScanConfig<32, 4>{});
  if (d_state <= 256) return body(ScanConfig<32, 8>{});
  return "selective_scan: d_state must be at most 256 on CUDA";
}

struct TimeSplit {
  int tiles, chunks, chunk_tiles;  // all of time; how many parts; tiles of a part
  const float* starts;             // [batch, chunks, d_inner, stored]: the state each chunk starts from, when chunks > 1
};

// One chunk when `blocks` blocks per chunk already fill the device.
inline TimeSplit split_time(int64_t blocks, int64_t seqlen, int64_t enough_blocks) {
  TimeSplit split = {static_cast<int>(ceil_div(seqlen, kScanTile)), 1, 0, nullptr};
  if (blocks < enough_blocks) {
    const int64_t wanted = kTargetBlocks / blocks, possible = split.tiles / kMinTilesPerChunk;
    split.chunks = static_cast<int>(wanted < possible ? wanted : possible);
    if (split.chunks < 1) split.chunks = 1;
  }
  split.chunk_tiles = static_cast<int>(ceil_div(split.tiles, split.chunks));
  split.chunks = static_cast<int>(ceil_div(split.tiles, split.chunk_tiles));
  return split;
}

// Where a thread stands: (batch, chunk, channel block) of the grid, its channel and lane in the recurrence, and the column
// of elements that it stages.
template <class Config>
struct ScanPlace {
  int64_t batch, chunk, channel_block, first_row;  // first_row: batch * seqlen
  int lane, local;                                 // lane of the channel; channel in the block
  int64_t channel;
  bool live;
  int staged_local, staged_row;
  int64_t staged_channel;
  bool staged_live;

  __device__ ScanPlace(const SelectiveScanInputs& p, int chunks) {
    const int64_t blocks = ceil_div(p.d_inner, Config::kChannels);
    channel_block = blockIdx.x % blocks;
    chunk = blockIdx.x / blocks % chunks;
    batch = blockIdx.x / blocks / chunks;
    first_row = batch * p.seqlen;
    lane = threadIdx.x % Config::kLanes;
    local = threadIdx.x / Config::kLanes;
    channel = channel_block * Config::kChannels + local;
    live = channel < p.d_inner;
    staged_local = threadIdx.x % Config::kChannels;
    staged_row = threadIdx.x / Config::kChannels;
    staged_channel = channel_block * Config::kChannels + staged_local;
    staged_live = staged_channel < p.d_inner;
  }

  // Whether element e of this thread exists in the tile that starts at time `first`.
  __device__ bool has(int64_t first, int e, int64_t seqlen) const {
    return staged_live && first + staged_row + e * Config::kRowStep < seqlen;
  }
  __device__ int64_t row(int64_t first, int e) const { return first_row + first + staged_row + e * Config::kRowStep; }
};

template <class Config>
__device__ __forceinline__ void fetch(float (&to)[Config::kElements], const float* from, int64_t stride,
                                      const ScanPlace<Config>& place, int64_t first, int64_t seqlen) {
  const float* at = from + place.row(first, 0) * stride + place.staged_channel;
#pragma unroll
  for (int e = 0; e < Config::kElements; ++e) {
    to[e] = place.has(first, e, seqlen) ? at[e * Config::kRowStep * stride] : 0.0f;
  }
}

// Starts copying a tile of B or C, [kScanTile][kStored], zeros where there is nothing.
template <class Config>
__device__ __forceinline__ void stage_rows_async(float* to, const float* from, int64_t stride, int64_t first_row, int64_t steps,
                                                 int64_t d_state) {
  for (int i = threadIdx.x; i < kScanTile * Config::kStored; i += kScanThreads) {
    const int t = i / Config::kStored, n = i % Config::kStored;
    const bool exists = t < steps && n < d_state;
    __pipeline_memcpy_async(to + i, exists ? from + (first_row + t) * stride + n : from, 4, exists ? 0 : 4);
  }
}

// flags[t]: the state before step first + t belongs to another document.
__device__ __forceinline__ void stage_resets(int* flags, const int32_t* seq_idx, int64_t first_row, int64_t first, int64_t seqlen) {
  if (threadIdx.x >= kScanTile) return;
  const int64_t t = first + threadIdx.x;
  flags[threadIdx.x] = t > 0 && t < seqlen && seq_idx[first_row + t] != seq_idx[first_row + t - 1];
}

template <int Count>
__device__ __forceinline__ void load_vector(float (&to)[Count], const float* from) {
  if constexpr (Count == 2) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    to[0] = pair.x, to[1] = pair.y;
  } else {
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
      const float4 quad = *reinterpret_cast<const float4*>(from + i);
      to[i] = quad.x, to[i + 1] = quad.y, to[i + 2] = quad.z, to[i + 3] = quad.w;
    }
  }
}

template <int Count>
__device__ __forceinline__ void store_vector(float* to, const float (&from)[Count]) {
  if constexpr (Count == 2) {
    *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
  } else {
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
      *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    }
  }
}

// log(1 + exp(x)) with the threshold at 20. log(1 + e) = 2 atanh(e / (2 + e)) as a series keeps its relative accuracy for
// small e, where 1 + e would lose it.
__device__ __forceinline__ float softplus(float x) {
  const float e = exp2_fast(-kLog2E * fabsf(x));
  const float s = e * reciprocal(2.0f + e), q = s * s;
  float series = fmaf(q, 2.0f / 13, 2.0f / 11);
  series = fmaf(q, series, 2.0f / 9);
  series = fmaf(q, series, 2.0f / 7);
  series = fmaf(q, series, 2.0f / 5);
  series = fmaf(q, series, 2.0f / 3);
  series = fmaf(q, series, 2.0f);
  return x > 20.0f ? x : fmaf(s, series, fmaxf(x, 0.0f));
}

// The derivative of softplus above.
__device__ __forceinline__ float softplus_slope(float x) { return x > 20.0f ? 1.0f : sigmoid(x); }

template <class Config, bool Resets, bool Reverse>
__global__ void __launch_bounds__(kScanThreads)
    scan_summary_kernel(const __grid_constant__ SelectiveScanInputs p, const float* dout, TimeSplit split, float* states,
                        float* decays) {
  constexpr int kElements = Config::kElements, kStates = Config::kStates;
  extern __shared__ float4 memory[];
  float* rows = reinterpret_cast<float*>(memory);                                // [kScanTile][kStored]: B, or C in reverse
  float2* steps = reinterpret_cast<float2*>(rows + kScanTile * Config::kStored);  // [kScanTile][kChannels]: delta', input
  int* resets = reinterpret_cast<int*>(steps + kScanTile * Config::kChannels);
  const ScanPlace<Config> place(p, split.chunks);
  const float bias = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;

  float A[kStates], state[kStates] = {}, elapsed = 0.0f;
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = place.lane * kStates + j;
    A[j] = place.live && n < p.d_state ? p.A[place.channel * p.d_state + n] * kLog2E : 0.0f;
  }
  bool cut = false;
  const int first_tile = static_cast<int>(place.chunk) * split.chunk_tiles;
  const int count = min(split.chunk_tiles, split.tiles - first_tile);

  float raw[kElements], input[kElements], z[kElements] = {};
  const auto fetch_tile = [&](int index) {
    const int64_t first = static_cast<int64_t>(Reverse ? first_tile + count - 1 - index : first_tile + index) * kScanTile;
    fetch<Config>(raw, p.delta, p.delta_row_stride, place, first, p.seqlen);
    if constexpr (Reverse) {
      fetch<Config>(input, dout, p.d_inner, place, first, p.seqlen);
      if (p.z) fetch<Config>(z, p.z, p.z_row_stride, place, first, p.seqlen);
    } else {
      fetch<Config>(input, p.u, p.u_row_stride, place, first, p.seqlen);
    }
  };
  fetch_tile(0);
  for (int index = 0; index < count; ++index) {
    const int64_t first = static_cast<int64_t>(Reverse ? first_tile + count - 1 - index : first_tile + index) * kScanTile;
    stage_rows_async<Config>(rows, Reverse ? p.C : p.B, Reverse ? p.C_row_stride : p.B_row_stride, place.first_row + first,
                             p.seqlen - first, p.d_state);
    __pipeline_commit();
    if constexpr (Resets) stage_resets(resets, p.seq_idx, place.first_row, first, p.seqlen);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float x = raw[e] + bias;
      const float delta = place.has(first, e, p.seqlen) ? (p.delta_softplus ? softplus(x) : x) : 0.0f;
      const float gate = p.z ? z[e] * sigmoid(z[e]) : 1.0f;
      steps[(place.staged_row + e * Config::kRowStep) * Config::kChannels + place.staged_local] =
          make_float2(delta, input[e] * (Reverse ? gate : delta));
    }
    __pipeline_wait_prior(0);
    __syncthreads();
    if (index + 1 < count) fetch_tile(index + 1);
#pragma unroll 4
    for (int i = 0; i < kScanTile; ++i) {
      const int t = Reverse ? kScanTile - 1 - i : i;
      const float2 step = steps[t * Config::kChannels + place.local];
      float row[kStates];
      load_vector(row, rows + t * Config::kStored + place.lane * kStates);
      elapsed += step.x;
      if (Resets && resets[t]) cut = true;
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        const float decay = exp2_fast(step.x * A[j]);
        if constexpr (Reverse) {
          state[j] = Resets && resets[t] ? 0.0f : decay * fmaf(row[j], step.y, state[j]);
        } else {
          state[j] = Resets && resets[t] ? step.y * row[j] : fmaf(decay, state[j], step.y * row[j]);
        }
      }
    }
    __syncthreads();
  }
  if (!place.live) return;
  float decay[kStates];
#pragma unroll
  for (int j = 0; j < kStates; ++j) decay[j] = cut ? 0.0f : exp2_fast(elapsed * A[j]);
  const int64_t at =
      ((place.batch * split.chunks + place.chunk) * p.d_inner + place.channel) * Config::kStored + place.lane * kStates;
  store_vector(states + at, state);
  store_vector(decays + at, decay);
}

// Turns each chunk's end state into the state it starts from, in place; initial is [batch, d_inner, d_state] or null.
template <bool Reverse>
__global__ void join_chunks_kernel(float* states, const float* decays, const float* initial, int64_t count, int chunks,
                                   int64_t d_inner, int d_state, int stored) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int n = static_cast<int>(i % stored);
  const int64_t channel = i / stored % d_inner, batch = i / stored / d_inner, chunk_states = d_inner * stored;
  float state = initial && n < d_state ? initial[(batch * d_inner + channel) * d_state + n] : 0.0f;
  for (int k = 0; k < chunks; ++k) {
    const int chunk = Reverse ? chunks - 1 - k : k;
    const int64_t at = (batch * chunks + chunk) * chunk_states + channel * stored + n;
    const float end = states[at];
    states[at] = state;
    state = fmaf(decays[at], state, end);
  }
}

// Fills split.starts (memory held by `states`) when time is split.
template <class Config, bool Resets, bool Reverse>
Error start_chunks(const SelectiveScanInputs& p, const float* dout, const float* initial, TimeSplit& split, Scratch& states) {
  if (split.chunks == 1) return nullptr;
  constexpr const char* kOp = Reverse ? "selective_scan backward" : "selective_scan";
  const int64_t count = p.batch * p.d_inner * Config::kStored, floats = count * split.chunks;
  Scratch decays;
  MAMBATUNE_TRY(states.reserve(floats));
  MAMBATUNE_TRY(decays.reserve(floats));
  constexpr int kBytes = kScanTile * (Config::kStored * 4 + Config::kChannels * 8 + 4);
  const int64_t blocks = p.batch * split.chunks * ceil_div(p.d_inner, Config::kChannels);
  scan_summary_kernel<Config, Resets, Reverse>
      <<<static_cast<unsigned>(blocks), kScanThreads, kBytes, stream()>>>(p, dout, split, states.get(), decays.get());
  MAMBATUNE_CHECK_LAUNCH(kOp);
  join_chunks_kernel<Reverse><<<static_cast<unsigned>(ceil_div(count, 256)), 256, 0, stream()>>>(
      states.get(), decays.get(), initial, count, split.chunks, p.d_inner, static_cast<int>(p.d_state), Config::kStored);
  MAMBATUNE_CHECK_LAUNCH(kOp);
  split.starts = states.get();
  return nullptr;
}

// The state before tile `tile` > 0 of a channel: [batch, tiles - 1, d_inner, stored].
__host__ __device__ inline int64_t checkpoint_offset(int64_t batch, int64_t tile, int64_t channel, int64_t tiles, int64_t d_inner,
                                                     int stored) {
  return ((batch * (tiles - 1) + tile - 1) * d_inner + channel) * stored;
}

}  // namespace cuda
}  // namespace mambatune
