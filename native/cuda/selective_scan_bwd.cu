// SPDX-License-Identifier: Apache-2.0
// Selective scan, backward. Blocks walk tiles of 32 steps in reverse. Per tile: element work (softplus and its slope, gate);
// a forward walk from the checkpoint that notes the state before every 8 steps; then per 8 steps, last first, the states
// and decays are recomputed into registers and the adjoint runs over them,
//
//   g_t = C_t dy_t + a_{t+1} g_{t+1}      with a_t = exp(delta'_t A), dy_t = dout_t silu(z_t)
//
// and element work again for du, ddelta, dz. dB and dC are sums over channels: threads of one warp that hold different
// channels hold their states in different orders, so that each exchange sends one half of the registers and keeps the other
// without selecting; warps add up in shared memory, blocks through scratch memory and a second kernel, always in one order.
//
// Count at 8 x 1536 x 1024, d_state 16, all options: u, delta, z, dout, du, ddelta, dz 352 MB, checkpoints 25 MB, block sums
// of dB and dC 50 MB out and in (2 d_state / 32 floats an element): 112 us at 4.3 TB/s. Exponentials 1.75 a state, 5 an
// element: 100 us. Instructions a step of 4 states: 15 in the forward walk, 80 in the adjoint, 33 outside: 200 us of issue
// slots, the bound; 25 of them go to the shared memory pipe. Batch and channels give a scheduler only three warps, so latency
// shows: no load passes the store of a sum, and each step's shuffles were waited for before the next step's loads. So four
// steps run on loads alone, their sums are exchanged side by side, and are stored together.
#include "cublas.h"
#include "selective_scan_bwd_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int64_t kEnoughWarps = 800;  // the summaries cost a third of the scan here, so time is cut sooner than in the forward
constexpr int kSumThreads = 256;

constexpr int log2_of(int x) { return x == 1 ? 0 : 1 + log2_of(x / 2); }

template <class Config>
struct Backward {
  static constexpr int kWarps = Config::kThreads / 32;
  static constexpr int kSub = Config::kStates > 4 ? 4 : 8;             // steps whose decays and states are in registers
  static constexpr int kSubs = kScanTile / kSub;
  static constexpr int kGroup = Config::kStates > 4 ? 2 : 4;           // steps whose sums are exchanged side by side
  static constexpr int kFlush = Config::kStored > 64 ? kSub : kScanTile;  // steps of dB and dC held in shared memory
  static constexpr int kChannelBits = log2_of(32 / Config::kLanes);    // channels of a warp
  static constexpr int kOrderBits = kChannelBits < log2_of(Config::kStates) ? kChannelBits : log2_of(Config::kStates);
  static constexpr int kOrders = 1 << kOrderBits;                      // orders in which threads hold their states
  static constexpr int kSlots = Config::kStates >> kOrderBits;         // states left to a thread after the exchanges
  static constexpr int kPlane = kScanTile * Config::kChannels + 8;

  struct Memory {
    float4 steps[kScanTile * Config::kChannels];                // delta', u, dy, slope of softplus
    float B[kScanTile * kOrders * Config::kStored];             // [step][order][state]
    float C[kScanTile * kOrders * Config::kStored];
    float starts[kSubs * Config::kThreads * Config::kStates];       // each thread's states before every kSub steps
    float sums[3][kPlane];                                      // sums over states: C h, g B, g a h A
    float partial[kWarps][kFlush * 2 * Config::kStored];        // dB, dC of the channels of a warp
    int resets[kScanTile];
  };
};

struct Partials {
  float* BC;    // [channel blocks, batch, seqlen, 2, stored]
  float* A;     // [batch, chunks, d_inner, d_state] or null
  float* D;     // [batch, chunks, d_inner] or null
  float* bias;  // [batch, chunks, d_inner] or null
};

// B or C of a tile in every order: slot j of order o of a lane holds state j ^ (o * kSlots), a change within four states.
template <class Config, int Width>
__device__ __forceinline__ void copy_orders(float* to, const float* tile, int64_t stride, int steps, int64_t d_state) {
  using Plan = Backward<Config>;
  for_each_row_part<Config, Width>(tile, stride, steps, d_state, [&](int t, int n, const float* at, bool exists) {
    float value[Width] = {};
    if constexpr (Width == 4) {
      if (exists) load_vector(value, at);
    } else {
      if (exists) value[0] = *at;
    }
#pragma unroll
    for (int order = 0; order < Plan::kOrders; ++order) {
      constexpr int kSlots = Plan::kSlots;
      float* row = to + (t * Plan::kOrders + order) * Config::kStored;
      if constexpr (Width == 4) {
        const int mask = order * kSlots;
        *reinterpret_cast<float4*>(row + n) = make_float4(value[mask], value[1 ^ mask], value[2 ^ mask], value[3 ^ mask]);
      } else {
        row[n ^ (order * kSlots)] = value[0];
      }
    }
  });
}

template <class Config>
__device__ __forceinline__ void stage_orders(float* to, const float* tile, int64_t stride, int steps, int64_t d_state, bool quads) {
  if (quads) {
    copy_orders<Config, 4>(to, tile, stride, steps, d_state);
  } else {
    copy_orders<Config, 1>(to, tile, stride, steps, d_state);
  }
}

// Sums `half` upper products over partners: the thread keeps the lower ones. scale * value is the product.
template <class Config>
__device__ __forceinline__ void exchange_products(float (&kept)[Config::kStates], float scale, const float (&values)[Config::kStates]) {
  using Plan = Backward<Config>;
  if constexpr (Plan::kOrderBits == 0) {
#pragma unroll
    for (int j = 0; j < Config::kStates; ++j) kept[j] = scale * values[j];
  } else {
    constexpr int kHalf = Config::kStates / 2;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
      kept[j] = fmaf(scale, values[j], __shfl_xor_sync(0xffffffffu, scale * values[j + kHalf], Config::kLanes));
    }
#pragma unroll
    for (int bit = 1; bit < Plan::kOrderBits; ++bit) {
#pragma unroll
      for (int j = 0; j < (kHalf >> bit); ++j) {
        kept[j] += __shfl_xor_sync(0xffffffffu, kept[j + (kHalf >> bit)], Config::kLanes << bit);
      }
    }
  }
}

// Where in a step's row of partial sums this thread writes, and whether it does.
template <class Config>
struct PartialSlot {
  using Plan = Backward<Config>;
  static constexpr bool kSplits = Plan::kOrderBits < Plan::kChannelBits;  // dB and dC go to different threads
  int offset;
  bool keeps_C, writes;

  __device__ PartialSlot(int lane, int order_mask) {
    const int group = threadIdx.x % 32 / Config::kLanes >> Plan::kOrderBits;
    keeps_C = kSplits && (group & 1);
    writes = !kSplits || group < 2;
    offset = lane * Config::kStates + order_mask + (keeps_C ? Config::kStored : 0);
  }
};

// This thread's share of the sums over the warp's channels of scale_B * g and scale_C * h, the step's dB and dC.
template <class Config>
__device__ __forceinline__ void sum_over_channels(float (&share)[2 * Backward<Config>::kSlots], const PartialSlot<Config>& slot,
                                                  float scale_B, const float (&g)[Config::kStates], float scale_C,
                                                  const float (&h)[Config::kStates]) {
  using Plan = Backward<Config>;
  float B[Config::kStates], C[Config::kStates];
  exchange_products<Config>(B, scale_B, g);
  exchange_products<Config>(C, scale_C, h);
  if constexpr (slot.kSplits) {
    float sum = (slot.keeps_C ? C[0] : B[0]) +
                __shfl_xor_sync(0xffffffffu, slot.keeps_C ? B[0] : C[0], Config::kLanes << Plan::kOrderBits);
#pragma unroll
    for (int mask = Config::kLanes << (Plan::kOrderBits + 1); mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    share[0] = sum;
  } else {
#pragma unroll
    for (int j = 0; j < Plan::kSlots; ++j) {
      share[j] = B[j];
      share[Plan::kSlots + j] = C[j];
    }
  }
}

template <class Config>
__device__ __forceinline__ void store_share(float* to, const PartialSlot<Config>& slot,
                                            const float (&share)[2 * Backward<Config>::kSlots]) {
  if constexpr (slot.kSplits) {
    if (slot.writes) *to = share[0];
  } else {
#pragma unroll
    for (int j = 0; j < Backward<Config>::kSlots; ++j) {
      to[j] = share[j];
      to[Config::kStored + j] = share[Backward<Config>::kSlots + j];
    }
  }
}

// Sums three values over the lanes of a channel; lane 0, 1, 2 is left with the first, second, third.
template <int Lanes>
__device__ __forceinline__ float sum_three(float first, float second, float third, int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  const float pair = (odd ? second : first) + __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
  third += __shfl_xor_sync(0xffffffffu, third, 1);
  float sum = (upper ? third : pair) + __shfl_xor_sync(0xffffffffu, upper ? pair : third, 2);
#pragma unroll
  for (int mask = 4; mask < Lanes; mask *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  return sum;
}

// Adds the warps' dB and dC and writes `steps` steps of them to the block's place.
template <class Config>
__device__ __forceinline__ void flush_partial(const typename Backward<Config>::Memory& memory, float* to, int steps) {
  const int limit = steps * 2 * Config::kStored - threadIdx.x;
#pragma unroll 8
  for (int k = 0; k < Backward<Config>::kFlush * 2 * Config::kStored; k += Config::kThreads) {
    const int i = threadIdx.x + k;
    float sum = memory.partial[0][i];
#pragma unroll
    for (int warp = 1; warp < Backward<Config>::kWarps; ++warp) sum += memory.partial[warp][i];
    if (k < limit) to[i] = sum;
  }
}

template <class Config, bool Resets, bool ParameterGradients>
__global__ void __launch_bounds__(Config::kThreads, 3)
    scan_backward_kernel(const __grid_constant__ SelectiveScanBwdParams p, const TimeSplit split, const Partials partials) {
  using Plan = Backward<Config>;
  constexpr int kElements = Config::kElements, kStates = Config::kStates, kStored = Config::kStored, kSub = Plan::kSub;
  constexpr int kGroup = Plan::kGroup;
  constexpr int kOrderRow = Plan::kOrders * kStored;
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<typename Plan::Memory*>(raw_memory);
  const ScanPlace<Config> place(p, split.chunks);
  let_next_start();
  const float bias = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;
  const float skip = p.D && place.staged_live ? p.D[place.staged_channel] : 0.0f;

  int order_mask = 0;  // slot j holds state j ^ order_mask of the lane
#pragma unroll
  for (int bit = 0; bit < Plan::kOrderBits; ++bit) {
    if (threadIdx.x % 32 / Config::kLanes >> bit & 1) order_mask ^= (kStates / 2) >> bit;
  }
  const PartialSlot<Config> slot(place.lane, order_mask);
  const int order_offset = order_mask / Plan::kSlots * kStored + place.lane * kStates;
  const float4* own_steps = memory.steps + place.local;
  const float *own_B = memory.B + order_offset, *own_C = memory.C + order_offset;
  float* own_starts = memory.starts + threadIdx.x * kStates;
  float* own_partial = memory.partial[threadIdx.x / 32] + slot.offset;
  float* own_sum = memory.sums[place.lane < 3 ? place.lane : 0] + place.local;
  const int64_t state_row = (place.batch * p.d_inner + place.channel) * p.d_state;
  const int64_t part = place.batch * split.chunks + place.chunk;

  float A[kStates], g[kStates], dA[kStates] = {};  // g: the adjoint carried into the step before
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = place.lane * kStates + (j ^ order_mask);
    const bool exists = place.live && n < p.d_state;
    A[j] = exists ? p.A[place.channel * p.d_state + n] * kLog2E : 0.0f;
    if (split.starts) {
      g[j] = place.live ? split.starts[(part * p.d_inner + place.channel) * kStored + n] : 0.0f;
    } else {
      g[j] = exists && p.dlast_state ? p.dlast_state[state_row + n] : 0.0f;
    }
  }
  float dD = 0.0f, dbias = 0.0f;
  const bool quads = rows_are_quads<Config>(p);

  const int first_tile = static_cast<int>(place.chunk) * split.chunk_tiles;
  const int end_tile = min(first_tile + split.chunk_tiles, split.tiles);
  for (int tile = end_tile - 1; tile >= first_tile; --tile) {
    const int64_t first = static_cast<int64_t>(tile) * kScanTile;
    const int steps = static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first)), left = place.left(first, p.seqlen);
    float h[kStates];
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = place.lane * kStates + (j ^ order_mask);
      if (tile > 0) {
        h[j] = place.live ? p.checkpoints[checkpoint_offset(place.batch, tile, place.channel, split.tiles, p.d_inner, kStored) + n] : 0.0f;
      } else {
        h[j] = p.h0 && place.live && n < p.d_state ? p.h0[state_row + n] : 0.0f;
      }
    }
    float z_factor[kElements];  // dz over the ungated output
    {
      float u[kElements], raw[kElements], z[kElements] = {}, dout[kElements];
      fetch<Config>(raw, p.delta + place.offset(first, p.delta_row_stride), p.delta_row_stride, left);
      fetch<Config>(u, p.u + place.offset(first, p.u_row_stride), p.u_row_stride, left);
      fetch<Config>(dout, p.dout + place.offset(first, p.d_inner), p.d_inner, left);
      if (p.z) fetch<Config>(z, p.z + place.offset(first, p.z_row_stride), p.z_row_stride, left);
      const int64_t row = place.first_row + first;
      stage_orders<Config>(memory.B, p.B + row * p.B_row_stride, p.B_row_stride, steps, p.d_state, quads);
      stage_orders<Config>(memory.C, p.C + row * p.C_row_stride, p.C_row_stride, steps, p.d_state, quads);
      float sizes[kElements], slopes[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) raw[e] += bias;
      step_sizes(sizes, raw, p.delta_softplus);
      step_slopes(slopes, raw, p.delta_softplus);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const float delta = e * Config::kRowStep < left ? sizes[e] : 0.0f;
        const float gate = sigmoid(z[e]), dgate = dout[e] * gate;
        const float dy = p.z ? dgate * z[e] : dout[e];
        z_factor[e] = dgate * fmaf(z[e], 1.0f - gate, 1.0f);
        memory.steps[(place.staged_row + e * Config::kRowStep) * Config::kChannels + place.staged_local] =
            make_float4(delta, u[e], dy, slopes[e]);
      }
    }
    if constexpr (Resets) stage_resets(memory.resets, p.seq_idx, place.first_row, first, p.seqlen);
    __syncthreads();
    if (tile > first_tile) prefetch_tile<Config>(p, place, tile - 1, split.tiles);

    const int subs = (steps + kSub - 1) / kSub;
#pragma unroll 1
    for (int sub = 0; sub < subs; ++sub) {
      store_vector(own_starts + sub * Config::kThreads * kStates, h);
      if (sub + 1 == subs) break;
#pragma unroll
      for (int i = 0; i < kSub; ++i) {
        const int t = sub * kSub + i;
        const float2 step = *reinterpret_cast<const float2*>(own_steps + t * Config::kChannels);
        const float x = step.x * step.y;
        float B[kStates];
        load_vector(B, own_B + t * kOrderRow);
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          if (Resets && memory.resets[t]) h[j] = 0.0f;
          h[j] = fmaf(exp2_fast(step.x * A[j]), h[j], x * B[j]);
        }
      }
    }

#pragma unroll 1
    for (int sub = subs - 1; sub >= 0; --sub) {
      float decay[kSub][kStates], state[kSub + 1][kStates];  // state[i]: before step i
      load_vector(state[0], own_starts + sub * Config::kThreads * kStates);
#pragma unroll
      for (int i = 0; i < kSub; ++i) {
        const int t = sub * kSub + i;
        const float2 step = *reinterpret_cast<const float2*>(own_steps + t * Config::kChannels);
        const float x = step.x * step.y;
        float B[kStates];
        load_vector(B, own_B + t * kOrderRow);
        const bool reset = Resets && memory.resets[t];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          decay[i][j] = reset ? 0.0f : exp2_fast(step.x * A[j]);
          state[i + 1][j] = fmaf(decay[i][j], state[i][j], x * B[j]);
        }
      }
#pragma unroll
      for (int last = kSub - 1; last >= 0; last -= kGroup) {
        float adjoint[kGroup][kStates], scale_B[kGroup], scale_C[kGroup], y[kGroup] = {}, grad_input[kGroup] = {}, grad_decay[kGroup] = {};
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          const int i = last - k, t = sub * kSub + i;
          const float4 step = own_steps[t * Config::kChannels];
          scale_B[k] = step.x * step.y, scale_C[k] = step.z;
          float B[kStates], C[kStates];
          load_vector(B, own_B + t * kOrderRow);
          load_vector(C, own_C + t * kOrderRow);
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            g[j] = fmaf(C[j], step.z, g[j]);
            adjoint[k][j] = g[j];
            y[k] = fmaf(C[j], state[i + 1][j], y[k]);
            grad_input[k] = fmaf(g[j], B[j], grad_input[k]);
            g[j] *= decay[i][j];
            const float carried = g[j] * state[i][j];
            grad_decay[k] = fmaf(carried, A[j], grad_decay[k]);
            if constexpr (ParameterGradients) dA[j] = fmaf(carried, step.x, dA[j]);
          }
        }
        float share[kGroup][2 * Plan::kSlots], sum[kGroup];
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          sum_over_channels<Config>(share[k], slot, scale_B[k], adjoint[k], scale_C[k], state[last - k + 1]);
          sum[k] = sum_three<Config::kLanes>(y[k], grad_input[k], grad_decay[k], place.lane);
        }
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          const int t = sub * kSub + last - k;
          store_share<Config>(own_partial + t % Plan::kFlush * 2 * kStored, slot, share[k]);
          if (place.lane < 3) own_sum[t * Config::kChannels] = sum[k];
        }
      }
      if (Plan::kFlush < kScanTile && sub * kSub % Plan::kFlush == 0) {
        __syncthreads();
        const int64_t row = (place.channel_block * p.batch * p.seqlen + place.first_row + first + sub * kSub) * 2 * kStored;
        flush_partial<Config>(memory, partials.BC + row, steps - sub * kSub);
        __syncthreads();
      }
    }
    __syncthreads();
    if constexpr (Plan::kFlush == kScanTile) {
      const int64_t row = (place.channel_block * p.batch * p.seqlen + place.first_row + first) * 2 * kStored;
      flush_partial<Config>(memory, partials.BC + row, steps);
    }
    float *du = p.du + place.offset(first, p.du_row_stride), *ddelta = p.ddelta + place.offset(first, p.ddelta_row_stride);
    float* dz = p.dz ? p.dz + place.offset(first, p.dz_row_stride) : nullptr;
    float* out = p.out + place.offset(first, p.d_inner);
    const float* again = p.z + place.offset(first, p.z_row_stride);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const int at = (place.staged_row + e * Config::kRowStep) * Config::kChannels + place.staged_local;
      const bool exists = e * Config::kRowStep < left;
      const float4 step = memory.steps[at];
      const float y = memory.sums[0][at], grad_input = memory.sums[1][at];
      const float grad_delta = fmaf(step.y, grad_input, kLn2 * memory.sums[2][at]) * step.w;
      if (exists) {
        *du = fmaf(step.x, grad_input, skip * step.z);
        *ddelta = grad_delta;
      }
      const float ungated = fmaf(skip, step.y, y);
      if (exists && dz) *dz = z_factor[e] * ungated;
      // z is read again: kept in registers over the tile, it would cost the recurrence some of its own.
      if (exists && p.out) {
        const float z = p.z ? *again : 0.0f;
        *out = p.z ? ungated * z * sigmoid(z) : ungated;
      }
      if constexpr (ParameterGradients) {
        dD = fmaf(step.z, step.y, dD);
        dbias += exists ? grad_delta : 0.0f;
      }
      du += Config::kRowStep * p.du_row_stride;
      ddelta += Config::kRowStep * p.ddelta_row_stride;
      dz += dz ? Config::kRowStep * p.dz_row_stride : 0;
      out += Config::kRowStep * p.d_inner;
      again += Config::kRowStep * p.z_row_stride;
    }
  }

  if (place.chunk == 0 && p.dh0 && place.live) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = place.lane * kStates + (j ^ order_mask);
      if (n < p.d_state) p.dh0[state_row + n] = g[j];
    }
  }
  if constexpr (ParameterGradients) {
    if (partials.A && place.live) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        const int n = place.lane * kStates + (j ^ order_mask);
        if (n < p.d_state) partials.A[(part * p.d_inner + place.channel) * p.d_state + n] = dA[j];
      }
    }
    float *sum_D = memory.sums[0], *sum_bias = sum_D + Config::kThreads;
    __syncthreads();
    sum_D[threadIdx.x] = dD;
    sum_bias[threadIdx.x] = dbias;
    __syncthreads();
    if (place.staged_row > 0 || !place.staged_live) return;
    for (int i = Config::kChannels; i < Config::kThreads; i += Config::kChannels) {
      dD += sum_D[threadIdx.x + i];
      dbias += sum_bias[threadIdx.x + i];
    }
    if (partials.D) partials.D[part * p.d_inner + place.staged_channel] = dD;
    if (partials.bias) partials.bias[part * p.d_inner + place.staged_channel] = dbias;
  }
}

// dB and dC: the sums of the channel blocks, added in their order.
__global__ void __launch_bounds__(kSumThreads)
    sum_channel_blocks_kernel(const __grid_constant__ SelectiveScanBwdParams p, const float* partial, int blocks, int stored) {
  let_next_start();
  wait_for_previous();
  const int64_t count = p.batch * p.seqlen * 2 * stored;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (i >= count) return;
  const int k = static_cast<int>(i % (2 * stored)), n = k % stored;
  if (n >= p.d_state) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int block = 0; block < blocks; ++block) sum += partial[block * count + i];
  const int64_t row = i / (2 * stored);
  if (k < stored) {
    p.dB[row * p.dB_row_stride + n] = sum;
  } else {
    p.dC[row * p.dC_row_stride + n] = sum;
  }
}

template <class Config, bool Resets, bool ParameterGradients>
Error scan_backward(const SelectiveScanBwdParams& p) {
  const int64_t channel_blocks = ceil_div(p.d_inner, Config::kChannels), blocks = p.batch * channel_blocks;
  TimeSplit split = split_time(blocks, Config::kThreads / 32, p.seqlen, kEnoughWarps);
  Scratch states, BC, A, D, bias;
  MAMBATUNE_TRY((start_chunks<Config, Resets, true>(p, p.dout, p.dlast_state, split, states)));
  const int64_t parts = p.batch * split.chunks, count = p.batch * p.seqlen * 2 * Config::kStored;
  MAMBATUNE_TRY(BC.reserve(channel_blocks * count));
  if (p.dA) MAMBATUNE_TRY(A.reserve(parts * p.d_inner * p.d_state));
  if (p.dD) MAMBATUNE_TRY(D.reserve(parts * p.d_inner));
  if (p.ddelta_bias) MAMBATUNE_TRY(bias.reserve(parts * p.d_inner));
  const Partials partials = {BC.get(), A.get(), D.get(), bias.get()};

  const auto kernel = scan_backward_kernel<Config, Resets, ParameterGradients>;
  constexpr int kBytes = sizeof(typename Backward<Config>::Memory);
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kScanBackward));
  kernel<<<static_cast<unsigned>(blocks * split.chunks), Config::kThreads, kBytes, stream()>>>(p, split, partials);
  MAMBATUNE_CHECK_LAUNCH(kScanBackward);
  MAMBATUNE_TRY(sum_channel_blocks(p, BC.get(), channel_blocks, Config::kStored));
  if (p.dA) MAMBATUNE_TRY(column_sums(A.get(), p.dA, parts, p.d_inner * p.d_state, kScanBackward));
  if (p.dD) MAMBATUNE_TRY(column_sums(D.get(), p.dD, parts, p.d_inner, kScanBackward));
  if (p.ddelta_bias) MAMBATUNE_TRY(column_sums(bias.get(), p.ddelta_bias, parts, p.d_inner, kScanBackward));
  return nullptr;
}

// No elements: the sums over them are zero.
Error zero_parameter_gradients(const SelectiveScanBwdParams& p) {
  const size_t channels = static_cast<size_t>(p.d_inner) * sizeof(float);
  if (p.dA) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.dA, 0, channels * static_cast<size_t>(p.d_state), stream()), kScanBackward));
  if (p.dD) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.dD, 0, channels, stream()), kScanBackward));
  if (p.ddelta_bias) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.ddelta_bias, 0, channels, stream()), kScanBackward));
  return nullptr;
}

}  // namespace

Error sum_channel_blocks(const SelectiveScanBwdParams& p, const float* partial, int64_t blocks, int stored) {
  const int64_t count = p.batch * p.seqlen * 2 * stored;
  return launch_early(sum_channel_blocks_kernel, static_cast<unsigned>(ceil_div(count, kSumThreads)), kSumThreads, kScanBackward, p, partial,
                      static_cast<int>(blocks), stored);
}

Error selective_scan_bwd(const SelectiveScanBwdParams& p) {
  const bool parameters = p.dA || p.dD || p.ddelta_bias;
  if (p.batch == 0 || p.seqlen == 0 || p.d_inner == 0) return zero_parameter_gradients(p);
  if (matmul_precision() != MatmulPrecision::kHighest && tensor_cores_fit(p)) return selective_scan_bwd_tensor_cores(p);
  return with_scan_config(p, [&](auto config) {
    using Config = decltype(config);
    if (p.seq_idx) return parameters ? scan_backward<Config, true, true>(p) : scan_backward<Config, true, false>(p);
    return parameters ? scan_backward<Config, false, true>(p) : scan_backward<Config, false, false>(p);
  });
}

}  // namespace cuda
}  // namespace mambatune
