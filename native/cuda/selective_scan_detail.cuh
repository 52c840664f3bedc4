// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward scan share: how states spread over threads, how tiles of time are staged in shared
// memory, and the summaries that let several blocks walk one row of time.
//
// A block of Threads threads owns Threads / Lanes neighbouring channels of one batch row; Lanes threads share a channel, States
// states each. Time goes in tiles of 32 steps; a step past the end has delta = 0 and so leaves every state alone. When
// batch and channels give too few blocks, time is cut into chunks of tiles: a summary kernel walks parts of each chunk from
// zero and leaves their end states and decays, one thread per state joins them in order, and the scan starts every chunk from the
// right state. The reverse recurrence g <- a (g + C dy) has the same form and uses the same kernels.
#pragma once
#include <cuda_pipeline_primitives.h>


#include "../include/selective_scan.h"
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int kScanTile = 32;
constexpr int kTargetWarps = 1536;      // about three a scheduler on the largest cards
constexpr int kMinTilesPerChunk = 4;
constexpr int kSummaryParts = 4;        // of a chunk: the summaries are short, and more of them hide each other's waiting
constexpr int64_t kVeryFewWarps = 400, kFewWarps = 800;  // between them, twice as many with half the states each are faster

template <int TheLanes, int TheStates, int TheThreads = 128>
struct ScanConfig {
  static constexpr int kThreads = TheThreads;                        // of a block
  static constexpr int kLanes = TheLanes;                            // threads of a channel
  static constexpr int kStates = TheStates;                          // states of a thread
  static constexpr int kStored = kLanes * kStates;                   // d_state rounded up
  static constexpr int kChannels = kThreads / kLanes;                // channels of a block
  static constexpr int kElements = kScanTile * kChannels / kThreads;  // (time, channel) pairs of a thread in a tile
  static constexpr int kRowStep = kThreads / kChannels;              // time steps between two of them
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

// The same for a whole call. Where batch and channels give few warps, but not so few that time must be cut, eight threads share a
// channel's 16 states instead of four. Checkpoints are the same in both.
template <class Body>
Error with_scan_config(const SelectiveScanInputs& p, Body body) {
  using Narrow = ScanConfig<4, 4>;
  const int64_t warps = p.batch * ceil_div(p.d_inner, Narrow::kChannels) * (Narrow::kThreads / 32);
  if (p.d_state > 8 && p.d_state <= Narrow::kStored && warps >= kVeryFewWarps && warps < kFewWarps) return body(ScanConfig<8, 2>{});
  return with_scan_config(p.d_state, body);
}

struct TimeSplit {
  int tiles, chunks, chunk_tiles;  // all of time; how many parts; tiles of a part
  const float* starts;             // [batch, chunks, d_inner, stored]: the state each chunk starts from, when chunks > 1
};

// One chunk when `blocks` blocks per chunk, of `warps` warps each, already fill the device.
inline TimeSplit split_time(int64_t blocks, int warps, int64_t seqlen, int64_t enough_warps) {
  TimeSplit split = {static_cast<int>(ceil_div(seqlen, kScanTile)), 1, 0, nullptr};
  if (blocks * warps < enough_warps) {
    const int64_t wanted = kTargetWarps / (blocks * warps), possible = split.tiles / kMinTilesPerChunk;
    split.chunks = static_cast<int>(wanted < possible ? wanted : possible);
    if (split.chunks < 1) split.chunks = 1;
  }
  split.chunk_tiles = static_cast<int>(ceil_div(split.tiles, split.chunks));
  if (split.chunks > 1) split.chunk_tiles = static_cast<int>(ceil_div(split.chunk_tiles, kSummaryParts) * kSummaryParts);
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

  // Of the tile that starts at time `first`: element e of this thread exists when e * kRowStep < left.
  __device__ int left(int64_t first, int64_t seqlen) const {
    const int64_t rows = min(seqlen - first, static_cast<int64_t>(kScanTile)) - staged_row;
    return staged_live ? static_cast<int>(rows) : 0;
  }
  // Where element 0 of that tile lies.
  __device__ int64_t offset(int64_t first, int64_t stride) const {
    return (first_row + first + staged_row) * stride + staged_channel;
  }
};

template <class Config>
__device__ __forceinline__ void fetch(float (&to)[Config::kElements], const float* at, int64_t stride, int left) {
#pragma unroll
  for (int e = 0; e < Config::kElements; ++e) {
    to[e] = 0.0f;
    if (e * Config::kRowStep < left) to[e] = *at;
    at += Config::kRowStep * stride;
  }
}

// Whether B and C can be read four states at a time.
template <class Config>
__device__ __forceinline__ bool rows_are_quads(const SelectiveScanInputs& p) {
  const auto bits = reinterpret_cast<uintptr_t>(p.B) | reinterpret_cast<uintptr_t>(p.C) |
                    static_cast<uintptr_t>(p.B_row_stride * 4) | static_cast<uintptr_t>(p.C_row_stride * 4);
  return bits % 16 == 0 && p.d_state == Config::kStored;
}

// Shares a tile of B or C among the threads, Width states each: body(step, first state, its address, whether it exists).
template <class Config, int Width, class Body>
__device__ __forceinline__ void for_each_row_part(const float* tile, int64_t stride, int steps, int64_t d_state, Body body) {
  constexpr int kUnits = Config::kStored / Width;
  constexpr int kColumns = kUnits < Config::kThreads ? kUnits : Config::kThreads;
  constexpr int kRows = Config::kThreads / kColumns;
  const int first = threadIdx.x / kColumns;
  if (kRows > kScanTile && first >= kScanTile) return;
#pragma unroll
  for (int unit = threadIdx.x % kColumns; unit < kUnits; unit += kColumns) {
    const int n = unit * Width;
    const float* at = tile + first * stride + n;
    const int left = n < d_state ? steps - first : 0;
#pragma unroll 8
    for (int t = 0; t < kScanTile; t += kRows) {
      body(first + t, n, at, t < left);
      at += kRows * stride;
    }
  }
}

// Starts copying a tile of B or C to [kScanTile][kStored], zeros where there is nothing.
template <class Config, int Width>
__device__ __forceinline__ void copy_rows_async(float* to, const float* tile, int64_t stride, int steps, int64_t d_state) {
  for_each_row_part<Config, Width>(tile, stride, steps, d_state, [&](int t, int n, const float* at, bool exists) {
    __pipeline_memcpy_async(to + t * Config::kStored + n, exists ? at : tile, 4 * Width, exists ? 0 : 4 * Width);
  });
}

template <class Config>
__device__ __forceinline__ void stage_rows_async(float* to, const float* tile, int64_t stride, int steps, int64_t d_state, bool quads) {
  if (quads) {
    copy_rows_async<Config, 4>(to, tile, stride, steps, d_state);
  } else {
    copy_rows_async<Config, 1>(to, tile, stride, steps, d_state);
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

// log(1 + exp(x)) with e = exp(-|x|); from x = 20 on float32 makes it x by itself. log(1 + e) = 2 atanh(e / (2 + e)) as a series keeps
// its relative accuracy for small e, where 1 + e would lose it.
__device__ __forceinline__ float softplus_of(float x, float e) {
  const float s = e * reciprocal(2.0f + e), q = s * s;
  float series = fmaf(q, 2.0f / 13, 2.0f / 11);
  series = fmaf(q, series, 2.0f / 9);
  series = fmaf(q, series, 2.0f / 7);
  series = fmaf(q, series, 2.0f / 5);
  series = fmaf(q, series, 2.0f / 3);
  series = fmaf(q, series, 2.0f);
  return fmaf(s, series, fmaxf(x, 0.0f));
}

__device__ __forceinline__ float softplus(float x) { return softplus_of(x, exp2_fast(-kLog2E * fabsf(x))); }

// delta' of raw deltas with their bias, with one branch for all of them.
template <int Count>
__device__ __forceinline__ void step_sizes(float (&sizes)[Count], const float (&x)[Count], bool with_softplus) {
  if (with_softplus) {
#pragma unroll
    for (int i = 0; i < Count; ++i) sizes[i] = softplus(x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) sizes[i] = x[i];
  }
}

// d delta' / d delta, likewise; from x = 20 on float32 makes it 1 by itself.
template <int Count>
__device__ __forceinline__ void step_slopes(float (&slopes)[Count], const float (&x)[Count], bool with_softplus) {
  if (with_softplus) {
#pragma unroll
    for (int i = 0; i < Count; ++i) slopes[i] = sigmoid(x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) slopes[i] = 1.0f;
  }
}

template <class Config, bool Resets, bool Reverse>
__global__ void __launch_bounds__(Config::kThreads)
    scan_summary_kernel(const __grid_constant__ SelectiveScanInputs p, const float* dout, TimeSplit split, float* states,
                        float* decays) {
  constexpr int kElements = Config::kElements, kStates = Config::kStates;
  extern __shared__ float4 memory[];
  float* rows = reinterpret_cast<float*>(memory);                                // [kScanTile][kStored]: B, or C in reverse
  float2* steps = reinterpret_cast<float2*>(rows + kScanTile * Config::kStored);  // [kScanTile][kChannels]: delta', input
  int* resets = reinterpret_cast<int*>(steps + kScanTile * Config::kChannels);
  ScanPlace<Config> place(p, (split.chunks - 1) * kSummaryParts);  // of a part of a chunk; nothing follows the last chunk
  let_next_start();
  wait_for_previous();
  if (Reverse) place.chunk += kSummaryParts;
  const float bias = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;

  float A[kStates], state[kStates] = {}, elapsed = 0.0f;
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = place.lane * kStates + j;
    A[j] = place.live && n < p.d_state ? p.A[place.channel * p.d_state + n] * kLog2E : 0.0f;
  }
  const bool quads = rows_are_quads<Config>(p);
  bool cut = false;
  const int part_tiles = split.chunk_tiles / kSummaryParts, first_tile = static_cast<int>(place.chunk) * part_tiles;
  const int count = min(part_tiles, split.tiles - first_tile);  // none where time ends before the last chunk's last parts

  float raw[kElements], input[kElements], z[kElements] = {};
  const auto fetch_tile = [&](int index) {
    const int64_t first = static_cast<int64_t>(Reverse ? first_tile + count - 1 - index : first_tile + index) * kScanTile;
    const int left = place.left(first, p.seqlen);
    fetch<Config>(raw, p.delta + place.offset(first, p.delta_row_stride), p.delta_row_stride, left);
    if constexpr (Reverse) {
      fetch<Config>(input, dout + place.offset(first, p.d_inner), p.d_inner, left);
      if (p.z) fetch<Config>(z, p.z + place.offset(first, p.z_row_stride), p.z_row_stride, left);
    } else {
      fetch<Config>(input, p.u + place.offset(first, p.u_row_stride), p.u_row_stride, left);
    }
  };
  if (count > 0) fetch_tile(0);
  for (int index = 0; index < count; ++index) {
    const int64_t first = static_cast<int64_t>(Reverse ? first_tile + count - 1 - index : first_tile + index) * kScanTile;
    const int count_steps = static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first));
    const int64_t stride = Reverse ? p.C_row_stride : p.B_row_stride;
    stage_rows_async<Config>(rows, (Reverse ? p.C : p.B) + (place.first_row + first) * stride, stride, count_steps, p.d_state,
                             quads);
    __pipeline_commit();
    if constexpr (Resets) stage_resets(resets, p.seq_idx, place.first_row, first, p.seqlen);
    const int left = place.left(first, p.seqlen);
    float sizes[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) raw[e] += bias;
    step_sizes(sizes, raw, p.delta_softplus);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float delta = e * Config::kRowStep < left ? sizes[e] : 0.0f;
      const float silu = z[e] * sigmoid(z[e]), gate = p.z ? silu : 1.0f;
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
      ((place.batch * split.chunks * kSummaryParts + place.chunk) * p.d_inner + place.channel) * Config::kStored + place.lane * kStates;
  store_vector(states + at, state);
  store_vector(decays + at, decay);
}

// The states that chunks start from, [batch, chunks, d_inner, stored], from the ends and decays of their parts; initial is [batch, d_inner,
// d_state] or null.
template <bool Reverse>
__global__ void join_chunks_kernel(float* starts, const float* ends, const float* decays, const float* initial, int64_t count, int chunks,
                                   int64_t d_inner, int d_state, int stored) {
  let_next_start();
  wait_for_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int n = static_cast<int>(i % stored);
  const int64_t channel = i / stored % d_inner, batch = i / stored / d_inner, all_states = d_inner * stored, place = channel * stored + n;
  float state = initial && n < d_state ? initial[(batch * d_inner + channel) * d_state + n] : 0.0f;
  for (int k = 0; k < chunks; ++k) {
    const int64_t chunk = batch * chunks + (Reverse ? chunks - 1 - k : k);
    starts[chunk * all_states + place] = state;
    if (k + 1 == chunks) return;
    float end[kSummaryParts], decay[kSummaryParts];
#pragma unroll
    for (int j = 0; j < kSummaryParts; ++j) {
      const int64_t at = (chunk * kSummaryParts + (Reverse ? kSummaryParts - 1 - j : j)) * all_states + place;
      end[j] = ends[at], decay[j] = decays[at];
    }
#pragma unroll
    for (int j = 0; j < kSummaryParts; ++j) state = fmaf(decay[j], state, end[j]);
  }
}

// Fills split.starts (memory held by `states`) when time is split.
template <class Config, bool Resets, bool Reverse>
Error start_chunks(const SelectiveScanInputs& p, const float* dout, const float* initial, TimeSplit& split, Scratch& states) {
  if (split.chunks == 1) return nullptr;
  constexpr const char* kOp = Reverse ? "selective_scan backward" : "selective_scan";
  const int64_t count = p.batch * p.d_inner * Config::kStored, parts = split.chunks * kSummaryParts;
  Scratch ends, decays;
  MAMBATUNE_TRY(states.reserve(count * split.chunks));
  MAMBATUNE_TRY(ends.reserve(count * parts));
  MAMBATUNE_TRY(decays.reserve(count * parts));
  constexpr int kBytes = kScanTile * (Config::kStored * 4 + Config::kChannels * 8 + 4);
  const int64_t blocks = p.batch * (parts - kSummaryParts) * ceil_div(p.d_inner, Config::kChannels);
  MAMBATUNE_TRY(launch_early_with_memory(scan_summary_kernel<Config, Resets, Reverse>, static_cast<unsigned>(blocks), Config::kThreads, kBytes,
                                         kOp, p, dout, split, ends.get(), decays.get()));
  split.starts = states.get();
  return launch_early(join_chunks_kernel<Reverse>, static_cast<unsigned>(ceil_div(count, 256)), 256, kOp, states.get(), ends.get(), decays.get(),
                      initial, count, split.chunks, p.d_inner, static_cast<int>(p.d_state), static_cast<int>(Config::kStored));
}

// The state before tile `tile` > 0 of a channel: [batch, tiles - 1, d_inner, stored].
__host__ __device__ inline int64_t checkpoint_offset(int64_t batch, int64_t tile, int64_t channel, int64_t tiles, int64_t d_inner,
                                                     int stored) {
  return ((batch * (tiles - 1) + tile - 1) * d_inner + channel) * stored;
}

}  // namespace cuda
}  // namespace mambatune
