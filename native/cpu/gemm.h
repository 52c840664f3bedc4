// SPDX-License-Identifier: Apache-2.0
// Float32 matrix product, compiled once for each instruction set. Every element of the result is a sum in an order that
// depends on the shapes alone, never on the number of threads.
#pragma once
#include <cstdint>

#include "../include/device.h"
#include "simd.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

// op(M): element (i, j) is data[i * row_stride + j], or data[j * row_stride + i] when transposed.
struct Operand {
  const float* data;
  int64_t row_stride;
  bool transposed;
};

// c = op(a) op(b) + op(a2) op(b2) + bias, or += when accumulate; a is [m, k], b [k, n], a2 [m, k2], b2 [k2, n].
struct GemmParams {
  int64_t m, n, k;
  Operand a, b;
  float* c;
  int64_t c_row_stride;
  bool accumulate = false;
  const float* bias = nullptr;  // [n], or null; not with accumulate
  const uint16_t* b_bfloat16 = nullptr;  // b's values in bfloat16, which products of few rows read in place of b
  int64_t k2 = 0;               // 0: no second product
  Operand a2 = {}, b2 = {};
  int64_t batch = 1, a_batch_stride = 0, b_batch_stride = 0, c_batch_stride = 0;
};
Error gemm(const GemmParams& params);

// c[i * c_row_stride + j * c_col_stride] = a[i, :] . b[j, :] (+ a2[i, :] . b2[j, :]) (+ bias[j]), or += when accumulate. For a
// few rows of a: each row of b is read once for all of them, and nothing is packed. a, b, a2, b2: contiguous rows.
struct DotParams {
  int64_t m, n, k;
  const float* a;
  int64_t a_row_stride;
  const float* b;
  int64_t b_row_stride;
  float* c;
  int64_t c_row_stride, c_col_stride;
  bool accumulate = false;
  const float* bias = nullptr;
  int64_t k2 = 0;
  const float* a2 = nullptr;
  int64_t a2_row_stride = 0;
  const float* b2 = nullptr;
  int64_t b2_row_stride = 0;
  const uint16_t* b_bfloat16 = nullptr;  // b's values in bfloat16, read in place of b
};
void gemm_dot(const DotParams& params);

// The pieces, for ops that keep a block of the product in cache. A block of a is packed in tiles of up to kTileRows rows, a
// block of b in panels of kTileCols columns; a block's k must not exceed kMaxBlockK. Up to kMaxDotRows rows of a, gemm takes
// gemm_dot where the layouts allow it; src/generation and native/binding/mamba_layer_step.cc rely on that for a row's bits.
#if defined(__AVX512F__)
constexpr int kTileRows = 14, kMaxDotRows = 32;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kMaxDotRows = 8;
#elif defined(__aarch64__)
constexpr int kTileRows = 8, kMaxDotRows = 8;
#else
constexpr int kTileRows = 6, kMaxDotRows = 8;
#endif
constexpr int kTileCols = 2 * kWidth;
constexpr int64_t kMaxBlockK = 320;

int64_t packed_a_floats(int64_t rows);             // of a block of that many rows, any k
int64_t packed_b_floats(int64_t cols, int64_t k);  // of a block of k x cols

// Packs op(a)[row : row + rows, k0 : k0 + k] as columns [at, at + k) of a block whose k is block_k; likewise for b.
void pack_a(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t k, int64_t at, float* packed);
void pack_b(const Operand& b, int64_t col, int64_t cols, int64_t k0, int64_t k, int64_t at, int64_t block_k, float* packed);

// c[m, n] = init + a b over packed blocks. init: null for zero, row stride 0 for a bias row, or c itself to accumulate.
void multiply_packed(int64_t m, int64_t n, int64_t k, const float* a, bool a_transposed, const float* b, float* c,
                     int64_t c_row_stride, const float* init, int64_t init_row_stride);

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
