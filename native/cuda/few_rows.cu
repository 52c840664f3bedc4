// SPDX-License-Identifier: Apache-2.0
// A warp, or eight threads where rows of W are short, owns a row of W and multiplies it with every row of x. The weight is asked for
// before the kernel waits for the one that writes x, so that its way from memory passes beside that one's end.
//
// Bytes: W once, in bfloat16 where it is kept so; x comes from the first-level cache. At one row of a 130m model's in_proj 4.7 MB,
// 1.6 us at 3.0 TB/s.
#include "few_rows.cuh"

#include "launch.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kAhead = 6;            // vectors of W on their way
constexpr int64_t kShortRow = 128;   // elements

template <class Element, int Rows, int Lanes>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const __grid_constant__ FewRows p, const Element* weight) {
  constexpr int kWidth = 16 / sizeof(Element), kStep = Lanes * kWidth;
  const int64_t row = first_index() / Lanes;
  const int lane = threadIdx.x % Lanes;
  const bool live = row < p.out;
  const Element* own = weight + (live ? row : 0) * p.in;
  uint4 ahead[kAhead];
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t col = first + i * kStep;
      ahead[i] = col < p.in ? __ldg(reinterpret_cast<const uint4*>(own + col)) : uint4{};
    }
  };
  if (p.frozen) fetch(lane * kWidth);
  let_next_start();
  wait_for_previous();
  if (!p.frozen) fetch(lane * kWidth);

  float sum[Rows];
#pragma unroll
  for (int i = 0; i < Rows; ++i) sum[i] = p.bias && lane == 0 && live ? p.bias[row] : 0.0f;
  for (int64_t k = lane; k < p.r && live; k += Lanes) {
    const float b = p.scale * p.B[row * p.r + k];
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      if (i < p.rows) sum[i] = fmaf(p.xa[i * p.xa_row_stride + k], b, sum[i]);
    }
  }
  for (int64_t first = lane * kWidth; first < p.in; first += kAhead * kStep) {
#pragma unroll
    for (int v = 0; v < kAhead; ++v) {
      const int64_t col = first + v * kStep;
      if (col >= p.in) break;
      float w[kWidth];
      widen(w, ahead[v]);
#pragma unroll
      for (int i = 0; i < Rows; ++i) {
        const float* x = p.x + (i < p.rows ? i : 0) * p.x_row_stride + col;
#pragma unroll
        for (int j = 0; j < kWidth; j += 4) {
          const float4 quad = *reinterpret_cast<const float4*>(x + j);
          sum[i] = fmaf(quad.x, w[j], sum[i]);
          sum[i] = fmaf(quad.y, w[j + 1], sum[i]);
          sum[i] = fmaf(quad.z, w[j + 2], sum[i]);
          sum[i] = fmaf(quad.w, w[j + 3], sum[i]);
        }
      }
    }
    if (first + kAhead * kStep < p.in) fetch(first + kAhead * kStep);
  }
  float mine = 0.0f;
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int mask = Lanes / 2; mask > 0; mask /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], mask);
    if (lane == i) mine = sum[i];
  }
  if (live && lane < p.rows) p.y[lane * p.y_row_stride + row] = mine;
}

template <class Element, int Rows>
Error launch(const FewRows& p, const Element* weight, const char* op) {
  const auto blocks = [&](int lanes) { return static_cast<unsigned>(ceil_div(p.out * lanes, kThreads)); };
  if (p.in <= kShortRow) return launch_early(few_rows_kernel<Element, Rows, 8>, blocks(8), kThreads, op, p, weight);
  return launch_early(few_rows_kernel<Element, Rows, 32>, blocks(32), kThreads, op, p, weight);
}

template <class Element>
Error launch(const FewRows& p, const Element* weight, const char* op) {
  if (p.rows == 1) return launch<Element, 1>(p, weight, op);
  if (p.rows == 2) return launch<Element, 2>(p, weight, op);
  if (p.rows <= 4) return launch<Element, 4>(p, weight, op);
  return launch<Element, 8>(p, weight, op);
}

}  // namespace

bool few_rows_fit(const FewRows& p) {
  const void* weight = p.half ? static_cast<const void*>(p.half) : p.W;
  return p.rows <= kMostFewRows && p.in % (p.half ? 8 : 4) == 0 && aligned_to(weight, 16) && aligned_to(p.x, 16) && p.x_row_stride % 4 == 0;
}

Error few_rows_linear(const FewRows& p, const char* op) { return p.half ? launch(p, p.half, op) : launch(p, p.W, op); }

}  // namespace cuda
}  // namespace mambatune
