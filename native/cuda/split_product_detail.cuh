// SPDX-License-Identifier: Apache-2.0
// What both kernels of a split product share: what is multiplied, which tile a block has, and how sums leave it.
#pragma once
#include "split_factors.cuh"
#include "tensor_cores.cuh"

namespace mambatune {
namespace cuda {

// c = alpha a b + beta c, or part i of the inner side at c + i * part_size. After every steps_of_round the sums go to c and start from zero:
// the error of a sum grows with the number of its terms.
struct SplitProduct {
  SplitFactor a, b;
  float* c;
  int64_t c_stride, part_size;
  int steps_of_part, steps_of_round;
  float alpha, beta;
};

// A tile of c, or of a part of it.
struct SplitTile {
  int first_row, first_col, first_step, steps;
  int64_t part;
};

// Tile `number` of row_tiles * col_tiles * parts of them.
template <int Rows, int Cols>
__device__ __forceinline__ SplitTile split_tile(const SplitProduct& p, int number) {
  const int row_tiles = (p.a.rows + Rows - 1) / Rows, col_tiles = (p.b.rows + Cols - 1) / Cols, tiles = row_tiles * col_tiles;
  const int tile = number % tiles, part = number / tiles;
  // The shorter way first: the tiles at work at one time then share the longer side's panels.
  const bool down = row_tiles <= col_tiles;
  const int first_step = part * p.steps_of_part;
  return {(down ? tile % row_tiles : tile / col_tiles) * Rows, (down ? tile / row_tiles : tile % col_tiles) * Cols, first_step,
          min(p.steps_of_part, p.a.steps - first_step), part};
}

// Panel i of a tile, at a step; the last one where there is none.
__device__ __forceinline__ const char* split_panel(const SplitFactor& factor, int first_row, int i, int step) {
  const int panel = min(first_row / kPanelRows + i, (factor.rows - 1) / kPanelRows);
  return factor.panels + (static_cast<int64_t>(panel) * factor.steps + step) * kPanelBytes;
}

// Where lane l's chunk lies for load_four_8x8(), from a row that is a multiple of 16 on: rows l % 16 of sixteen inner ones as a left factor
// wants them, two eights of rows as a right factor does. `sixteen` of the two of a step; part 0 is high, 1 low.
__device__ __forceinline__ int left_offset() {
  const int lane = threadIdx.x % 32;
  return lane % 16 * kPanelRowBytes + (lane / 16 ^ lane % 8) * 16;
}
__device__ __forceinline__ int right_offset() {
  const int lane = threadIdx.x % 32;
  return (lane / 16 * 8 + lane % 8) * kPanelRowBytes + (lane / 8 % 2 ^ lane % 8) * 16;
}
__device__ __forceinline__ const char* chunk_at(const char* rows, int offset, int sixteen, int part) {
  return rows + (offset ^ (sixteen * 4 + part * 2) * 16);
}

// x 2^-e, without overflow or underflow on the way
__device__ __forceinline__ float unscaled(float x, int e) {
  const int half = -e / 2;
  return x * power_of_two(half) * power_of_two(-e - half);
}

// c = alpha sums + beta c, with a warp's sums, as mma leaves them, of 16 Down rows and 8 Across columns.
template <int Down, int Across>
__device__ __forceinline__ void store_sums(const SplitProduct& p, const SplitTile& tile, int first_row, int first_col,
                                           const float (&sums)[Down][Across][4], float beta) {
  // Nothing of what follows is to be computed, and kept in registers, ahead of the products.
  asm volatile("" : "+r"(first_row), "+r"(first_col));
  const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
  float* c = p.c + tile.part * p.part_size;
  const bool pairs = p.c_stride % 2 == 0 && reinterpret_cast<uintptr_t>(c) % 8 == 0;
#pragma unroll
  for (int j = 0; j < Across; ++j) {
    const int col = first_col + 8 * j + 2 * place;
    if (col >= p.b.rows) continue;
    const bool both = col + 1 < p.b.rows;
    const int left = split_exponent(__ldg(p.b.largest + col)), right = both ? split_exponent(__ldg(p.b.largest + col + 1)) : 0;
#pragma unroll
    for (int i = 0; i < 2 * Down; ++i) {
      const int row = first_row + 8 * i + group;
      if (row >= p.a.rows) continue;
      const int own = split_exponent(__ldg(p.a.largest + row));
      const float* sum = sums[i / 2][j] + i % 2 * 2;
      float* to = c + row * p.c_stride + col;
      float x = p.alpha * unscaled(sum[0], own + left), y = p.alpha * unscaled(sum[1], own + right);
      if (beta != 0.0f) x += beta * to[0], y += both ? beta * to[1] : 0.0f;
      if (both && pairs) {
        *reinterpret_cast<float2*>(to) = make_float2(x, y);
      } else {
        to[0] = x;
        if (both) to[1] = y;
      }
    }
  }
}

// The kernel for compute capability 9.0, and the rows and columns of its tiles.
constexpr int kWgmmaRows = 128, kWgmmaCols = 192;
bool has_wgmma();
Error split_product_wgmma(const SplitProduct& p, int tiles, const char* op);

}  // namespace cuda
}  // namespace mambatune
