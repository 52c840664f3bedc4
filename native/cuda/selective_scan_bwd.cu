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
#include <type_traits>

#include "selective_scan_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int64_t kEnoughWarps = 800;  // the summaries cost a third of the scan here, so time is cut sooner than in the forward
constexpr int kSumThreads = 256;

constexpr int log2_of(int x) { return x == 1 ? 0 : 1 + log2_of(x / 2); }

// Of the forward's configuration: two channels a thread as long as their states fit in registers.
template <class Base>
using BackwardConfig = std::conditional_t<(Base::kStates > 4), Base, ScanConfig<Base::kLanes, Base::kStates, 64, 2>>;

template <class Config>
struct Backward {
  static constexpr int kWarps = Config::kThreads / 32;
  static constexpr int kSub = 4;                                       // steps whose decays and states are in registers
  static constexpr int kSubs = kScanTile / kSub;
  static constexpr int kGroup = Config::kStates > 4 ? 2 : 4;           // steps whose sums are exchanged side by side
  static constexpr int kFlush = Config::kStored > 64 ? kSub : kScanTile;  // steps of dB and dC held in shared memory
  static constexpr int kChannelBits = log2_of(32 / Config::kLanes);    // channels of a warp
  static constexpr int kOrderBits = kChannelBits < log2_of(Config::kStates) ? kChannelBits : log2_of(Config::kStates);
  static constexpr int kOrders = 1 << kOrderBits;                      // orders in which threads hold their states
  static constexpr int kSlots = Config::kStates >> kOrderBits;         // states left to a thread after the exchanges
  static constexpr int kSumRow = Config::kChannels + 4;
  static constexpr int kPlane = kScanTile * kSumRow;

  struct Memory {
    float4 steps[kScanTile * Config::kChannels];                // delta', u, dy, slope of softplus
    float B[kScanTile * kOrders * Config::kStored];             // [step][order][state]
    float C[kScanTile * kOrders * Config::kStored];
    float starts[kSubs * Config::kWidth * Config::kThreads * Config::kStates];  // each thread's states before every kSub steps
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

__device__ __forceinline__ void prefetch(const float* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Asks for the next tile's operands, a row of the block's channels a thread.
template <class Config>
__device__ __forceinline__ void prefetch_tile(const SelectiveScanBwdParams& p, const ScanPlace<Config>& place, int64_t tile,
                                              int64_t tiles) {
  const int64_t row = place.first_row + tile * kScanTile + threadIdx.x % kScanTile;
  const int64_t channel = place.channel_block * Config::kChannels;
#pragma unroll
  for (int i = 0; i < 4 * kScanTile; i += Config::kThreads) {
    const int which = (threadIdx.x + i) / kScanTile;
    const float* at = which == 0   ? p.u + row * p.u_row_stride
                      : which == 1 ? p.delta + row * p.delta_row_stride
                      : which == 2 ? p.dout + row * p.d_inner
                      : p.z        ? p.z + row * p.z_row_stride
                                   : p.dout + row * p.d_inner;
    if (which < 4) prefetch(at + channel);
  }
  if (tile == 0 || place.lane > 0) return;
#pragma unroll
  for (int c = 0; c < Config::kWidth; ++c) {
    const int64_t own = place.channel + c * Config::kApart;
    if (own < p.d_inner) prefetch(p.checkpoints + checkpoint_offset(place.batch, tile, own, tiles, p.d_inner, Config::kStored));
  }
}

// Sums products over the warp's channels: each exchange sends the upper half and keeps the lower.
template <class Config>
__device__ __forceinline__ void exchange_products(float (&products)[Config::kStates]) {
  using Plan = Backward<Config>;
#pragma unroll
  for (int bit = 0; bit < Plan::kOrderBits; ++bit) {
    const int half = Config::kStates >> (bit + 1);
#pragma unroll
    for (int j = 0; j < half; ++j) products[j] += __shfl_xor_sync(0xffffffffu, products[j + half], Config::kLanes << bit);
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

// This thread's share of the sums over the warp's channels of a step's B and C, its dB and dC.
template <class Config>
__device__ __forceinline__ void sum_over_channels(float (&share)[2 * Backward<Config>::kSlots], const PartialSlot<Config>& slot,
                                                  float (&B)[Config::kStates], float (&C)[Config::kStates]) {
  using Plan = Backward<Config>;
  exchange_products<Config>(B);
  exchange_products<Config>(C);
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

// Which of a group's sums over the lanes of a channel a thread is left with, and where they go. Threads with an odd lane hold
// their two channels in the other order, so that the first exchange sends the second and keeps the first without selecting;
// the next ones halve the steps, and what lanes are left hold the same.
template <class Config>
struct LaneSums {
  static constexpr int kGroup = Backward<Config>::kGroup;
  static constexpr int kChannelBits = Config::kWidth - 1;
  static constexpr int kLaneBits = log2_of(Config::kLanes);
  static constexpr int kStepBits = kLaneBits - kChannelBits < log2_of(kGroup) ? kLaneBits - kChannelBits : log2_of(kGroup);
  static constexpr int kSteps = kGroup >> kStepBits;  // left to a thread
  int first_step;
  bool writes;

  __device__ explicit LaneSums(int lane) {
    first_step = 0;
#pragma unroll
    for (int bit = 0; bit < kStepBits; ++bit) {
      if (lane >> (kChannelBits + bit) & 1) first_step += kGroup >> (bit + 1);
    }
    writes = lane >> (kChannelBits + kStepBits) == 0;
  }

  // sums[0 .. kSteps - 1]: this thread's.
  __device__ __forceinline__ void exchange(float (&sums)[kGroup], const float (&values)[Config::kWidth][kGroup], int lane) const {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      sums[k] = values[0][k];
      if constexpr (kChannelBits == 1) sums[k] += __shfl_xor_sync(0xffffffffu, values[1][k], 1);
    }
#pragma unroll
    for (int bit = 0; bit < kStepBits; ++bit) {
      const int half = kGroup >> (bit + 1), mask = 1 << (kChannelBits + bit);
      const bool upper = lane & mask;
#pragma unroll
      for (int k = 0; k < half; ++k) {
        const float kept = upper ? sums[k + half] : sums[k], sent = upper ? sums[k] : sums[k + half];
        sums[k] = kept + __shfl_xor_sync(0xffffffffu, sent, mask);
      }
    }
#pragma unroll
    for (int mask = 1 << (kChannelBits + kStepBits); mask < Config::kLanes; mask *= 2) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], mask);
    }
  }
};

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
  constexpr int kGroup = Plan::kGroup, kWidth = Config::kWidth;
  constexpr int kOrderRow = Plan::kOrders * kStored, kStartRow = kWidth * Config::kThreads * kStates;
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<typename Plan::Memory*>(raw_memory);
  const ScanPlace<Config> place(p, split.chunks);
  const float bias = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;
  const float skip = p.D && place.staged_live ? p.D[place.staged_channel] : 0.0f;

  int order_mask = 0;  // slot j holds state j ^ order_mask of the lane
#pragma unroll
  for (int bit = 0; bit < Plan::kOrderBits; ++bit) {
    if (threadIdx.x % 32 / Config::kLanes >> bit & 1) order_mask ^= (kStates / 2) >> bit;
  }
  const PartialSlot<Config> slot(place.lane, order_mask);
  const LaneSums<Config> lane_sums(place.lane);
  const int order_offset = order_mask / Plan::kSlots * kStored + place.lane * kStates;
  const float *own_B = memory.B + order_offset, *own_C = memory.C + order_offset;
  float* own_partial = memory.partial[threadIdx.x / 32] + slot.offset;
  const int64_t part = place.batch * split.chunks + place.chunk;
  const float4* own_steps[kWidth];
  float* own_starts[kWidth];
  int64_t channel[kWidth], state_row[kWidth];
  bool live[kWidth];
#pragma unroll
  for (int c = 0; c < kWidth; ++c) {
    const int offset = (c ^ (kWidth > 1 ? place.lane & 1 : 0)) * Config::kApart;
    channel[c] = place.channel + offset;
    live[c] = channel[c] < p.d_inner;
    state_row[c] = (place.batch * p.d_inner + channel[c]) * p.d_state;
    own_steps[c] = memory.steps + place.local + offset;
    own_starts[c] = memory.starts + (c * Config::kThreads + threadIdx.x) * kStates;
  }
  float* own_sum = memory.sums[0] + (own_steps[0] - memory.steps);

  float A[kWidth][kStates], g[kWidth][kStates], dA[kWidth][kStates] = {};  // g: the adjoint carried into the step before
#pragma unroll
  for (int c = 0; c < kWidth; ++c) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = place.lane * kStates + (j ^ order_mask);
      const bool exists = live[c] && n < p.d_state;
      A[c][j] = exists ? p.A[channel[c] * p.d_state + n] * kLog2E : 0.0f;
      if (split.starts) {
        g[c][j] = live[c] ? split.starts[(part * p.d_inner + channel[c]) * kStored + n] : 0.0f;
      } else {
        g[c][j] = exists && p.dlast_state ? p.dlast_state[state_row[c] + n] : 0.0f;
      }
    }
  }
  float dD = 0.0f, dbias = 0.0f;
  const bool quads = rows_are_quads<Config>(p);

  const int first_tile = static_cast<int>(place.chunk) * split.chunk_tiles;
  const int end_tile = min(first_tile + split.chunk_tiles, split.tiles);
  for (int tile = end_tile - 1; tile >= first_tile; --tile) {
    const int64_t first = static_cast<int64_t>(tile) * kScanTile;
    const int steps = static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first)), left = place.left(first, p.seqlen);
    float h[kWidth][kStates];
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        const int n = place.lane * kStates + (j ^ order_mask);
        if (tile > 0) {
          const int64_t at = checkpoint_offset(place.batch, tile, channel[c], split.tiles, p.d_inner, kStored);
          h[c][j] = live[c] ? p.checkpoints[at + n] : 0.0f;
        } else {
          h[c][j] = p.h0 && live[c] && n < p.d_state ? p.h0[state_row[c] + n] : 0.0f;
        }
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
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const float x = raw[e] + bias;
        const float step_size = p.delta_softplus ? softplus(x) : x;
        const float delta = e * Config::kRowStep < left ? step_size : 0.0f;
        const float softplus_grad = softplus_slope(x), slope = p.delta_softplus ? softplus_grad : 1.0f;
        const float gate = sigmoid(z[e]), dgate = dout[e] * gate;
        const float dy = p.z ? dgate * z[e] : dout[e];
        z_factor[e] = dgate * fmaf(z[e], 1.0f - gate, 1.0f);
        memory.steps[(place.staged_row + e * Config::kRowStep) * Config::kChannels + place.staged_local] =
            make_float4(delta, u[e], dy, slope);
      }
    }
    if constexpr (Resets) stage_resets(memory.resets, p.seq_idx, place.first_row, first, p.seqlen);
    __syncthreads();
    if (tile > first_tile) prefetch_tile<Config>(p, place, tile - 1, split.tiles);

    const int subs = (steps + kSub - 1) / kSub;
#pragma unroll 1
    for (int sub = 0; sub < subs; ++sub) {
#pragma unroll
      for (int c = 0; c < kWidth; ++c) store_vector(own_starts[c] + sub * kStartRow, h[c]);
      if (sub + 1 == subs) break;
#pragma unroll
      for (int i = 0; i < kSub; ++i) {
        const int t = sub * kSub + i;
        const bool reset = Resets && memory.resets[t];
        float B[kStates];
        load_vector(B, own_B + t * kOrderRow);
#pragma unroll
        for (int c = 0; c < kWidth; ++c) {
          const float2 step = *reinterpret_cast<const float2*>(own_steps[c] + t * Config::kChannels);
          const float x = step.x * step.y;
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            if (reset) h[c][j] = 0.0f;
            h[c][j] = fmaf(exp2_fast(step.x * A[c][j]), h[c][j], x * B[j]);
          }
        }
      }
    }

#pragma unroll 1
    for (int sub = subs - 1; sub >= 0; --sub) {
      float decay[kSub][kWidth][kStates], state[kSub + 1][kWidth][kStates];  // state[i]: before step i
      float B[kSub][kStates], delta[kSub][kWidth], x[kSub][kWidth], dy[kSub][kWidth];
#pragma unroll
      for (int c = 0; c < kWidth; ++c) load_vector(state[0][c], own_starts[c] + sub * kStartRow);
#pragma unroll
      for (int i = 0; i < kSub; ++i) {
        const int t = sub * kSub + i;
        load_vector(B[i], own_B + t * kOrderRow);
        const bool reset = Resets && memory.resets[t];
#pragma unroll
        for (int c = 0; c < kWidth; ++c) {
          const float4 step = own_steps[c][t * Config::kChannels];
          delta[i][c] = step.x, x[i][c] = step.x * step.y, dy[i][c] = step.z;
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            decay[i][c][j] = reset ? 0.0f : exp2_fast(step.x * A[c][j]);
            state[i + 1][c][j] = fmaf(decay[i][c][j], state[i][c][j], x[i][c] * B[i][j]);
          }
        }
      }
#pragma unroll
      for (int last = kSub - 1; last >= 0; last -= kGroup) {
        float product_B[kGroup][kStates], product_C[kGroup][kStates];
        float y[kWidth][kGroup] = {}, grad_input[kWidth][kGroup] = {}, grad_decay[kWidth][kGroup] = {};
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          const int i = last - k, t = sub * kSub + i;
          float C[kStates];
          load_vector(C, own_C + t * kOrderRow);
#pragma unroll
          for (int c = 0; c < kWidth; ++c) {
#pragma unroll
            for (int j = 0; j < kStates; ++j) {
              g[c][j] = fmaf(C[j], dy[i][c], g[c][j]);
              product_B[k][j] = c == 0 ? x[i][c] * g[c][j] : fmaf(x[i][c], g[c][j], product_B[k][j]);
              product_C[k][j] = c == 0 ? dy[i][c] * state[i + 1][c][j] : fmaf(dy[i][c], state[i + 1][c][j], product_C[k][j]);
              y[c][k] = fmaf(C[j], state[i + 1][c][j], y[c][k]);
              grad_input[c][k] = fmaf(g[c][j], B[i][j], grad_input[c][k]);
              g[c][j] *= decay[i][c][j];
              const float carried = g[c][j] * state[i][c][j];
              grad_decay[c][k] = fmaf(carried, A[c][j], grad_decay[c][k]);
              if constexpr (ParameterGradients) dA[c][j] = fmaf(carried, delta[i][c], dA[c][j]);
            }
          }
        }
        float share[kGroup][2 * Plan::kSlots], sums[3][kGroup];
#pragma unroll
        for (int k = 0; k < kGroup; ++k) sum_over_channels<Config>(share[k], slot, product_B[k], product_C[k]);
        lane_sums.exchange(sums[0], y, place.lane);
        lane_sums.exchange(sums[1], grad_input, place.lane);
        lane_sums.exchange(sums[2], grad_decay, place.lane);
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          store_share<Config>(own_partial + (sub * kSub + last - k) % Plan::kFlush * 2 * kStored, slot, share[k]);
        }
        if (lane_sums.writes) {
          float* to = own_sum + (sub * kSub + last - lane_sums.first_step) * Plan::kSumRow;
#pragma unroll
          for (int k = 0; k < lane_sums.kSteps; ++k) {
#pragma unroll
            for (int which = 0; which < 3; ++which) to[which * Plan::kPlane - k * Plan::kSumRow] = sums[which][k];
          }
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
      const int row = place.staged_row + e * Config::kRowStep, at = row * Plan::kSumRow + place.staged_local;
      const bool exists = e * Config::kRowStep < left;
      const float4 step = memory.steps[row * Config::kChannels + place.staged_local];
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

#pragma unroll
  for (int c = 0; c < kWidth; ++c) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = place.lane * kStates + (j ^ order_mask);
      const bool exists = live[c] && n < p.d_state;
      if (exists && place.chunk == 0 && p.dh0) p.dh0[state_row[c] + n] = g[c][j];
      if (ParameterGradients && exists && partials.A) partials.A[(part * p.d_inner + channel[c]) * p.d_state + n] = dA[c][j];
    }
  }
  if constexpr (ParameterGradients) {
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

constexpr const char* kOp = "selective_scan backward";

template <class Base, bool Resets, bool ParameterGradients>
Error scan_backward(const SelectiveScanBwdParams& p) {
  using Config = BackwardConfig<Base>;
  const int64_t channel_blocks = ceil_div(p.d_inner, Config::kChannels), blocks = p.batch * channel_blocks;
  TimeSplit split = split_time(blocks, Base::kThreads / 32, p.seqlen, kEnoughWarps);
  Scratch states, BC, A, D, bias;
  MAMBATUNE_TRY((start_chunks<Base, Resets, true>(p, p.dout, p.dlast_state, split, states)));
  const int64_t parts = p.batch * split.chunks, count = p.batch * p.seqlen * 2 * Config::kStored;
  MAMBATUNE_TRY(BC.reserve(channel_blocks * count));
  if (p.dA) MAMBATUNE_TRY(A.reserve(parts * p.d_inner * p.d_state));
  if (p.dD) MAMBATUNE_TRY(D.reserve(parts * p.d_inner));
  if (p.ddelta_bias) MAMBATUNE_TRY(bias.reserve(parts * p.d_inner));
  const Partials partials = {BC.get(), A.get(), D.get(), bias.get()};

  const auto kernel = scan_backward_kernel<Config, Resets, ParameterGradients>;
  constexpr int kBytes = sizeof(typename Backward<Config>::Memory);
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kOp));
  kernel<<<static_cast<unsigned>(blocks * split.chunks), Config::kThreads, kBytes, stream()>>>(p, split, partials);
  MAMBATUNE_CHECK_LAUNCH(kOp);
  sum_channel_blocks_kernel<<<static_cast<unsigned>(ceil_div(count, kSumThreads)), kSumThreads, 0, stream()>>>(
      p, BC.get(), static_cast<int>(channel_blocks), Config::kStored);
  MAMBATUNE_CHECK_LAUNCH(kOp);
  if (p.dA) MAMBATUNE_TRY(column_sums(A.get(), p.dA, parts, p.d_inner * p.d_state, kOp));
  if (p.dD) MAMBATUNE_TRY(column_sums(D.get(), p.dD, parts, p.d_inner, kOp));
  if (p.ddelta_bias) MAMBATUNE_TRY(column_sums(bias.get(), p.ddelta_bias, parts, p.d_inner, kOp));
  return nullptr;
}

// No elements: the sums over them are zero.
Error zero_parameter_gradients(const SelectiveScanBwdParams& p) {
  const size_t channels = static_cast<size_t>(p.d_inner) * sizeof(float);
  if (p.dA) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.dA, 0, channels * static_cast<size_t>(p.d_state), stream()), kOp));
  if (p.dD) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.dD, 0, channels, stream()), kOp));
  if (p.ddelta_bias) MAMBATUNE_TRY(describe_error(cudaMemsetAsync(p.ddelta_bias, 0, channels, stream()), kOp));
  return nullptr;
}

}  // namespace

Error selective_scan_bwd(const SelectiveScanBwdParams& p) {
  const bool parameters = p.dA || p.dD || p.ddelta_bias;
  if (p.batch == 0 || p.seqlen == 0 || p.d_inner == 0) return zero_parameter_gradients(p);
  return with_scan_config(p.d_state, [&](auto config) {
    using Config = decltype(config);
    if (p.seq_idx) return parameters ? scan_backward<Config, true, true>(p) : scan_backward<Config, true, false>(p);
    return parameters ? scan_backward<Config, false, true>(p) : scan_backward<Config, false, false>(p);
  });
}

}  // namespace cuda
}  // namespace mambatune
