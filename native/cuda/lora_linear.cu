// SPDX-License-Identifier: Apache-2.0
// Linear layer with a low-rank adapter. The large products are cuBLAS's; the low-rank terms join them in one of two ways:
//
//   merged   y = x (W + scaling lora_B lora_A)^T, merged for the call: reads and writes W once more, 8 out in bytes. Where xa lies
//            behind y in the same rows, lora_A goes behind the merged rows, and one product computes both, unless its columns
//            would be a tile of their own, which takes longer than a pass over x: in IEEE float32 in_proj lost 80 us to it
//   added    y += scaling xa lora_B^T by a kernel of its own: reads and writes y once more, 8 rows out bytes
//
// and whichever moves fewer bytes is taken; with dropout, which stands between x and lora_A, it is the second. The same holds
// for dx = dy W + dxa lora_A. In TF32 and bfloat16 the merged weight is rounded as W itself would be: of an update that is
// small beside W the rounding keeps the mean, and adds noise below that of rounding W.
//
// The gradients of the adapter read dy once (dlora_B and dxa together) and x once (dlora_A): 4 rows (in + out) bytes. Where the forward
// merges and xa would cost it a pass over x of its own, xa is computed in the backward, on the way to the gradients. From kLargeRank
// on, these products are cuBLAS's as well.
#include "adapter_gradients.cuh"
#include "allocator.cuh"
#include "beside.cuh"
#include "cublas.h"
#include "few_rows.cuh"
#include "launch.cuh"
#include "low_rank.cuh"
#include "short_product.cuh"
#include "small_rows_gradient.cuh"
#include "split_product.cuh"
#include "weight_cache.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int64_t kLargeRank = 32;
constexpr int64_t kTile = 128;         // rows and columns of cuBLAS's products
constexpr int64_t kProcessors = 132;   // of an H100
constexpr const char* kForwardOp = "lora_linear forward";
constexpr const char* kBackwardOp = "lora_linear backward";

bool uses_bfloat16() { return matmul_precision() == MatmulPrecision::kMedium; }

bool uses_cublas(const LoraLinearInputs& in) { return in.r >= kLargeRank && !(in.dropout > 0); }

// Whether merging moves fewer bytes than adding to a result that has `rows` rows for the `summed` rows or columns of W.
bool merges(const LoraLinearInputs& in, int64_t summed) { return in.r > 0 && !(in.dropout > 0) && summed < in.rows; }

// A matrix as the large products want it: as it is, or converted to bfloat16.
struct Factor {
  Scratch memory;
  const void* data = nullptr;
  int64_t row_stride = 0;

  Error set(const float* from, int64_t from_stride, int64_t rows, int64_t cols) {
    data = from;
    row_stride = from_stride;
    if (!uses_bfloat16()) return nullptr;
    MAMBATUNE_TRY(reserve(rows, cols));
    return to_bfloat16(from, from_stride, rows, cols, halves(), cols);
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
  // W + scaling lora_B lora_A, with lora_A's rows behind it where `append` asks for them. The adapter changes at the end of a recorded
  // step, whose launches do not overlap.
  Error merge(const LoraLinearInputs& in, bool append, const char* op) {
    const int64_t rows = in.W.rows, cols = in.W.cols;
    MAMBATUNE_TRY(reserve(append ? rows + in.r : rows, cols));
    const bool half = uses_bfloat16();
    return merge_low_rank({rows, cols, in.r, in.W.data, in.lora_A, in.lora_B, in.scaling, append, half ? nullptr : memory.get(),
                           half ? halves() : nullptr, in.W.cache && is_recording()},
                          op);
  }
  GemmOperand operand(bool transposed) const { return {data, row_stride, transposed}; }

 private:
  Error reserve(int64_t rows, int64_t cols) {
    MAMBATUNE_TRY(memory.reserve(uses_bfloat16() ? ceil_div(rows * cols, 2) : rows * cols));
    data = memory.get();
    row_stride = cols;
    return nullptr;
  }
  __nv_bfloat16* halves() const { return reinterpret_cast<__nv_bfloat16*>(memory.get()); }
};

Error large_product(Gemm g, const char* op) {
  g.bfloat16 = uses_bfloat16();
  if (matmul_precision() == MatmulPrecision::kHighest && short_product_fits(g)) return short_product(g, op);
  if (matmul_precision() == MatmulPrecision::kHighest && split_product_fits(g)) return split_product(g, op);
  return gemm(g, op);
}

Error project_input(const LoraLinearInputs& in, float* xa, int64_t xa_row_stride, const char* op) {
  if (uses_cublas(in)) {
    return gemm({in.rows, in.r, in.W.cols, {in.x, in.x_row_stride, false}, {in.lora_A, in.W.cols, true}, xa, xa_row_stride}, op);
  }
  return project({in.rows, in.W.cols, in.r, in.x, in.x_row_stride, in.lora_A, xa, xa_row_stride, Dropout(in)}, op);
}

// y += scaling xa lora_B^T + bias, each where there is one and `adds_adapter` asks for the first.
Error add_to_output(const LoraLinearFwdParams& p, bool adds_adapter) {
  const int64_t out = p.W.rows;
  if (adds_adapter && uses_cublas(p)) {
    MAMBATUNE_TRY(gemm({p.rows, out, p.r, {p.xa, p.xa_row_stride, false}, {p.lora_B, p.r, true}, p.y, p.y_row_stride, p.scaling, 1.0f},
                       kForwardOp));
    adds_adapter = false;
  }
  if (!adds_adapter && !p.bias) return nullptr;
  return add_low_rank({p.rows, out, adds_adapter ? p.r : 0, p.xa, p.xa_row_stride, p.lora_B, true, p.scaling, p.bias, p.y, p.y_row_stride,
                       Dropout()},
                      kForwardOp);
}

// A product of [rows, cols] and the adapter's passes, which need nothing of each other: beside each other where the product leaves
// processors idle. Where it does not, each would only wait longer.
template <class Product, class Passes>
Error product_and_passes(int64_t rows, int64_t cols, const Product& product, const Passes& passes) {
  if (ceil_div(rows, kTile) * ceil_div(cols, kTile) < kProcessors) return beside(product, passes);
  MAMBATUNE_TRY(passes());
  return product();
}

// The whole forward of a few rows, where `done` says that it took them; x stays float32 beside a bfloat16 copy of a frozen weight.
// A recorded step's frozen weights are older than the recording, so that no kernel of it writes them.
Error few_rows_forward(const LoraLinearFwdParams& p, bool* done) {
  Scratch memory;
  FewRows few = {p.rows, p.W.rows, p.W.cols, p.x, p.x_row_stride, p.W.data, nullptr, p.bias, p.r, p.xa, p.xa_row_stride, p.lora_B,
                 p.scaling, p.y, p.y_row_stride, p.W.cache && is_recording()};
  if (uses_bfloat16() && p.W.cache) {
    few.frozen = few.frozen && *p.W.cache;
    MAMBATUNE_TRY(bfloat16_weight(p.W, &memory, &few.half));
  }
  *done = few_rows_fit(few);
  if (!*done) return nullptr;
  if (p.r > 0) MAMBATUNE_TRY(project_input(p, p.xa, p.xa_row_stride, kForwardOp));
  return few_rows_linear(few, kForwardOp);
}

// A gradient of the adapter that needs no sum over columns beside it.
bool takes_small_rows(const LoraLinearInputs& in) { return in.rows <= kMostSmallRows && !(in.dropout > 0) && !uses_cublas(in); }

// dlora_B = scaling dy^T xa and dxa = scaling dy lora_B, each where it is wanted.
Error output_pass(const LoraLinearBwdParams& p, float* dxa) {
  const int64_t out = p.W.rows;
  if (!dxa && takes_small_rows(p)) {
    return small_rows_gradient(p.rows, {out, p.r, p.dy, out, p.xa, p.xa_row_stride, p.scaling, p.dlora_B, true}, kBackwardOp);
  }
  if (!uses_cublas(p)) {
    return row_pass({p.rows, out, p.r, p.dy, out, p.scaling, p.xa, p.xa_row_stride, p.dlora_B, true, p.lora_B, dxa, Dropout()}, kBackwardOp);
  }
  if (p.dlora_B) {
    MAMBATUNE_TRY(gemm({out, p.r, p.rows, {p.dy, out, true}, {p.xa, p.xa_row_stride, false}, p.dlora_B, p.r, p.scaling}, kBackwardOp));
  }
  if (!dxa) return nullptr;
  return gemm({p.rows, p.r, out, {p.dy, out, false}, {p.lora_B, p.r, false}, dxa, p.r, p.scaling}, kBackwardOp);
}

Error input_pass(const LoraLinearBwdParams& p, const float* dxa) {
  const int64_t in = p.W.cols;
  if (takes_small_rows(p)) {
    return small_rows_gradient(p.rows, {in, p.r, p.x, p.x_row_stride, dxa, p.r, 1.0f, p.dlora_A, false, p.x_row_scale, p.x_col_scale},
                               kBackwardOp);
  }
  if (!uses_cublas(p)) {
    return row_pass({p.rows, in, p.r, p.x, p.x_row_stride, 1.0f, dxa, p.r, p.dlora_A, false, nullptr, nullptr, Dropout(p), p.x_row_scale,
                     p.x_col_scale},
                    kBackwardOp);
  }
  Scratch scaled;
  if (p.x_row_scale) {
    MAMBATUNE_TRY(scaled.reserve(p.rows * p.r));
    MAMBATUNE_TRY(scale_matrix(dxa, p.rows, p.r, p.x_row_scale, nullptr, scaled.get(), kBackwardOp));
    dxa = scaled.get();
  }
  MAMBATUNE_TRY(gemm({p.r, in, p.rows, {dxa, p.r, true}, {p.x, p.x_row_stride, false}, p.dlora_A, in}, kBackwardOp));
  return p.x_col_scale ? scale_matrix(p.dlora_A, p.r, in, nullptr, p.x_col_scale, p.dlora_A, kBackwardOp) : nullptr;
}

// The adapter's gradients of a layer that kept no xa.
Error gradients_without_xa(LoraLinearBwdParams p) {
  const bool aligned = aligned_to(p.x, 16) && aligned_to(p.dy, 16) && p.x_row_stride % 4 == 0;
  if (p.dlora_A && p.dlora_B && aligned) {
    return adapter_gradients({p.rows, p.W.cols, p.W.rows, p.r, p.x, p.x_row_stride, p.dy, p.lora_A, p.lora_B, p.scaling, p.dlora_A, p.dlora_B},
                             kBackwardOp);
  }
  Scratch xa, dxa;
  if (p.dlora_B) {
    MAMBATUNE_TRY(xa.reserve(p.rows * p.r));
    p.xa = xa.get(), p.xa_row_stride = p.r;
    MAMBATUNE_TRY(project_input(p, xa.get(), p.r, kBackwardOp));
  }
  if (p.dlora_A) MAMBATUNE_TRY(dxa.reserve(p.rows * p.r));
  MAMBATUNE_TRY(output_pass(p, dxa.get()));
  return p.dlora_A ? input_pass(p, dxa.get()) : nullptr;
}

// dx = dy W, merged where `merged` says so, or that added to dx
Error input_gradient(const LoraLinearBwdParams& p, bool merged) {
  const int64_t out = p.W.rows, in = p.W.cols;
  const float beta = p.accumulate ? 1.0f : 0.0f;
  Factor dy, W;
  MAMBATUNE_TRY(dy.set(p.dy, out, p.rows, out));
  MAMBATUNE_TRY(merged ? W.merge(p, false, kBackwardOp) : W.set(p.W));
  return large_product({p.rows, in, out, dy.operand(false), W.operand(false), p.dx, p.dx_row_stride, 1.0f, beta}, kBackwardOp);
}

// dx += dropout(dxa lora_A)
Error add_to_input_gradient(const LoraLinearBwdParams& p, const float* dxa) {
  const int64_t in = p.W.cols;
  if (uses_cublas(p)) {
    return gemm({p.rows, in, p.r, {dxa, p.r, false}, {p.lora_A, in, false}, p.dx, p.dx_row_stride, 1.0f, 1.0f}, kBackwardOp);
  }
  return add_low_rank({p.rows, in, p.r, dxa, p.r, p.lora_A, false, 1.0f, nullptr, p.dx, p.dx_row_stride, Dropout(p)}, kBackwardOp);
}

Error weight_gradient(const LoraLinearBwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  Factor dy, x;
  MAMBATUNE_TRY(dy.set(p.dy, out, p.rows, out));
  MAMBATUNE_TRY(x.set(p.x, p.x_row_stride, p.rows, in));
  return large_product({out, in, p.rows, dy.operand(true), x.operand(false), p.dW, in}, kBackwardOp);
}

}  // namespace

bool lora_linear_keeps_xa(const LoraLinearInputs& in) {
  const bool merges_both_ways = merges(in, in.W.cols) && merges(in, in.W.rows);
  return !merges_both_ways || uses_cublas(in) || !adapter_gradients_fit(in.W.cols, in.W.rows);
}

Error lora_linear_fwd(const LoraLinearFwdParams& p) {
  const int64_t out = p.W.rows, in = p.W.cols;
  if (p.rows == 0 || out == 0) return nullptr;
  if (p.rows <= kMostFewRows) {
    bool done = false;
    MAMBATUNE_TRY(few_rows_forward(p, &done));
    if (done) return nullptr;
  }
  const bool merged = merges(p, in);
  const bool stacked = merged && p.xa == p.y + out && p.xa_row_stride == p.y_row_stride &&
                       ceil_div(out + p.r, kTile) == ceil_div(out, kTile);
  const auto product = [&]() -> Error {
    Factor x, W;
    MAMBATUNE_TRY(x.set(p.x, p.x_row_stride, p.rows, in));
    MAMBATUNE_TRY(merged ? W.merge(p, stacked, kForwardOp) : W.set(p.W));
    const int64_t columns = stacked ? out + p.r : out;
    return large_product({p.rows, columns, in, x.operand(false), W.operand(true), p.y, p.y_row_stride}, kForwardOp);
  };
  const auto projection = [&] { return project_input(p, p.xa, p.xa_row_stride, kForwardOp); };
  MAMBATUNE_TRY(p.r > 0 && p.xa && !stacked ? product_and_passes(p.rows, out, product, projection) : product());
  return add_to_output(p, p.r > 0 && !merged);
}

Error lora_linear_bwd(const LoraLinearBwdParams& p) {
  if (!p.dy) return input_pass(p, p.dxa);
  const int64_t out = p.W.rows, in = p.W.cols;
  const bool merged = merges(p, out), adds = p.dx && p.r > 0 && !merged;
  const bool wants_adapter = p.dlora_A || p.dlora_B;
  const bool without_xa = p.r > 0 && !p.xa && !p.dxa && wants_adapter;
  Scratch own;
  float* dxa = p.dxa;
  if (p.r > 0 && !without_xa && !dxa && (adds || p.dlora_A)) {
    MAMBATUNE_TRY(own.reserve(p.rows * p.r));
    dxa = own.get();
  }
  const auto adapter = [&]() -> Error {
    if (without_xa) return gradients_without_xa(p);
    if (dxa || p.dlora_B) MAMBATUNE_TRY(output_pass(p, dxa));
    return p.dlora_A ? input_pass(p, dxa) : nullptr;
  };
  const auto products = [&]() -> Error {
    if (p.dW) MAMBATUNE_TRY(weight_gradient(p));
    if (p.dbias && out > 0) MAMBATUNE_TRY(column_sums(p.dy, p.dbias, p.rows, out, kBackwardOp));
    return p.dx ? input_gradient(p, merged) : nullptr;
  };
  const bool has_adapter = p.r > 0 && (dxa || wants_adapter), has_products = p.dx || p.dW || p.dbias;
  if (has_adapter && has_products) {
    MAMBATUNE_TRY(product_and_passes(p.rows, in, products, adapter));
  } else {
    MAMBATUNE_TRY(has_adapter ? adapter() : products());
  }
  return adds ? add_to_input_gradient(p, dxa) : nullptr;
}

}  // namespace cuda
}  // namespace mambatune
