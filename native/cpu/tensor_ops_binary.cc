// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels of two operands with broadcasting. Neighbouring dimensions are merged while both operands allow it,
// so equal shapes, scalars, rows and columns all end as runs over a contiguous or constant operand.
#include "../include/device.h"
#include "tensor_ops_detail.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

// The iteration space, merged: `rows` runs of `length`.
struct Runs {
  int rank = 0;  // of the rows
  int64_t dims[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];
  int64_t rows = 1, length = 1, a_step = 1, b_step = 1;

  explicit Runs(const BinaryParams& p) {
    for (int d = 0; d < p.rank; ++d) {
      if (p.dims[d] == 1) continue;
      if (rank > 0 && a_strides[rank - 1] == p.a_strides[d] * p.dims[d] && b_strides[rank - 1] == p.b_strides[d] * p.dims[d]) {
        dims[rank - 1] *= p.dims[d];
        a_strides[rank - 1] = p.a_strides[d];
        b_strides[rank - 1] = p.b_strides[d];
        continue;
      }
      dims[rank] = p.dims[d];
      a_strides[rank] = p.a_strides[d];
      b_strides[rank] = p.b_strides[d];
      ++rank;
    }
    if (rank == 0) return;
    --rank;
    length = dims[rank];
    a_step = a_strides[rank];
    b_step = b_strides[rank];
    for (int d = 0; d < rank; ++d) rows *= dims[d];
  }

  void offsets(int64_t row, int64_t* a, int64_t* b) const {
    *a = *b = 0;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t i = row % dims[d];
      row /= dims[d];
      *a += i * a_strides[d];
      *b += i * b_strides[d];
    }
  }
};

// op over part of a run. kVectorize compiles the forms a compiler can vectorise besides the strided loop.
template <bool kVectorize, class T, class Out, class Op>
MAMBATUNE_INLINE void apply(const T* __restrict a, int64_t a_step, const T* __restrict b, int64_t b_step, Out* __restrict out,
                            int64_t count, const Op& op) {
  if (kVectorize && a_step == 1 && b_step == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = op(a[i], b[i]);
  } else if (kVectorize && a_step == 1 && b_step == 0) {
    const T value = *b;
    for (int64_t i = 0; i < count; ++i) out[i] = op(a[i], value);
  } else if (kVectorize && a_step == 0 && b_step == 1) {
    const T value = *a;
    for (int64_t i = 0; i < count; ++i) out[i] = op(value, b[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = op(a[i * a_step], b[i * b_step]);
  }
}

template <class T, class Out, bool kVectorize = false, class Op>
void run(const BinaryParams& p, const Op& op) {
  const Runs runs(p);
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  Out* out = static_cast<Out*>(p.out);
  const int64_t pieces = (runs.length + kElementBlock - 1) / kElementBlock;  // of a run
  for_each_block(runs.rows * pieces, units_per_task(runs.length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / pieces, first = i % pieces * kElementBlock;
      int64_t a_row, b_row;
      runs.offsets(row, &a_row, &b_row);
      apply<kVectorize>(a + a_row + first * runs.a_step, runs.a_step, b + b_row + first * runs.b_step, runs.b_step,
            out + row * runs.length + first, smaller(runs.length - first, kElementBlock), op);
    }
  });
}

double floored_mod(double a, double b) {
  const double rest = ::fmod(a, b);
  return (a < 0 && b < 0) || (a >= 0 && b >= 0) ? rest : ::fmod(rest + b, b);
}

template <class T>
constexpr bool kIsFloat = false;
template <>
constexpr bool kIsFloat<float> = true;

template <class T>
Error compare(const BinaryParams& p) {
  switch (p.op) {
    case BinaryOp::kEqual: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a == b; }); break;
    case BinaryOp::kNotEqual: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a != b; }); break;
    case BinaryOp::kLess: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a < b; }); break;
    case BinaryOp::kLessEqual: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a <= b; }); break;
    case BinaryOp::kGreater: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a > b; }); break;
    case BinaryOp::kGreaterEqual: run<T, uint8_t, kIsFloat<T>>(p, [](T a, T b) -> uint8_t { return a >= b; }); break;
    case BinaryOp::kLogicalAnd: run<T, uint8_t>(p, [](T a, T b) -> uint8_t { return (a != 0) & (b != 0); }); break;
    case BinaryOp::kLogicalOr: run<T, uint8_t>(p, [](T a, T b) -> uint8_t { return (a != 0) | (b != 0); }); break;
    default: return "binary: unknown operation";
  }
  return nullptr;
}

Error arithmetic_float(const BinaryParams& p) {
  switch (p.op) {
    case BinaryOp::kAdd: run<float, float, true>(p, [](float a, float b) { return a + b; }); break;
    case BinaryOp::kSub: run<float, float, true>(p, [](float a, float b) { return a - b; }); break;
    case BinaryOp::kMul: run<float, float, true>(p, [](float a, float b) { return a * b; }); break;
    case BinaryOp::kDiv: run<float, float, true>(p, [](float a, float b) { return a / b; }); break;
    case BinaryOp::kMaximum: run<float, float, true>(p, [](float a, float b) { return a != a || a > b ? a : b; }); break;
    case BinaryOp::kMinimum: run<float, float, true>(p, [](float a, float b) { return a != a || a < b ? a : b; }); break;
    case BinaryOp::kPow: run<float, float>(p, [](float a, float b) { return ::powf(a, b); }); break;
    case BinaryOp::kSquaredDifference: run<float, float, true>(p, [](float a, float b) { return (a - b) * (a - b); }); break;
    case BinaryOp::kFloorDiv:
      run<float, float>(p, [](float a, float b) { return static_cast<float>(::floor(static_cast<double>(a) / b)); });
      break;
    case BinaryOp::kMod: run<float, float>(p, [](float a, float b) { return static_cast<float>(floored_mod(a, b)); }); break;
    default: return compare<float>(p);
  }
  return nullptr;
}

// Computed in double and stored as a typed array would: JavaScript's arithmetic on int32 and bool tensors.
template <class T, class Op>
void run_as_double(const BinaryParams& p, const Op& op) {
  run<T, T>(p, [&](T a, T b) {
    T out;
    convert(op(static_cast<double>(a), static_cast<double>(b)), &out);
    return out;
  });
}

template <class T>
Error arithmetic_integer(const BinaryParams& p) {
  switch (p.op) {
    case BinaryOp::kAdd: run_as_double<T>(p, [](double a, double b) { return a + b; }); break;
    case BinaryOp::kSub: run_as_double<T>(p, [](double a, double b) { return a - b; }); break;
    case BinaryOp::kMul: run_as_double<T>(p, [](double a, double b) { return a * b; }); break;
    case BinaryOp::kDiv: run_as_double<T>(p, [](double a, double b) { return a / b; }); break;
    case BinaryOp::kMaximum: run<T, T>(p, [](T a, T b) { return a > b ? a : b; }); break;
    case BinaryOp::kMinimum: run<T, T>(p, [](T a, T b) { return a < b ? a : b; }); break;
    case BinaryOp::kPow: run_as_double<T>(p, [](double a, double b) { return ::pow(a, b); }); break;
    case BinaryOp::kSquaredDifference: run_as_double<T>(p, [](double a, double b) { return (a - b) * (a - b); }); break;
    case BinaryOp::kFloorDiv: run_as_double<T>(p, [](double a, double b) { return ::floor(a / b); }); break;
    case BinaryOp::kMod: run_as_double<T>(p, [](double a, double b) { return floored_mod(a, b); }); break;
    default: return compare<T>(p);
  }
  return nullptr;
}

}  // namespace

Error binary(const BinaryParams& p) {
  for (int d = 0; d < p.rank; ++d) {
    if (p.dims[d] == 0) return nullptr;
  }
  if (p.dtype == DType::kFloat32) return arithmetic_float(p);
  return p.dtype == DType::kInt32 ? arithmetic_integer<int32_t>(p) : arithmetic_integer<uint8_t>(p);
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
