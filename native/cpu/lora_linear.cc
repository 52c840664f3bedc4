// SPDX-License-Identifier: Apache-2.0
// The low-rank products ride on the large ones as a few more terms of the same sums: y = [x, xa] [W, lora_B]^T and
// dx = [dy, dxa] [W; lora_A], so that y and dx are written once.
#include <cmath>

#include "gemm.h"
#include "memory.h"
#include "philox.h"
#include "thread_pool.h"
#include "weight_copy.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

typedef uint32_t UnsignedVec __attribute__((vector_size(kWidth * 4)));

constexpr int64_t kDroppedFloats = int64_t{1} << 20;  // of dropout(x) at a time: 4 MiB

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// to[i, j] = keep ? from[i, j] / (1 - p) : 0 for rows [row, row + rows) of the [?, cols] matrix the mask belongs to; from and
// to start at `row` and may be the same.
void apply_dropout(const LoraLinearInputs& in, int64_t row, int64_t rows, int64_t cols, const float* from, int64_t from_stride,
                   float* to, int64_t to_stride) {
  // uniform >= p, over the integers that stand for uniform * 2^32; p < 1 - 2^-25 keeps it below 2^32.
  const uint32_t threshold = static_cast<uint32_t>(std::ceil(static_cast<double>(in.dropout) * 4294967296.0));
  const float scale = static_cast<float>(1.0 / (1.0 - static_cast<double>(in.dropout)));
  const uint64_t offset = in.offset + (in.dropout_step ? static_cast<uint64_t>(*in.dropout_step) << 20 : 0);
  parallel_for(rows, [&](int64_t i, int) {
    constexpr int64_t kBatch = 4 * kPhiloxCounters, kCount = 4 * kBatch;
    uint32_t random[kCount];
    const float* x = from + i * from_stride;
    float* y = to + i * to_stride;
    const int64_t first = (row + i) * cols;
    int64_t group = first / 4 * 4;  // element number of random[0]
    for (int64_t j = 0; j < cols; group += kCount) {
      const int64_t end = min(cols, group + kCount - first);
      for (int64_t e = group; e < first + end; e += kBatch) {
        philox(in.seed, offset, static_cast<uint64_t>(e / 4), random + (e - group));
      }
      const uint32_t* row_random = random - (group - first);
      for (; j + kWidth <= end; j += kWidth) {
        UnsignedVec uniform;
        memcpy(&uniform, row_random + j, sizeof uniform);
        const IntVec keep = (IntVec)(uniform >= threshold);
        store(y + j, load(x + j) * as_float(keep & as_int(broadcast(scale))));
      }
      for (; j < end; ++j) y[j] = x[j] * (row_random[j] >= threshold ? scale : 0.0f);
    }
  });
}

// Calls use(row, rows, dropped) for blocks of rows of dropout(x), in order; without dropout once, with x itself.
template <class Use>
Error for_dropped(const LoraLinearInputs& in, Use use) {
  if (in.dropout <= 0 || in.rows == 0) return use(0, in.rows, Operand{in.x, in.x_row_stride, false});
  const int64_t cols = in.W.cols;
  int64_t block_rows = kDroppedFloats / (cols + 1) + 1;
  if (block_rows > in.rows) block_rows = in.rows;
  Workspace dropped;
  if (Error error = dropped.reserve(block_rows * cols)) return error;
  for (int64_t row = 0; row < in.rows; row += block_rows) {
    const int64_t rows = min(block_rows, in.rows - row);
    apply_dropout(in, row, rows, cols, in.x + row * in.x_row_stride, in.x_row_stride, dropped.data, cols);
    if (Error error = use(row, rows, Operand{dropped.data, cols, false})) return error;
  }
  return nullptr;
}

// to[rows, cols] = scale * from[rows, cols], whose rows have a stride
void scale_into(float* to, const float* from, int64_t row_stride, int64_t rows, int64_t cols, float scale) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) to[i * cols + j] = scale * from[i * row_stride + j];
  }
}

// to[cols, rows] = scale * from[rows, cols]^T
void transpose_into(float* to, const float* from, int64_t rows, int64_t cols, float scale) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) to[j * rows + i] = scale * from[i * cols + j];
  }
}

void sum_rows(const float* x, int64_t rows, int64_t cols, float* sums) {
  constexpr int64_t kCols = 256;
  parallel_for((cols + kCols - 1) / kCols, [&](int64_t task, int) {
    const int64_t begin = task * kCols, end = min(cols, begin + kCols);
    for (int64_t j = begin; j < end; ++j) sums[j] = 0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = begin; j < end; ++j) sums[j] += x[i * cols + j];
    }
  });
}

// dlora_B = scaling * dy^T xa, computed as its transpose, whose long side is contiguous in dy.
Error lora_B_gradient(const LoraLinearBwdParams& p) {
  const int64_t out = p.W.rows;
  Workspace transposed;
  if (Error error = transposed.reserve(p.r * out)) return error;
  GemmParams g{};
  g.m = p.r, g.n = out, g.k = p.rows;
  g.a = {p.xa, p.xa_row_stride, true};
  g.b = {p.dy, out, false};
  g.c = transposed.data, g.c_row_stride = out;
  if (Error error = gemm(g)) return error;
  transpose_into(p.dlora_B, transposed.data, p.r, out, p.scaling);
  return nullptr;
}

Error lora_A_gradient(const LoraLinearBwdParams& p, const float* dxa) {
  Workspace scaled;
  if (p.x_row_scale) {
    if (Error error = scaled.reserve(p.rows * p.r)) return error;
    for (int64_t i = 0; i < p.rows; ++i) scale_into(scaled.data + i * p.r, dxa + i * p.r, p.r, 1, p.r, p.x_row_scale[i]);
    dxa = scaled.data;
  }
  const Error error = for_dropped(p, [&](int64_t row, int64_t rows, Operand dropped) {
    GemmParams g{};
    g.m = p.r, g.n = p.W.cols, g.k = rows;
    g.a = {dxa + row * p.r, p.r, true};
    g.b = dropped;
    g.c = p.dlora_A, g.c_row_stride = p.W.cols;
    g.accumulate = row > 0;
    return gemm(g);
  });
  if (error || !p.x_col_scale) return error;
  for (int64_t k = 0; k < p.r; ++k) {
    for (int64_t j = 0; j < p.W.cols; ++j) p.dlora_A[k * p.W.cols + j] *= p.x_col_scale[j];
  }
  return nullptr;
}

// dx = dropout(dxa lora_A), or that added to dx
Error add_dropped_gradient(const LoraLinearBwdParams& p, const float* dxa) {
  const int64_t in = p.W.cols;
  GemmParams g{};
  g.m = p.rows, g.n = in, g.k = p.r;
  g.a = {dxa, p.r, false};
  g.b = {p.lora_A, in, false};
  Workspace own;
  float* to = p.dx;
  int64_t stride = p.dx_row_stride;
  if (p.accumulate) {
    if (Error error = own.reserve(p.rows * in)) return error;
    to = own.data, stride = in;
  }
  g.c = to, g.c_row_stride = stride;
  if (Error error = gemm(g)) return error;
  apply_dropout(p, 0, p.rows, in, to, stride, to, stride);
  if (!p.accumulate) return nullptr;
  parallel_for(p.rows, [&](int64_t i, int) {
    for (int64_t j = 0; j < in; ++j) p.dx[i * p.dx_row_stride + j] += to[i * stride + j];
  });
  return nullptr;
}

Error input_gradient(const LoraLinearBwdParams& p, const float* dxa) {
  GemmParams g{};
  g.m = p.rows, g.n = p.W.cols, g.k = p.W.rows;
  g.a = {p.dy, p.W.rows, false};
  g.b = {p.W.data, p.W.cols, false};
  g.c = p.dx, g.c_row_stride = p.dx_row_stride;
  g.accumulate = p.accumulate;
  if (dxa && p.dropout > 0) {
    if (Error error = add_dropped_gradient(p, dxa)) return error;
    g.accumulate = true;
  } else if (dxa) {
    g.k2 = p.r;
    g.a2 = {dxa, p.r, false};
    g.b2 = {p.lora_A, p.W.cols, false};
  }
  return gemm(g);
}

Error weight_gradient(const LoraLinearBwdParams& p) {
  GemmParams g{};
  g.m = p.W.rows, g.n = p.W.cols, g.k = p.rows;
  g.a = {p.dy, p.W.rows, true};
  g.b = {p.x, p.x_row_stride, false};
  g.c = p.dW, g.c_row_stride = p.W.cols;
  return gemm(g);
}

// dxa[rows, r] = scaling * dy lora_B
Error adapter_input_gradient(const LoraLinearBwdParams& p, float* dxa) {
  const int64_t out = p.W.rows;
  Workspace lora_B;  // scaled and transposed: [r, out]
  if (Error error = lora_B.reserve(p.r * out)) return error;
  transpose_into(lora_B.data, p.lora_B, out, p.r, p.scaling);
  GemmParams g{};
  g.m = p.rows, g.n = p.r, g.k = out;
  g.a = {p.dy, out, false};
  g.b = {lora_B.data, out, true};
  g.c = dxa, g.c_row_stride = p.r;
  return gemm(g);
}

}  // namespace

Error lora_linear_fwd(const LoraLinearFwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  GemmParams g{};
  g.m = p.rows, g.n = out, g.k = in;
  g.a = {p.x, p.x_row_stride, false};
  g.b = {p.W.data, in, true};
  g.c = p.y, g.c_row_stride = p.y_row_stride;
  g.bias = p.bias;
  if (p.rows <= kMaxDotRows) {
    if (Error error = bfloat16_copy(p.W, &g.b_bfloat16)) return error;
  }
  Workspace scaled;
  if (p.r > 0) {
    const Error error = for_dropped(p, [&](int64_t row, int64_t rows, Operand dropped) {
      GemmParams down{};
      down.m = rows, down.n = p.r, down.k = in;
      down.a = dropped;
      down.b = {p.lora_A, in, true};
      down.c = p.xa + row * p.xa_row_stride, down.c_row_stride = p.xa_row_stride;
      return gemm(down);
    });
    if (error) return error;
    if (Error reserved = scaled.reserve(p.rows * p.r)) return reserved;
    scale_into(scaled.data, p.xa, p.xa_row_stride, p.rows, p.r, p.scaling);
    g.k2 = p.r;
    g.a2 = {scaled.data, p.r, false};
    g.b2 = {p.lora_B, p.r, true};
  }
  return gemm(g);
}

Error lora_linear_bwd(const LoraLinearBwdParams& p) {
  if (!p.dy) return lora_A_gradient(p, p.dxa);
  Workspace own;
  float* dxa = p.dxa;
  if (!dxa && p.r > 0 && (p.dx || p.dlora_A)) {
    if (Error error = own.reserve(p.rows * p.r)) return error;
    dxa = own.data;
  }
  if (p.r > 0 && dxa) {
    if (Error error = adapter_input_gradient(p, dxa)) return error;
  }
  if (p.r > 0 && p.dlora_B) {
    if (Error error = lora_B_gradient(p)) return error;
  }
  if (p.r > 0 && p.dlora_A) {
    if (Error error = lora_A_gradient(p, dxa)) return error;
  }
  if (p.dW) {
    if (Error error = weight_gradient(p)) return error;
  }
  if (p.dbias) sum_rows(p.dy, p.rows, p.W.rows, p.dbias);
  return p.dx ? input_gradient(p, p.r > 0 ? dxa : nullptr) : nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
