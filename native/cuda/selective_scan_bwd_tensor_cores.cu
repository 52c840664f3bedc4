// SPDX-License-Identifier: Apache-2.0
// Selective scan, backward, for d_state 16 in training: the walk of selective_scan_bwd.cu, with the sums of dB and dC over
// channels on tensor cores. The two lowest bits of a thread's place in its warp are a channel, the next two that channel's lane, the
// highest one of two sets of four channels. So a thread's adjoints g (states h) are, as they lie in its registers, the first factor
// of an m16n8k8 product, rows states, k four channels of two steps:
//
//   dB_t[n] = sum over c of g_t[n, c] x_t[c]        dC_t[n] = sum over c of h_t[n, c] dy_t[c]
//
// The second factor has x_t (dy_t) in the column of step t and zeros beside it, so that four steps gather in four columns. A product
// holds two sets: a row meets its own set's columns and those of the other, which are dropped. Factors are cut to TF32.
//
// Count at 8 x 1536 x 1024, by ncu: 111 instructions a warp and step, a scheduler issuing 56 % of the time with its three warps; 32
// wavefronts of shared memory a step, 63 % of that pipe. Blocks end a round of eight steps together: one barrier a round.
#include "selective_scan_bwd_detail.cuh"
#include "tensor_cores.cuh"

namespace mambatune {
namespace cuda {
namespace {

using Config = ScanConfig<4, 4>;

constexpr int64_t kEnoughWarps = 800;
constexpr int kThreads = Config::kThreads, kChannels = Config::kChannels, kStored = Config::kStored, kStates = Config::kStates;
constexpr int kRound = 8;                           // steps between two additions of the warps' dB and dC
constexpr int kSub = 4;                             // steps whose decays and states are in registers; lanes of a channel
constexpr int kSubs = kScanTile / kSub;
constexpr int kSetChannels = 4;                     // channels summed by a product
constexpr int kSets = kChannels / kSetChannels;     // of a block; two in a warp
constexpr int kTiles = kStates / 2;                 // products that hold a thread's states
constexpr int kQuads = kChannels / 4;               // elements are staged and written four channels at a time
constexpr int kQuadRows = kThreads / kQuads;
constexpr int kQuadElements = kScanTile / kQuadRows;  // quads of a thread in a tile
constexpr int kPairRow = 4 * kStored + 4;           // dB, dC of two steps, without bank conflicts
constexpr int kWorkers = 64;                        // threads that end a round: half write elements, half add up dB and dC

static_assert(Config::kLanes == kSub && kRound * kQuads == kWorkers && kRound * kStored / 2 == kWorkers && kThreads == 2 * kWorkers);

struct Memory {
  float4 steps[kScanTile * kChannels];            // delta', delta' u, dy, u; by slot
  float gates[3][kScanTile * kChannels];          // dz over the ungated output, silu(z), slope of softplus; by channel
  float BC[kScanTile * 2 * kStored];              // [step][lane][B of its states, C of its states]
  float starts[kSubs * kThreads * kStates];       // each thread's states before every kSub steps
  float partial[2][kSets][kRound / 2 * kPairRow];  // of a set of channels: [two steps][dB, dC][two states][state][step]
  float sums[2][3][kRound * kChannels];           // sums over states: C h, g B, g a h A; by slot, rotated
  float bias[kChannels], skip[kChannels];
  int resets[kScanTile];
};

// The slot of channel k of quad i: threads that hold neighbouring quads, or neighbouring slots, meet no bank conflict.
__device__ __forceinline__ int slot_of(int i, int k) { return i + k * kQuads; }
__device__ __forceinline__ int channel_of(int slot) { return slot % kQuads * 4 + slot / kQuads; }
__device__ __forceinline__ int rotated(int row, int slot) { return row * kChannels + (slot ^ row % 4 * 8); }

// Where a thread stands: its channel and lane in the fragments, its quad and row in the elements.
struct Place : ScanPlace<Config> {
  int set, channel_lane, slot;  // set of channels in the warp; channel in the set
  int quad, quad_row;
  int64_t quad_channel;
  bool quad_live;

  __device__ Place(const SelectiveScanInputs& p, int chunks) : ScanPlace<Config>(p, chunks) {
    const int group = threadIdx.x % 32 / kSetChannels;
    channel_lane = threadIdx.x % kSetChannels;
    lane = group % Config::kLanes;
    set = group / Config::kLanes;
    slot = threadIdx.x / 32 * (32 / Config::kLanes) + set * kSetChannels + channel_lane;
    local = channel_of(slot);
    channel = channel_block * kChannels + local;
    live = channel < p.d_inner;
    quad = threadIdx.x % kQuads, quad_row = threadIdx.x / kQuads;
    quad_channel = channel_block * kChannels + quad * 4;
    quad_live = quad_channel < p.d_inner;
  }
};

// Starts copying B (first = 0) or C (first = kStates) of a tile.
template <int Width>
__device__ __forceinline__ void copy_rows(float* to, int first, const float* tile, int64_t stride, int steps) {
  for_each_row_part<Config, Width>(tile, stride, steps, kStored, [&](int t, int n, const float* at, bool exists) {
    float* row = to + t * 2 * kStored + first + n / kStates * 2 * kStates + n % kStates;
    __pipeline_memcpy_async(row, exists ? at : tile, 4 * Width, exists ? 0 : 4 * Width);
  });
}

// Of two values of a thread and its partner, keeps the sum of the low ones, or of the high ones.
template <int Mask>
__device__ __forceinline__ float exchange(bool keeps_high, float low, float high) {
  return (keeps_high ? high : low) + __shfl_xor_sync(0xffffffffu, keeps_high ? low : high, Mask);
}

// softplus() and its slope, from one exponential.
__device__ __forceinline__ float softplus_and_slope(float x, float& slope) {
  const float e = exp2_fast(-kLog2E * fabsf(x));
  const float r = reciprocal(1.0f + e);
  slope = x > 0.0f ? r : e * r;
  return softplus_of(x, e);
}

__device__ __forceinline__ void load_quad(float (&to)[4], const float* from) {
  const float4 quad = *reinterpret_cast<const float4*>(from);
  to[0] = quad.x, to[1] = quad.y, to[2] = quad.z, to[3] = quad.w;
}

// One store: nvcc takes that of a float4 apart.
__device__ __forceinline__ void store_quad(float* to, const float (&from)[4]) {
  __stcg(reinterpret_cast<float4*>(to), make_float4(from[0], from[1], from[2], from[3]));
}

// Element work before the recurrence; rows and channels that do not exist read others in their place.
__device__ __forceinline__ void stage_elements(Memory& memory, const SelectiveScanBwdParams& p, const Place& place, int64_t first, int steps) {
  float u[kQuadElements][4], raw[kQuadElements][4], z[kQuadElements][4] = {}, dout[kQuadElements][4];
  const int64_t channel = place.quad_live ? place.quad_channel : 0;
#pragma unroll
  for (int e = 0; e < kQuadElements; ++e) {
    const int64_t row = place.first_row + first + min(place.quad_row + e * kQuadRows, steps - 1);
    load_quad(raw[e], p.delta + row * p.delta_row_stride + channel);
    load_quad(u[e], p.u + row * p.u_row_stride + channel);
    load_quad(dout[e], p.dout + row * p.d_inner + channel);
    if (p.z) load_quad(z[e], p.z + row * p.z_row_stride + channel);
  }
  float bias[4];
  load_vector(bias, memory.bias + place.quad * 4);
#pragma unroll
  for (int e = 0; e < kQuadElements; ++e) {
    const int t = place.quad_row + e * kQuadRows;
    const bool exists = place.quad_live && t < steps;
    float z_factor[4], silu[4], slope[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float x = raw[e][k] + bias[k];
      slope[k] = 1.0f;
      float delta = x;
      if (p.delta_softplus) delta = softplus_and_slope(x, slope[k]);
      if (!exists) delta = dout[e][k] = 0.0f;
      const float gate = sigmoid(z[e][k]), dgate = dout[e][k] * gate;
      const float dy = p.z ? dgate * z[e][k] : dout[e][k];
      z_factor[k] = dgate * fmaf(z[e][k], 1.0f - gate, 1.0f);
      silu[k] = p.z ? z[e][k] * gate : 1.0f;
      memory.steps[t * kChannels + slot_of(place.quad, k)] = make_float4(delta, delta * u[e][k], dy, u[e][k]);
    }
    const int at = t * kChannels + place.quad * 4;
    store_vector(memory.gates[0] + at, z_factor);
    store_vector(memory.gates[1] + at, silu);
    store_vector(memory.gates[2] + at, slope);
  }
}

// Element work after the recurrence: a quad of step t, row `row` of the round's sums.
__device__ __forceinline__ void write_quad(const Memory& memory, const SelectiveScanBwdParams& p, const Place& place, int64_t first, int t,
                                           int buffer, int row) {
  float z_factor[4], silu[4], slope[4], skip[4], du[4], ddelta[4], dz[4], out[4];
  const int at = t * kChannels + place.quad * 4;
  load_vector(z_factor, memory.gates[0] + at);
  load_vector(silu, memory.gates[1] + at);
  load_vector(slope, memory.gates[2] + at);
  load_vector(skip, memory.skip + place.quad * 4);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int slot = slot_of(place.quad, k), sum = rotated(row, slot);
    const float4 step = memory.steps[t * kChannels + slot];
    const float grad_input = memory.sums[buffer][1][sum], ungated = fmaf(skip[k], step.w, memory.sums[buffer][0][sum]);
    du[k] = fmaf(step.x, grad_input, skip[k] * step.z);
    ddelta[k] = fmaf(step.w, grad_input, kLn2 * memory.sums[buffer][2][sum]) * slope[k];
    dz[k] = z_factor[k] * ungated;
    out[k] = ungated * silu[k];
  }
  const int64_t time = place.first_row + first + t;
  store_quad(p.du + time * p.du_row_stride + place.quad_channel, du);
  store_quad(p.ddelta + time * p.ddelta_row_stride + place.quad_channel, ddelta);
  if (p.dz) store_quad(p.dz + time * p.dz_row_stride + place.quad_channel, dz);
  if (p.out) store_quad(p.out + time * p.d_inner + place.quad_channel, out);
}

// Adds the sets' dB and dC, those of two states and two steps a thread, and writes those of `steps` steps.
__device__ __forceinline__ void flush_partial(const Memory& memory, float* to, int thread, int buffer, int steps) {
  const int pair = thread / kStored, part = thread % kStored;
  const float* from = memory.partial[buffer][0] + pair * kPairRow + part * 4;
  float sum[4];
  load_vector(sum, from);
#pragma unroll
  for (int set = 1; set < kSets; ++set) {
    float more[4];
    load_vector(more, from + set * (kRound / 2) * kPairRow);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] += more[k];
  }
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    float2* row = reinterpret_cast<float2*>(to + (2 * pair + q) * 2 * kStored) + part;
    if (2 * pair + q < steps) __stcg(row, make_float2(sum[q], sum[2 + q]));
  }
}

// Sums four steps' values over a channel's lanes; each lane is left with the sum of one step.
__device__ __forceinline__ float sum_over_lanes(const float (&value)[kSub], int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  const float low = exchange<kSetChannels>(odd, value[0], value[1]), high = exchange<kSetChannels>(odd, value[2], value[3]);
  return exchange<2 * kSetChannels>(upper, low, high);
}

__device__ __forceinline__ uint32_t bits(float x) { return __float_as_uint(x); }

template <bool Resets>
__global__ void __launch_bounds__(kThreads, 3)
    scan_backward_tensor_kernel(const __grid_constant__ SelectiveScanBwdParams p, const TimeSplit split, float* partial_BC) {
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<Memory*>(raw_memory);
  const Place place(p, split.chunks);
  let_next_start();
  if (threadIdx.x < kChannels) {
    memory.bias[threadIdx.x] = p.delta_bias && place.staged_live ? p.delta_bias[place.staged_channel] : 0.0f;
    memory.skip[threadIdx.x] = p.D && place.staged_live ? p.D[place.staged_channel] : 0.0f;
  }

  const float4* own_steps = memory.steps + place.slot;
  const float* own_BC = memory.BC + place.lane * 2 * kStates;
  float* own_starts = memory.starts + threadIdx.x * kStates;
  const int64_t first_state = place.lane * kStates;
  const int64_t state_row = (place.batch * p.d_inner + place.channel) * kStored + first_state;

  float A[kStates], g[kStates];  // g: the adjoint carried into the step before
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    A[j] = place.live ? p.A[place.channel * kStored + first_state + j] * kLog2E : 0.0f;
    if (split.starts) {
      const int64_t part = place.batch * split.chunks + place.chunk;
      g[j] = place.live ? split.starts[(part * p.d_inner + place.channel) * kStored + first_state + j] : 0.0f;
    } else {
      g[j] = place.live && p.dlast_state ? p.dlast_state[state_row + j] : 0.0f;
    }
  }
  const bool quads = rows_are_quads<Config>(p);

  const int first_tile = static_cast<int>(place.chunk) * split.chunk_tiles;
  const int end_tile = min(first_tile + split.chunk_tiles, split.tiles);
  __syncthreads();
  for (int tile = end_tile - 1; tile >= first_tile; --tile) {
    const int64_t first = static_cast<int64_t>(tile) * kScanTile, row = place.first_row + first;
    const int steps = static_cast<int>(min(static_cast<int64_t>(kScanTile), p.seqlen - first));
    if (quads) {
      copy_rows<4>(memory.BC, 0, p.B + row * p.B_row_stride, p.B_row_stride, steps);
      copy_rows<4>(memory.BC, kStates, p.C + row * p.C_row_stride, p.C_row_stride, steps);
    } else {
      copy_rows<1>(memory.BC, 0, p.B + row * p.B_row_stride, p.B_row_stride, steps);
      copy_rows<1>(memory.BC, kStates, p.C + row * p.C_row_stride, p.C_row_stride, steps);
    }
    __pipeline_commit();
    float h[kStates] = {};
    if (tile > 0 && place.live) {
      load_quad(h, p.checkpoints + checkpoint_offset(place.batch, tile, place.channel, split.tiles, p.d_inner, kStored) + first_state);
    } else if (p.h0 && place.live) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) h[j] = p.h0[state_row + j];
    }
    stage_elements(memory, p, place, first, steps);
    if constexpr (Resets) stage_resets(memory.resets, p.seq_idx, place.first_row, first, p.seqlen);
    __pipeline_wait_prior(0);
    __syncthreads();
    if (tile > first_tile) prefetch_tile<Config>(p, place, tile - 1, split.tiles);

    const int rounds = (steps + kRound - 1) / kRound, subs = rounds * (kRound / kSub);
#pragma unroll 1
    for (int sub = 0; sub < subs; ++sub) {
      store_vector(own_starts + sub * kThreads * kStates, h);
      if (sub + 1 == subs) break;
#pragma unroll
      for (int i = 0; i < kSub; ++i) {
        const int t = sub * kSub + i;
        const float2 step = *reinterpret_cast<const float2*>(own_steps + t * kChannels);
        float B[kStates];
        load_vector(B, own_BC + t * 2 * kStored);
        const bool reset = Resets && memory.resets[t];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          if (reset) h[j] = 0.0f;
          h[j] = fmaf(exp2_fast(step.x * A[j]), h[j], step.y * B[j]);
        }
      }
    }

#pragma unroll 1
    for (int round = rounds - 1; round >= 0; --round) {
#pragma unroll
      for (int half = 1; half >= 0; --half) {
        const int sub = round * (kRound / kSub) + half;
        float decay[kSub][kStates], state[kSub + 1][kStates];  // state[i]: before step i
        float B[kSub][kStates], C[kSub][kStates], x[kSub], dy[kSub];
        load_vector(state[0], own_starts + sub * kThreads * kStates);
#pragma unroll
        for (int i = 0; i < kSub; ++i) {
          const int t = sub * kSub + i;
          const float4 step = own_steps[t * kChannels];
          x[i] = step.y, dy[i] = step.z;
          load_vector(B[i], own_BC + t * 2 * kStored);
          load_vector(C[i], own_BC + t * 2 * kStored + kStates);
          const bool reset = Resets && memory.resets[t];
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            decay[i][j] = reset ? 0.0f : exp2_fast(step.x * A[j]);
            state[i + 1][j] = fmaf(decay[i][j], state[i][j], x[i] * B[i][j]);
          }
        }
        float dB[kTiles][4], dC[kTiles][4], adjoint[kSub][kStates], y[kSub] = {}, grad_input[kSub] = {}, grad_decay[kSub] = {};
#pragma unroll
        for (int i = kSub - 1; i >= 0; --i) {
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            g[j] = fmaf(C[i][j], dy[i], g[j]);
            adjoint[i][j] = g[j];
            y[i] = fmaf(C[i][j], state[i + 1][j], y[i]);
            grad_input[i] = fmaf(g[j], B[i][j], grad_input[i]);
            g[j] *= decay[i][j];
            grad_decay[i] = fmaf(g[j] * state[i][j], A[j], grad_decay[i]);
          }
          if (i % 2 == 1) continue;
          // The columns of steps i and i + 1 are those of lanes i and i + 1.
          const bool own = place.lane == i, next = place.lane == i + 1;
          const uint32_t scale_B[2] = {bits(own ? x[i] : 0.0f), bits(next ? x[i + 1] : 0.0f)};
          const uint32_t scale_C[2] = {bits(own ? dy[i] : 0.0f), bits(next ? dy[i + 1] : 0.0f)};
#pragma unroll
          for (int k = 0; k < kTiles; ++k) {
            const uint32_t adjoints[4] = {bits(adjoint[i][2 * k]), bits(adjoint[i][2 * k + 1]), bits(adjoint[i + 1][2 * k]),
                                          bits(adjoint[i + 1][2 * k + 1])};
            const uint32_t states[4] = {bits(state[i + 1][2 * k]), bits(state[i + 1][2 * k + 1]), bits(state[i + 2][2 * k]),
                                        bits(state[i + 2][2 * k + 1])};
            if (i == kSub - 2) {
              mma_16x8x8_from_zero(dB[k], adjoints, scale_B);
              mma_16x8x8_from_zero(dC[k], states, scale_C);
            } else {
              mma_16x8x8(dB[k], adjoints, scale_B);
              mma_16x8x8(dC[k], states, scale_C);
            }
          }
        }
        float* sum = memory.sums[round & 1][0] + rotated(half * kSub + place.lane, place.slot);
        const float sum_y = sum_over_lanes(y, place.lane), sum_input = sum_over_lanes(grad_input, place.lane),
                    sum_decay = sum_over_lanes(grad_decay, place.lane);
        sum[0] = sum_y;
        sum[kRound * kChannels] = sum_input;
        sum[2 * kRound * kChannels] = sum_decay;
        if (place.channel_lane / 2 == place.set) {  // not the other set's columns
          float* to = memory.partial[round & 1][threadIdx.x / 32 * kTiles + place.set] +
                      (place.channel_lane % 2 + half * kSub / 2) * kPairRow + place.lane * kTiles * 4;
#pragma unroll
          for (int k = 0; k < kTiles; ++k) {
            store_vector(to + k * 4, dB[k]);
            store_vector(to + k * 4 + 2 * kStored, dC[k]);
          }
        }
      }
      __syncthreads();
      // Half of the threads write the round's elements, the others add up its dB and dC, in turn.
      const int start = round * kRound, thread = threadIdx.x % kWorkers;
      if ((threadIdx.x / kWorkers + round) % 2 == 0) {
        const int row = thread / kQuads, t = start + row;
        if (place.quad_live && t < steps) write_quad(memory, p, place, first, t, round & 1, row);
      } else {
        float* to = partial_BC + (place.channel_block * p.batch * p.seqlen + place.first_row + first + start) * 2 * kStored;
        flush_partial(memory, to, thread, round & 1, steps - start);
      }
    }
    __syncthreads();
  }

  if (place.chunk == 0 && p.dh0 && place.live) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) p.dh0[state_row + j] = g[j];
  }
}

template <bool Resets>
Error scan_backward(const SelectiveScanBwdParams& p) {
  const int64_t channel_blocks = ceil_div(p.d_inner, kChannels), blocks = p.batch * channel_blocks;
  TimeSplit split = split_time(blocks, kThreads / 32, p.seqlen, kEnoughWarps);
  Scratch states, BC;
  MAMBATUNE_TRY((start_chunks<Config, Resets, true>(p, p.dout, p.dlast_state, split, states)));
  MAMBATUNE_TRY(BC.reserve(channel_blocks * p.batch * p.seqlen * 2 * kStored));
  const auto kernel = scan_backward_tensor_kernel<Resets>;
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Memory)), kScanBackward));
  kernel<<<static_cast<unsigned>(blocks * split.chunks), kThreads, sizeof(Memory), stream()>>>(p, split, BC.get());
  MAMBATUNE_CHECK_LAUNCH(kScanBackward);
  return sum_channel_blocks(p, BC.get(), channel_blocks, kStored);
}

}  // namespace

bool tensor_cores_fit(const SelectiveScanBwdParams& p) {
  if (p.d_state != kStored || p.dA || p.dD || p.ddelta_bias || p.d_inner % 4 != 0) return false;
  for (const void* rows : {static_cast<const void*>(p.u), static_cast<const void*>(p.delta), static_cast<const void*>(p.z),
                           static_cast<const void*>(p.dout), static_cast<const void*>(p.du), static_cast<const void*>(p.ddelta),
                           static_cast<const void*>(p.dz), static_cast<const void*>(p.out), static_cast<const void*>(p.checkpoints)}) {
    if (!aligned_to(rows, 16)) return false;
  }
  const int64_t strides = p.u_row_stride | p.delta_row_stride | p.du_row_stride | p.ddelta_row_stride |
                          (p.z ? p.z_row_stride | p.dz_row_stride : 0);
  return strides % 4 == 0;
}

Error selective_scan_bwd_tensor_cores(const SelectiveScanBwdParams& p) {
  return p.seq_idx ? scan_backward<true>(p) : scan_backward<false>(p);
}

}  // namespace cuda
}  // namespace mambatune
