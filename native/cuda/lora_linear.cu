// SPDX-License-Identifier: Apache-2.0
// Linear layer with a low-rank adapter. The large products are cuBLAS's; the low-rank terms join them in one of two ways:
//
//   added     y += scaling xa lora_B^T by a kernel of its own: reads and writes y once more, 8 rows out bytes
//   appended  y = [x, scaling xa] [W, lora_B]^T: the projection writes x beside xa while it reads it, and W is copied,
//             4 rows in + 8 out in bytes; the product's inner dimension grows by r
//
// and whichever moves fewer bytes is taken: in_proj of the 130m model at 8192 rows is appended (44 MB instead of 201 MB),
// x_proj added (5 MB), out_proj added (50 MB against 60 MB). The backward's dx = [dy, dxa] [W; lora_A] follows the same
// count with in and out exchanged: in_proj is added, x_proj and out_proj are appended. Merging W + scaling lora_B lora_A first would
// move less still, but in TF32 or bfloat16 it rounds away updates that are small beside W.
// From kLargeRank on, the low-rank products are cuBLAS's as well.
#include <algorithm>

#include "cublas.h"
#include "launch.cuh"
#include "low_rank.cuh"
#include "weight_cache.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int64_t kLargeRank = 32;
constexpr const char* kForwardOp = "lora_linear forward";
constexpr const char* kBackwardOp = "lora_linear backward";

bool uses_bfloat16() { return matmul_precision() == MatmulPrecision::kMedium; }

bool uses_cublas(const LoraLinearInputs& in) { return in.r >= kLargeRank && !(in.dropout > 0); }

// Columns of the appended part: 16 bytes' worth of them at a time, as the tensor cores' loads want.
int64_t appended_columns(int64_t r) { return ceil_div(r, 8) * 8; }

// Whether [left, low rank] is worth the copies: `kept` and `summed` are the columns of the product's result and its inner size.
// The tensor cores want rows of whole 16 bytes.
bool appending_pays(const LoraLinearInputs& in, int64_t kept, int64_t summed) {
  if (in.r == 0 || in.r >= kLargeRank || summed % 4 != 0) return false;
  return in.rows * summed + 2 * kept * summed < 2 * in.rows * kept;
}

// A matrix as the large products want it: as it is, or converted to bfloat16.
struct Factor {
  Scratch memory;
  const void* data = nullptr;
  int64_t row_stride = 0;

  Error set(const float* from, int64_t from_stride, int64_t rows, int64_t cols) {
    data = from;
    row_stride = from_stride;
    if (!uses_bfloat16()) return nullptr;
    MAMBATUNE_TRY(memory.reserve(ceil_div(rows * cols, 2)));
    data = memory.get();
    row_stride = cols;
    return to_bfloat16(from, from_stride, rows, cols, reinterpret_cast<__nv_bfloat16*>(memory.get()), cols);
  }
  Error set(const Weight& W) {
    data = W.data;
    row_stride = W.cols;
    if (!uses_bfloat16()) return nullptr;
    const __nv_bfloat16* copy = nullptr;
    MAMBATUNE_TRY(bfloat16_weight(W, &memory, &copy));
    data = copy;
    return nullptr;
  }
  // Room for rows x width, to be filled in by the caller.
  Error reserve(int64_t rows, int64_t width) {
    MAMBATUNE_TRY(memory.reserve(uses_bfloat16() ? ceil_div(rows * width, 2) : rows * width));
    data = memory.get();
    row_stride = width;
    return nullptr;
  }
  float* floats() const { return uses_bfloat16() ? nullptr : memory.get(); }
  __nv_bfloat16* halves() const { return uses_bfloat16() ? reinterpret_cast<__nv_bfloat16*>(memory.get()) : nullptr; }
  GemmOperand operand(bool transposed) const { return {data, row_stride, transposed}; }
};

Error large_product(const Factor& a, const Factor& b, bool b_transposed, int64_t m, int64_t n, int64_t k, float* c, const char* op) {
  Gemm g{m, n, k, a.operand(false), b.operand(b_transposed), c, n};
  g.bfloat16 = uses_bfloat16();
  return gemm(g, op);
}

__device__ __forceinline__ void store(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float4 x) {
  const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pair);
}
__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// to[rows, width] = [W, B, 0]; W: [rows, cols], B: [rows, r]; cols and width are multiples of 4. Four columns a thread.
template <class T>
__global__ void __launch_bounds__(kThreads)
    append_columns_kernel(const float* W, int64_t rows, int64_t cols, const float* B, int64_t r, T* to, int64_t width) {
  const int64_t quads = width / 4;
  for (int64_t i = first_index(); i < rows * quads; i += index_step()) {
    const int64_t row = i / quads, first = i % quads * 4;
    if (first < cols) {
      store(to + i * 4, *reinterpret_cast<const float4*>(W + row * cols + first));
      continue;
    }
    for (int64_t k = first - cols; k < first - cols + 4; ++k) store(to + row * width + cols + k, k < r ? B[row * r + k] : 0.0f);
  }
}

// to[rows + added, cols] = [W; A; 0]; W: [rows, cols], A: [r, cols]. Four elements a thread.
template <class T>
__global__ void __launch_bounds__(kThreads)
    append_rows_kernel(const float* W, int64_t rows, int64_t cols, const float* A, int64_t r, T* to, int64_t added) {
  const int64_t size = rows * cols, end = size + r * cols, all = size + added * cols;
  for (int64_t first = first_index() * 4; first < all; first += index_step() * 4) {
    if (cols % 4 == 0) {
      const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      store(to + first, first < size  ? *reinterpret_cast<const float4*>(W + first)
                        : first < end ? *reinterpret_cast<const float4*>(A + first - size)
                                      : zero);
      continue;
    }
    for (int64_t i = first; i < min(first + 4, all); ++i) store(to + i, i < size ? W[i] : i < end ? A[i - size] : 0.0f);
  }
}

Projection projection_of(const LoraLinearFwdParams& p) {
  Projection projection{};
  projection.rows = p.rows, projection.cols = p.W.cols, projection.r = p.r;
  projection.x = p.x, projection.x_row_stride = p.x_row_stride;
  projection.factor = p.lora_A;
  projection.out = p.xa;
  projection.dropout = Dropout(p);
  return projection;
}

Error forward_appended(const LoraLinearFwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols, width = in + appended_columns(p.r);
  Factor x, W;
  MAMBATUNE_TRY(x.reserve(p.rows, width));
  MAMBATUNE_TRY(W.reserve(out, width));
  Projection projection = projection_of(p);
  projection.widened = x.floats();
  projection.widened_half = x.halves();
  projection.width = width;
  projection.widened_scale = p.scaling;
  MAMBATUNE_TRY(project(projection, kForwardOp));
  const unsigned blocks = blocks_for(out * width / 4);
  if (uses_bfloat16()) {
    append_columns_kernel<<<blocks, kThreads, 0, stream()>>>(p.W.data, out, in, p.lora_B, p.r, W.halves(), width);
  } else {
    append_columns_kernel<<<blocks, kThreads, 0, stream()>>>(p.W.data, out, in, p.lora_B, p.r, W.floats(), width);
  }
  MAMBATUNE_CHECK_LAUNCH(kForwardOp);
  return large_product(x, W, true, p.rows, out, width, p.y, kForwardOp);
}

Error add_bias(const LoraLinearFwdParams& p) {
  if (!p.bias) return nullptr;
  return add_low_rank({p.rows, p.W.rows, 0, nullptr, nullptr, p.bias, p.y, Dropout()}, kForwardOp);
}

Error forward_added(const LoraLinearFwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  {
    Factor x, W;
    MAMBATUNE_TRY(x.set(p.x, p.x_row_stride, p.rows, in));
    MAMBATUNE_TRY(W.set(p.W));
    MAMBATUNE_TRY(large_product(x, W, true, p.rows, out, in, p.y, kForwardOp));
  }
  if (p.r == 0) return add_bias(p);
  if (uses_cublas(p)) {
    MAMBATUNE_TRY(gemm({p.rows, p.r, in, {p.x, p.x_row_stride, false}, {p.lora_A, in, true}, p.xa, p.r}, kForwardOp));
    MAMBATUNE_TRY(gemm({p.rows, out, p.r, {p.xa, p.r, false}, {p.lora_B, p.r, true}, p.y, out, p.scaling, 1.0f}, kForwardOp));
    return add_bias(p);
  }
  MAMBATUNE_TRY(project(projection_of(p), kForwardOp));
  Scratch lora_B;
  MAMBATUNE_TRY(lora_B.reserve(p.r * out));
  MAMBATUNE_TRY(scaled_transpose(p.lora_B, out, p.r, p.scaling, lora_B.get(), kForwardOp));
  return add_low_rank({p.rows, out, p.r, p.xa, lora_B.get(), p.bias, p.y, Dropout()}, kForwardOp);
}

// dxa[rows, r] = scaling dy lora_B, with a copy [dy, dxa] where `widened` has room for one.
Error adapter_input_gradient(const LoraLinearBwdParams& p, const Factor* widened, float* dxa) {
  const int64_t out = p.W.rows;
  if (uses_cublas(p)) {
    return gemm({p.rows, p.r, out, {p.dy, out, false}, {p.lora_B, p.r, false}, dxa, p.r, p.scaling}, kBackwardOp);
  }
  Scratch lora_B;
  MAMBATUNE_TRY(lora_B.reserve(p.r * out));
  MAMBATUNE_TRY(scaled_transpose(p.lora_B, out, p.r, p.scaling, lora_B.get(), kBackwardOp));
  Projection projection{};
  projection.rows = p.rows, projection.cols = out, projection.r = p.r;
  projection.x = p.dy, projection.x_row_stride = out;
  projection.factor = lora_B.get();
  projection.out = dxa;
  if (widened) {
    projection.widened = widened->floats();
    projection.widened_half = widened->halves();
    projection.width = widened->row_stride;
  }
  return project(projection, kBackwardOp);
}

// dx = [dy, dxa] [W; lora_A]
Error input_gradient_appended(const LoraLinearBwdParams& p, const Factor& dy) {
  const int64_t out = p.W.rows, in = p.W.cols, added = dy.row_stride - out;
  Factor W;
  MAMBATUNE_TRY(W.reserve(out + added, in));
  const unsigned blocks = blocks_for(ceil_div((out + added) * in, 4));
  if (uses_bfloat16()) {
    append_rows_kernel<<<blocks, kThreads, 0, stream()>>>(p.W.data, out, in, p.lora_A, p.r, W.halves(), added);
  } else {
    append_rows_kernel<<<blocks, kThreads, 0, stream()>>>(p.W.data, out, in, p.lora_A, p.r, W.floats(), added);
  }
  MAMBATUNE_CHECK_LAUNCH(kBackwardOp);
  return large_product(dy, W, false, p.rows, in, out + added, p.dx, kBackwardOp);
}

// dx = dy W + dropout(dxa lora_A)
Error input_gradient_added(const LoraLinearBwdParams& p, const float* dxa) {
  const int64_t out = p.W.rows, in = p.W.cols;
  {
    Factor dy, W;
    MAMBATUNE_TRY(dy.set(p.dy, out, p.rows, out));
    MAMBATUNE_TRY(W.set(p.W));
    MAMBATUNE_TRY(large_product(dy, W, false, p.rows, in, out, p.dx, kBackwardOp));
  }
  if (p.r == 0) return nullptr;
  if (uses_cublas(p)) {
    return gemm({p.rows, in, p.r, {dxa, p.r, false}, {p.lora_A, in, false}, p.dx, in, 1.0f, 1.0f}, kBackwardOp);
  }
  return add_low_rank({p.rows, in, p.r, dxa, p.lora_A, nullptr, p.dx, Dropout(p)}, kBackwardOp);
}

Error lora_A_gradient(const LoraLinearBwdParams& p, const float* dxa) {
  const int64_t in = p.W.cols;
  if (uses_cublas(p)) {
    return gemm({p.r, in, p.rows, {dxa, p.r, true}, {p.x, p.x_row_stride, false}, p.dlora_A, in}, kBackwardOp);
  }
  return project_gradient({p.rows, in, p.r, dxa, p.x, p.x_row_stride, 1.0f, false, p.dlora_A, Dropout(p)}, kBackwardOp);
}

Error lora_B_gradient(const LoraLinearBwdParams& p) {
  const int64_t out = p.W.rows;
  if (uses_cublas(p)) {
    return gemm({out, p.r, p.rows, {p.dy, out, true}, {p.xa, p.r, false}, p.dlora_B, p.r, p.scaling}, kBackwardOp);
  }
  return project_gradient({p.rows, out, p.r, p.xa, p.dy, out, p.scaling, true, p.dlora_B, Dropout()}, kBackwardOp);
}

Error weight_gradient(const LoraLinearBwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  Factor dy, x;
  MAMBATUNE_TRY(dy.set(p.dy, out, p.rows, out));
  MAMBATUNE_TRY(x.set(p.x, p.x_row_stride, p.rows, in));
  Gemm g{out, in, p.rows, dy.operand(true), x.operand(false), p.dW, in};
  g.bfloat16 = uses_bfloat16();
  return gemm(g, kBackwardOp);
}

}  // namespace

Error lora_linear_fwd(const LoraLinearFwdParams& p) {
  if (p.rows == 0 || p.W.rows == 0) return nullptr;
  if (!appending_pays(p, p.W.rows, p.W.cols)) return forward_added(p);
  MAMBATUNE_TRY(forward_appended(p));
  return add_bias(p);
}

Error lora_linear_bwd(const LoraLinearBwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  const bool appends = p.dx && p.rows > 0 && !(p.dropout > 0) && appending_pays(p, in, out);
  Scratch dxa;
  if (p.r > 0 && (p.dx || p.dlora_A)) MAMBATUNE_TRY(dxa.reserve(p.rows * p.r));
  if (appends) {
    Factor dy;
    MAMBATUNE_TRY(dy.reserve(p.rows, out + appended_columns(p.r)));
    MAMBATUNE_TRY(adapter_input_gradient(p, &dy, dxa.get()));
    MAMBATUNE_TRY(input_gradient_appended(p, dy));
  } else {
    if (dxa.get()) MAMBATUNE_TRY(adapter_input_gradient(p, nullptr, dxa.get()));
    if (p.dx) MAMBATUNE_TRY(input_gradient_added(p, dxa.get()));
  }
  if (p.r > 0 && p.dlora_A) MAMBATUNE_TRY(lora_A_gradient(p, dxa.get()));
  if (p.r > 0 && p.dlora_B) MAMBATUNE_TRY(lora_B_gradient(p));
  if (p.dW) MAMBATUNE_TRY(weight_gradient(p));
  if (p.dbias && out > 0) MAMBATUNE_TRY(column_sums(p.dy, p.dbias, p.rows, out, kBackwardOp));
  return nullptr;
}

}  // namespace cuda
}  // namespace mambatune
