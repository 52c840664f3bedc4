// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels of two operands with broadcasting. Neighbouring dimensions are merged while both operands allow it, so
// that equal shapes and scalars need no division and a row or column needs one.
#include "tensor_ops_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

// The output's dimensions, merged, innermost last; strides in elements.
struct Space {
  int rank = 0;
  int64_t size = 1;
  int64_t dims[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];

  explicit Space(const BinaryParams& p) {
    for (int d = 0; d < p.rank; ++d) {
      size *= p.dims[d];
      if (p.dims[d] == 1) continue;
      const bool merges = rank > 0 && a_strides[rank - 1] == p.a_strides[d] * p.dims[d] &&
                          b_strides[rank - 1] == p.b_strides[d] * p.dims[d];
      if (merges) {
        dims[rank - 1] *= p.dims[d];
      } else {
        dims[rank++] = p.dims[d];
      }
      a_strides[rank - 1] = p.a_strides[d];
      b_strides[rank - 1] = p.b_strides[d];
    }
  }
};

// Index: uint32_t where the size allows it.
template <class Index>
__device__ __forceinline__ void find_operands(const Space& space, Index i, int64_t* a, int64_t* b) {
  *a = *b = 0;
#pragma unroll
  for (int d = kMaxRank - 1; d >= 0; --d) {
    if (d >= space.rank) continue;
    Index at = i;
    if (d > 0) {
      const Index dim = static_cast<Index>(space.dims[d]);
      at = i % dim;
      i /= dim;
    }
    *a += static_cast<int64_t>(at) * space.a_strides[d];
    *b += static_cast<int64_t>(at) * space.b_strides[d];
  }
}

__device__ double floored_mod(double a, double b) {
  const double rest = fmod(a, b);
  return (a < 0 && b < 0) || (a >= 0 && b >= 0) ? rest : fmod(rest + b, b);
}

__device__ float arithmetic(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::kAdd: return a + b;
    case BinaryOp::kSub: return a - b;
    case BinaryOp::kMul: return a * b;
    case BinaryOp::kDiv: return a / b;
    case BinaryOp::kMaximum: return a != a || a > b ? a : b;
    case BinaryOp::kMinimum: return a != a || a < b ? a : b;
    case BinaryOp::kPow: return powf(a, b);
    case BinaryOp::kSquaredDifference: return (a - b) * (a - b);
    case BinaryOp::kFloorDiv: return static_cast<float>(floor(static_cast<double>(a) / b));
    default: return static_cast<float>(floored_mod(a, b));
  }
}

// Computed in float64 and stored as a typed array would: JavaScript's arithmetic on int32 and bool tensors.
template <class T>
__device__ T arithmetic(BinaryOp op, T x, T y) {
  const double a = x, b = y;
  switch (op) {
    case BinaryOp::kAdd: return convert<T>(a + b);
    case BinaryOp::kSub: return convert<T>(a - b);
    case BinaryOp::kMul: return convert<T>(a * b);
    case BinaryOp::kDiv: return convert<T>(a / b);
    case BinaryOp::kMaximum: return x > y ? x : y;
    case BinaryOp::kMinimum: return x < y ? x : y;
    case BinaryOp::kPow: return convert<T>(pow(a, b));
    case BinaryOp::kSquaredDifference: return convert<T>((a - b) * (a - b));
    case BinaryOp::kFloorDiv: return convert<T>(floor(a / b));
    default: return convert<T>(floored_mod(a, b));
  }
}

template <class T>
__device__ bool compare(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kEqual: return a == b;
    case BinaryOp::kNotEqual: return a != b;
    case BinaryOp::kLess: return a < b;
    case BinaryOp::kLessEqual: return a <= b;
    case BinaryOp::kGreater: return a > b;
    case BinaryOp::kGreaterEqual: return a >= b;
    case BinaryOp::kLogicalAnd: return a != 0 && b != 0;
    default: return a != 0 || b != 0;
  }
}

template <class T, class Index, bool Compares>
__global__ void __launch_bounds__(kThreads) binary_kernel(BinaryOp op, Space space, const T* a, const T* b, void* out) {
  for (int64_t i = first_index(); i < space.size; i += index_step()) {
    int64_t at_a, at_b;
    find_operands<Index>(space, static_cast<Index>(i), &at_a, &at_b);
    if constexpr (Compares) {
      static_cast<uint8_t*>(out)[i] = compare(op, a[at_a], b[at_b]);
    } else {
      static_cast<T*>(out)[i] = arithmetic(op, a[at_a], b[at_b]);
    }
  }
}

template <class T, class Index>
void launch(const BinaryParams& p, const Space& space) {
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  const unsigned blocks = blocks_for(space.size);
  if (p.op >= BinaryOp::kEqual) {
    binary_kernel<T, Index, true><<<blocks, kThreads, 0, stream()>>>(p.op, space, a, b, p.out);
  } else {
    binary_kernel<T, Index, false><<<blocks, kThreads, 0, stream()>>>(p.op, space, a, b, p.out);
  }
}

}  // namespace

Error binary(const BinaryParams& p) {
  const Space space(p);
  if (space.size == 0) return nullptr;
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (space.size <= UINT32_MAX) {
      launch<T, uint32_t>(p, space);
    } else {
      launch<T, uint64_t>(p, space);
    }
  });
  return describe_error(cudaGetLastError(), "binary");
}

}  // namespace cuda
}  // namespace mambatune
