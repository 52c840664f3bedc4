// SPDX-License-Identifier: Apache-2.0
// Contract of the plain tensor kernels: what tfjs-core's standard ops need. Each is one strided loop.
#pragma once
#include <cstdint>

namespace mambatune {

constexpr int kMaxRank = 6;

enum class UnaryOp : int32_t {
  kNeg, kAbs, kExp, kExpm1, kLog, kLog1p, kSqrt, kRsqrt, kSquare, kReciprocal, kSigmoid, kSoftplus, kTanh, kRelu, kSign,
  kStep, kFloor, kCeil, kRound, kErf, kSin, kCos, kIsNan, kIsFinite, kIsInf, kLogicalNot
};
enum class BinaryOp : int32_t {
  kAdd, kSub, kMul, kDiv, kMaximum, kMinimum, kPow, kSquaredDifference, kFloorDiv, kMod,
  kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kLogicalAnd, kLogicalOr
};
enum class ReduceOp : int32_t { kSum, kMean, kMax, kMin, kProd, kArgMax, kArgMin, kAny, kAll };
enum class DType : int32_t { kFloat32, kInt32, kBool };  // bool is one byte

// kIsNan, kIsFinite, kIsInf and kLogicalNot write bool; the others write x's dtype (float32 or int32).
struct UnaryParams { UnaryOp op; DType dtype; int64_t size; const void* x; void* y; };

// Broadcasting by zero strides (in elements). Comparisons and logic write bool; the others write `dtype`.
struct BinaryParams {
  BinaryOp op; DType dtype; int32_t rank; int64_t dims[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];
  const void* a; const void* b; void* out;  // out is contiguous
};

// out[i] = condition[i] ? a[i] : b[i]; element_size 1 or 4 bytes.
struct SelectParams { int64_t size; int32_t element_size; const uint8_t* condition; const void* a; const void* b; void* out; };

// x is [outer, length, inner]; the middle is reduced. out: [outer, inner], int32 for kArgMax/kArgMin, else `dtype`.
struct ReduceParams { ReduceOp op; DType dtype; int64_t outer, length, inner; const void* x; void* out; };

// x is [outer, length, inner]: running sum over the middle.
struct CumsumParams { int64_t outer, length, inner; bool exclusive, reverse; DType dtype; const void* x; void* out; };

// out[b] = op(a[b]) op(b[b]); a is [m, k] ([k, m] when transpose_a), b is [k, n] ([n, k] when transpose_b). Batch strides in
// elements, 0 to broadcast.
struct MatmulParams {
  int64_t batch, m, n, k, a_batch_stride, b_batch_stride; bool transpose_a, transpose_b;
  const float* a; const float* b; float* out;
};

// dst[sum i_d * dst_strides[d]] = src[sum i_d * src_strides[d]]: transpose, slice, concat, tile, pad, reverse. Elements of 1 or 4
// bytes; strides in elements, may be zero or negative.
struct StridedCopyParams {
  int32_t rank, element_size; int64_t dims[kMaxRank], src_strides[kMaxRank], dst_strides[kMaxRank]; const void* src; void* dst;
};

// out[o, i, :] = x[o, indices[i], :] for x [outer, length, inner]. Indices have been checked by the caller.
struct GatherParams { int64_t outer, length, inner, count; int32_t element_size; const void* x; const int32_t* indices; void* out; };

struct CastParams { DType from, to; int64_t size; const void* x; void* y; };
struct FillParams { DType dtype; int64_t size; double value; void* y; };

// Row-wise softmax of [rows, cols].
struct SoftmaxParams { int64_t rows, cols; const float* x; float* y; };

// The first of each row's largest logits: into tokens, and into choices at [counts[row] % slots, row], after which counts[row] goes up
// by one. A row with a NaN, or with nothing above -infinity, gives -1 in choices and 0 in tokens.
struct ChooseLikeliestParams {
  int64_t rows, cols, slots;
  const float* logits;  // [rows, cols]
  int32_t* tokens;      // [rows]
  int32_t* choices;     // [slots, rows]
  int32_t* counts;      // [rows]
};

}  // namespace mambatune
