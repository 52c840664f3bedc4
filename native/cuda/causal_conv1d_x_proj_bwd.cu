// SPDX-License-Identifier: Apache-2.0
// The backward of the convolution together with that of x_proj, the layer that reads its output u: u's gradient is
// dy + [dxa, ddbc] [lora_A; W], and lora_A's own is dxa^T u, so that u's gradient is never written whole and u never read.
//
// A block owns 64 channels and walks a run of time in tiles of 32 steps, the next tile's x, dy and [dxa, ddbc] on their way
// meanwhile. A warp owns 16 of the channels, whose part of [lora_A; W] stays in its registers as TF32 fragments. It adds the
// product to dy in shared memory; then a quarter of its lanes, two channels each, walks eight of the steps, and the gradients of the
// last three go to the next quarter by shuffles, which emits dx three steps late.
//
// Count at 8 x 1536 x 1024, n 80, r 8: 154 MB, 51 us at 3 TB/s; 64 instructions for two channels and a step beside the product's,
// copies and rounding, 26 us of issue. An H100 takes 80 us.
#include "causal_conv1d.cuh"

#include <cuda_pipeline_primitives.h>

#include <algorithm>

#include "cublas.h"
#include "ops.cuh"
#include "tensor_cores.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kTaps = 4;
constexpr int kHalo = kTaps - 1;  // steps whose gradients the ones before them need
constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kWarpChannels = 16, kBlockChannels = kWarps * kWarpChannels, kQuads = kBlockChannels / 4;
constexpr int kTile = 32;
constexpr int kSegments = 4, kSteps = kTile / kSegments;  // eight lanes to a segment of steps, two channels each
constexpr int64_t kMostRank = 16, kMostFactors = 8 * 17;  // columns of [dxa, ddbc]
constexpr int64_t kBlocksWanted = 384;                    // of long runs: three for each of an H100's processors

// Runs of time: `steps` positions each, a multiple of kTile, so that the steps behind a run have a tile of their own; `per_sequence` of
// them in a sequence.
struct Runs {
  int64_t per_sequence, steps;
  float* dlora_A;  // [runs, r, d_inner] or null: each one's part
};

// A block's run and channels.
struct Place {
  int64_t run, begin, first_row, channel;  // begin: of the run in its sequence; first_row: the same among all rows
  int length, stop;                        // steps of the run, and with those behind it that its gradients need

  __device__ Place(const CausalConv1dBwdParams& p, const Runs& runs) {
    const int64_t groups = ceil_div(p.d_inner, kBlockChannels);
    channel = blockIdx.x % groups * kBlockChannels;
    run = blockIdx.x / groups;
    begin = run % runs.per_sequence * runs.steps;
    first_row = run / runs.per_sequence * p.seqlen + begin;
    const int64_t left = p.seqlen - begin;
    length = static_cast<int>(min(runs.steps, left));
    stop = static_cast<int>(min(runs.steps + kHalo, left));
  }
  __device__ int rows_at(int first) const { return max(min(stop - first, kTile), 0); }
};

// Rows of [dxa, ddbc] lie an odd number of quads apart, and every eight of them are shifted by one quad more, so that a quad of each of
// eight neighbouring rows, and of one row of every segment, come from different banks.
template <int KSteps>
struct Stage {
  static constexpr int kPitch = 8 * KSteps + 4;
  float x[kTile * kBlockChannels], dy[kTile * kBlockChannels];
  float factors[kTile * kPitch + kTile / 2];
  int32_t documents[kTile + kTaps];  // from kHalo steps before the tile on

  // Of x and dy: groups of 16 channels change places from row to row and from segment to segment.
  static __device__ __forceinline__ int element(int row, int column) {
    return row * kBlockChannels + (column ^ (((row ^ row / kSteps) & 1) * kWarpChannels));
  }
  static __device__ __forceinline__ int factor(int row, int k) { return row * kPitch + row / 8 * 4 + k; }
};

// Brings tiles into the stages, and rounds to TF32 what it brought of ddbc; dxa stays as it is for lora_A's gradient. Rows past the
// run's last and channels past d_inner become zeros, which add nothing to any sum.
template <int KSteps, int Rank, bool Resets>
struct Loader {
  static constexpr int kRowsAtOnce = kThreads / kQuads;
  static constexpr int kDoutQuads = ceil_div((8 * KSteps - Rank) / 4 * kTile, kThreads);
  const float *x, *dy, *dout, *dxa;
  int64_t x_step, dy_step;
  int to, row, n, r, dout_quads, dxa_quads, dout_to[kDoutQuads], dxa_to;
  bool live, regular;  // regular: every thread has its channels and kDoutQuads quads of ddbc

  __device__ Loader(const CausalConv1dBwdParams& p, const Place& place) {
    row = threadIdx.x / kQuads;
    const int column = threadIdx.x % kQuads * 4;
    to = Stage<KSteps>::element(row, column);
    live = place.channel + column < p.d_inner;
    x = p.x + (place.first_row + row) * p.x_row_stride + place.channel + column;
    dy = p.dy + (place.first_row + row) * p.d_inner + place.channel + column;
    x_step = kRowsAtOnce * p.x_row_stride;
    dy_step = kRowsAtOnce * p.d_inner;
    n = static_cast<int>(p.x_proj.n);
    r = static_cast<int>(p.x_proj.r);
    dout_quads = kTile * n / 4;
    dxa_quads = kTile * r / 4;
    regular = place.channel + kBlockChannels <= p.d_inner && dout_quads == kDoutQuads * kThreads;
    dout = p.x_proj.dout + place.first_row * p.x_proj.n + threadIdx.x * 4;
    dxa = p.x_proj.dxa + place.first_row * r + threadIdx.x * 4;
    const int thread = threadIdx.x, quad_in_row = r > 0 ? thread % (r / 4) : 0;
    dxa_to = r > 0 ? Stage<KSteps>::factor(thread / (r / 4), quad_in_row * 4) : 0;
#pragma unroll
    for (int i = 0; i < kDoutQuads; ++i) {
      const int quad = thread + i * kThreads;
      dout_to[i] = Stage<KSteps>::factor(quad / (n / 4), Rank + quad % (n / 4) * 4);
    }
  }

  template <bool Whole>
  __device__ __forceinline__ void copy(const CausalConv1dBwdParams& p, int rows, Stage<KSteps>& stage) const {
#pragma unroll
    for (int i = 0; i < kTile / kRowsAtOnce; ++i) {
      const int at = (to ^ (i % 2 * kWarpChannels)) + i * kRowsAtOnce * kBlockChannels;
      const bool exists = Whole || (live && row + i * kRowsAtOnce < rows);
      copy_quad(stage.x + at, x + i * x_step, exists, p.x);
      copy_quad(stage.dy + at, dy + i * dy_step, exists, p.dy);
    }
#pragma unroll
    for (int i = 0; i < kDoutQuads; ++i) {
      const int quad = threadIdx.x + i * kThreads;
      if (Whole || quad < dout_quads) copy_quad(stage.factors + dout_to[i], dout + i * kThreads * 4, Whole || quad < rows * n / 4, p.x_proj.dout);
    }
    const int quad = threadIdx.x;
    if (quad < dxa_quads) copy_quad(stage.factors + dxa_to, dxa, Whole || quad < rows * r / 4, p.x_proj.dxa);
  }

  // The tile at step `first` of the run, tiles in their order.
  __device__ __forceinline__ void start(const CausalConv1dBwdParams& p, const Place& place, int first, Stage<KSteps>& stage) {
    const int rows = place.rows_at(first);
    if (rows == kTile && regular) {
      copy<true>(p, rows, stage);
    } else {
      copy<false>(p, rows, stage);
    }
    if constexpr (Resets) {
      if (threadIdx.x < kTile + kHalo) {
        const int64_t step = first + static_cast<int>(threadIdx.x) - kHalo;
        const int64_t at = min(max(step, -place.begin), p.seqlen - 1 - place.begin);
        __pipeline_memcpy_async(stage.documents + threadIdx.x, p.seq_idx + place.first_row + at, 4);
      }
    }
    __pipeline_commit();
    x += kTile / kRowsAtOnce * x_step;
    dy += kTile / kRowsAtOnce * dy_step;
    dout += kTile * n;
    dxa += kTile * r;
  }

  __device__ __forceinline__ void finish(Stage<KSteps>& stage) const {
    __pipeline_wait_prior(0);
#pragma unroll
    for (int i = 0; i < kDoutQuads; ++i) {
      if (!regular && static_cast<int>(threadIdx.x) + i * kThreads >= dout_quads) continue;
      uint4* at = reinterpret_cast<uint4*>(stage.factors + dout_to[i]);
      const float4 value = *reinterpret_cast<const float4*>(at);
      *at = make_uint4(to_tf32(value.x), to_tf32(value.y), to_tf32(value.z), to_tf32(value.w));
    }
  }

 private:
  static __device__ __forceinline__ void copy_quad(float* to, const float* from, bool exists, const float* instead) {
    __pipeline_memcpy_async(to, exists ? from : instead, 16, exists ? 0 : 16);
  }
};

// Zeros where [dxa, ddbc] has no columns.
template <int Rank, int KSteps>
__device__ void clear_padding(const XProjBackward& proj, Stage<KSteps>& stage) {
  const int row = threadIdx.x / kWarps, r = static_cast<int>(proj.r), used = Rank + static_cast<int>(proj.n);
#pragma unroll 1
  for (int k = threadIdx.x % kWarps; k < 8 * KSteps; k += kWarps) {
    if ((k >= r && k < Rank) || k >= used) stage.factors[Stage<KSteps>::factor(row, k)] = 0.0f;
  }
}

// A warp's 16 channels of [lora_A; W] as the second operand of mma_16x8x8: step j has rows 8 j to 8 j + 7; column c of
// half i is channel 4 (c / 2) + 2 i + c % 2, so that a thread's four results of a row are neighbours.
template <int KSteps, int Rank>
struct Factors {
  uint32_t of[KSteps][2][2];

  __device__ Factors(const CausalConv1dBwdParams& p, int64_t channel) {
    const int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const XProjBackward& proj = p.x_proj;
    const int64_t at = channel + group / 2 * 4 + group % 2;
#pragma unroll
    for (int j = 0; j < KSteps; ++j) {
      const bool of_A = 8 * j < Rank;
      const float* matrix = of_A ? proj.lora_A : proj.W;
      const int rows = static_cast<int>(of_A ? proj.r : proj.n);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int k = 8 * j + place + 4 * h - (of_A ? 0 : Rank);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool exists = k < rows && at + 2 * i < p.d_inner;
          of[j][i][h] = to_tf32(exists ? matrix[k * p.d_inner + at + 2 * i] : 0.0f);
        }
      }
    }
  }
};

// dy += [dxa, ddbc] [lora_A; W] for the tile and a warp's channels.
template <int KSteps, int Rank>
__device__ __forceinline__ void add_product(const Factors<KSteps, Rank>& factors, int column, Stage<KSteps>& stage) {
  const int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
  float sums[kTile / 16][2][4] = {};
  const float* quad = stage.factors + Stage<KSteps>::factor(lane % 16, lane / 16 * 4);
#pragma unroll
  for (int j = 0; j < KSteps; ++j) {
#pragma unroll
    for (int m = 0; m < kTile / 16; ++m) {
      uint32_t a[4];
      load_16x8(a, quad + Stage<KSteps>::factor(16 * m, 8 * j));
      if (8 * j < Rank) {
#pragma unroll
        for (uint32_t& of_dxa : a) of_dxa = to_tf32(__uint_as_float(of_dxa));
      }
      mma_16x8x8(sums[m][0], a, factors.of[j][0]);
      mma_16x8x8(sums[m][1], a, factors.of[j][1]);
    }
  }
  const int first = Stage<KSteps>::element(group, column + 4 * place);
#pragma unroll
  for (int m = 0; m < kTile / 16; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = (first ^ (h * kWarpChannels)) + (16 * m + 8 * h) * kBlockChannels;
      float4* to = reinterpret_cast<float4*>(stage.dy + at);
      const float4 dy = *to;
      *to = make_float4(dy.x + sums[m][0][2 * h], dy.y + sums[m][0][2 * h + 1], dy.z + sums[m][1][2 * h], dy.w + sums[m][1][2 * h + 1]);
    }
  }
}

// A lane's two channels and segment of every tile: the gradients of the values before the SiLU, and dx of the steps from kHalo before the
// segment on. What it keeps from tile to tile are x and those gradients of the last steps of the tile before.
template <int KSteps, int Rank, bool Resets>
struct Walker {
  using Tile = Stage<KSteps>;
  float tap[kTaps][2], bias[2];
  float x_before[kHalo][2], grad_before[kHalo][2];
  float dlora_A[Rank][2];
  int lane, segment, even, odd, last;  // places in a tile: of the segment's rows, less the row, and of the last segment's
  unsigned length;
  float* dx;
  int64_t dx_row_stride;

  __device__ Walker(const CausalConv1dBwdParams& p, const Place& place, int column) : x_before{}, grad_before{}, dlora_A{} {
    lane = threadIdx.x % 32;
    segment = lane / 8;
    even = Tile::element(segment * kSteps, column);
    odd = even ^ kWarpChannels;
    last = Tile::element(kTile - 1, column);
    const int64_t channel = place.channel + column;
    const bool live = channel < p.d_inner;
    length = live ? place.length : 0;
    dx = p.dx + (place.first_row + segment * kSteps - kHalo) * p.dx_row_stride + channel;
    dx_row_stride = p.dx_row_stride;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      bias[c] = live && p.bias ? p.bias[channel + c] : 0.0f;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) tap[k][c] = live ? p.weight[(channel + c) * kTaps + k] : 0.0f;
#pragma unroll
      for (int k = 0; k < kHalo; ++k) {
        if (live && place.begin + k >= kHalo) x_before[k][c] = p.x[(place.first_row + k - kHalo) * p.x_row_stride + channel + c];
      }
    }
  }

  static __device__ __forceinline__ void read(const float* from, float (&to)[2]) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    to[0] = pair.x, to[1] = pair.y;
  }

  // The tile at step `first` of the run. Behind the run only the first kHalo steps are of use, for the run's own last gradients.
  __device__ __forceinline__ void walk(const Tile& stage, int first, int run_length) {
    const bool behind = first >= run_length;
    int32_t owner[kHalo + kSteps];
    if constexpr (Resets) {
#pragma unroll
      for (int i = 0; i < kHalo + kSteps; ++i) owner[i] = stage.documents[segment * kSteps + i];
    }
    const auto same = [&](int i, int j) {
      if constexpr (Resets) return owner[i] == owner[j];
      return true;
    };

    float x[kHalo + kSteps][2], grad[kHalo + kSteps][2] = {};
#pragma unroll
    for (int k = 0; k < kHalo; ++k) {  // of the segment before
      read(stage.x + (segment == 0 ? 0 : ((k & 1) ? odd : even) + (k - kHalo) * kBlockChannels), x[k]);
#pragma unroll
      for (int c = 0; c < 2; ++c) x[k][c] = segment == 0 ? x_before[k][c] : x[k][c];
      read(stage.x + (last ^ ((k & 1) * kWarpChannels)) + (k + 1 - kHalo) * kBlockChannels, x_before[k]);
    }
    const float* dxa_rows = stage.factors + Tile::factor(segment * kSteps, 0);
    const auto step = [&](int i) {
      const int now = kHalo + i, at = ((i & 1) ? odd : even) + i * kBlockChannels;
      float dy[2], u[2];
      read(stage.x + at, x[now]);
      read(stage.dy + at, dy);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float pre = bias[c];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) pre = fmaf(same(i + k, now) ? tap[k][c] : 0.0f, x[i + k][c], pre);
        const float gate = sigmoid(pre);
        u[c] = pre * gate;
        grad[now][c] = dy[c] * fmaf(u[c], 1.0f - gate, gate);
      }
      if (behind) return;
#pragma unroll
      for (int k = 0; k < Rank; k += 4) {
        const float4 dxa = *reinterpret_cast<const float4*>(dxa_rows + i * Tile::kPitch + k);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          dlora_A[k][c] = fmaf(dxa.x, u[c], dlora_A[k][c]);
          dlora_A[k + 1][c] = fmaf(dxa.y, u[c], dlora_A[k + 1][c]);
          dlora_A[k + 2][c] = fmaf(dxa.z, u[c], dlora_A[k + 2][c]);
          dlora_A[k + 3][c] = fmaf(dxa.w, u[c], dlora_A[k + 3][c]);
        }
      }
    };
    const unsigned emitted = first + segment * kSteps - kHalo;  // as a step of the run, of row 0 of grad
    float* to = dx;
    const auto emit = [&](int i) {
      float sum[2] = {};
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
#pragma unroll
        for (int c = 0; c < 2; ++c) sum[c] = fmaf(same(i, i + k) ? tap[kHalo - k][c] : 0.0f, grad[i + k][c], sum[c]);
      }
      if (emitted + i < length) __stcg(reinterpret_cast<float2*>(to), make_float2(sum[0], sum[1]));
      to += dx_row_stride;
    };

#pragma unroll
    for (int i = 0; i < kHalo; ++i) step(i);
    if (!behind) {
#pragma unroll
      for (int i = kHalo; i < kSteps; ++i) step(i);
    }
#pragma unroll
    for (int k = 0; k < kHalo; ++k) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float ahead = grad[kSteps + k][c];
        grad[k][c] = __shfl_sync(0xffffffffu, segment == kSegments - 1 ? grad_before[k][c] : ahead, lane + 32 - 8);
        grad_before[k][c] = ahead;
      }
    }
#pragma unroll
    for (int i = 0; i < kHalo; ++i) emit(i);
    if (behind) return;
#pragma unroll
    for (int i = kHalo; i < kSteps; ++i) emit(i);
    dx += kTile * dx_row_stride;
  }
};

template <int KSteps, int Rank, bool Resets>
__global__ void __launch_bounds__(kThreads, KSteps * Rank <= 104 ? 3 : 2)
    conv_x_proj_backward_kernel(const __grid_constant__ CausalConv1dBwdParams p, const __grid_constant__ Runs runs) {
  extern __shared__ float4 raw_memory[];
  Stage<KSteps>* const stages = reinterpret_cast<Stage<KSteps>*>(raw_memory);
  const Place place(p, runs);
  const int lane = threadIdx.x % 32, warp_column = threadIdx.x / 32 * kWarpChannels, column = warp_column + lane % 8 * 2;
  let_next_start();
  wait_for_previous();

  Loader<KSteps, Rank, Resets> loader(p, place);
  loader.start(p, place, 0, stages[0]);
  for (int i = 0; i < 2; ++i) clear_padding<Rank>(p.x_proj, stages[i]);
  const Factors<KSteps, Rank> factors(p, place.channel + warp_column);
  Walker<KSteps, Rank, Resets> walker(p, place, column);

  int now = 0;
#pragma unroll 1
  for (int first = 0; first < place.length + kHalo; first += kTile, now ^= 1) {
    loader.finish(stages[now]);
    __syncthreads();
    if (first + kTile < place.length + kHalo) loader.start(p, place, first + kTile, stages[now ^ 1]);
    add_product(factors, warp_column, stages[now]);
    __syncwarp();
    walker.walk(stages[now], first, place.length);
  }
  if (!runs.dlora_A) return;
  const int64_t channel = place.channel + column;
  float* parts = runs.dlora_A + place.run * p.x_proj.r * p.d_inner + channel;
#pragma unroll
  for (int k = 0; k < Rank; ++k) {
    float sum[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      sum[c] = walker.dlora_A[k][c] + __shfl_xor_sync(0xffffffffu, walker.dlora_A[k][c], 8);
      sum[c] += __shfl_xor_sync(0xffffffffu, sum[c], 16);
    }
    if (lane < 8 && k < p.x_proj.r && channel < p.d_inner) __stcg(reinterpret_cast<float2*>(parts + k * p.d_inner), make_float2(sum[0], sum[1]));
  }
}

template <int KSteps, int Rank, bool Resets>
Error launch(const CausalConv1dBwdParams& p) {
  const int64_t groups = ceil_div(p.d_inner, kBlockChannels);
  const int64_t wanted = std::max<int64_t>(1, kBlocksWanted / (groups * p.batch));
  Runs runs = {};
  runs.steps = ceil_div(ceil_div(p.seqlen, wanted), kTile) * kTile;
  runs.per_sequence = ceil_div(p.seqlen, runs.steps);
  const int64_t all = p.batch * runs.per_sequence, size = p.x_proj.r * p.d_inner;
  Scratch parts;
  if (p.x_proj.dlora_A) MAMBATUNE_TRY(parts.reserve(all * size));
  runs.dlora_A = parts.get();
  const auto kernel = conv_x_proj_backward_kernel<KSteps, Rank, Resets>;
  constexpr int kBytes = 2 * sizeof(Stage<KSteps>);
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kConvBackwardOp));
  MAMBATUNE_TRY(launch_early_with_memory(kernel, static_cast<unsigned>(groups * all), kThreads, kBytes, kConvBackwardOp, p, runs));
  return runs.dlora_A ? column_sums(runs.dlora_A, p.x_proj.dlora_A, all, size, kConvBackwardOp) : nullptr;
}

template <int KSteps, int Rank>
Error launch(const CausalConv1dBwdParams& p) {
  return p.seq_idx ? launch<KSteps, Rank, true>(p) : launch<KSteps, Rank, false>(p);
}

template <int Rank>
Error launch(const CausalConv1dBwdParams& p) {
  const int64_t columns = Rank + p.x_proj.n;
  return columns <= 88 ? launch<11, Rank>(p) : columns <= 104 ? launch<13, Rank>(p) : launch<17, Rank>(p);
}

}  // namespace

bool causal_conv1d_bwd_takes_x_proj(const CausalConv1dBwdParams& p) {
  const XProjBackward& proj = p.x_proj;
  return matmul_precision() != MatmulPrecision::kHighest && p.d_conv == kTaps && p.d_inner % 4 == 0 && proj.n % 4 == 0 && proj.r % 4 == 0 && p.x_row_stride % 4 == 0 &&
         p.dx_row_stride % 2 == 0 && aligned_to(p.x, 16) && aligned_to(p.dy, 16) && aligned_to(p.dx, 8) && aligned_to(proj.dout, 16) && aligned_to(proj.dxa, 16) &&
         proj.r <= kMostRank && proj.n + (proj.r <= 8 ? 8 : kMostRank) <= kMostFactors;
}

Error causal_conv1d_x_proj_bwd(const CausalConv1dBwdParams& p) {
  if (!causal_conv1d_bwd_takes_x_proj(p)) return "causal_conv1d backward: an x_proj of this shape goes through lora_linear";
  return p.x_proj.r <= 8 ? launch<8>(p) : launch<16>(p);
}

}  // namespace cuda
}  // namespace mambatune
