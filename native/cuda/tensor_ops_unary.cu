// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels of one operand, and select, cast and fill. NaN and rounding behave as in tfjs's cpu backend. The
// operation is chosen in the kernel: these wait for memory, not for a branch that all threads take alike.
#include "tensor_ops_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

__device__ float apply(UnaryOp op, float x) {
  switch (op) {
    case UnaryOp::kNeg: return -x;
    case UnaryOp::kAbs: return fabsf(x);
    case UnaryOp::kExp: return expf(x);
    case UnaryOp::kExpm1: return expm1f(x);
    case UnaryOp::kLog: return logf(x);
    case UnaryOp::kLog1p: return log1pf(x);
    case UnaryOp::kSqrt: return sqrtf(x);
    case UnaryOp::kRsqrt: return 1.0f / sqrtf(x);
    case UnaryOp::kSquare: return x * x;
    case UnaryOp::kReciprocal: return 1.0f / x;
    case UnaryOp::kSigmoid: return 1.0f / (1.0f + expf(-x));
    case UnaryOp::kSoftplus: return x > 20.0f ? x : log1pf(expf(x));
    case UnaryOp::kTanh: return tanhf(x);
    case UnaryOp::kRelu: return x <= 0.0f ? 0.0f : x;
    case UnaryOp::kSign: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    case UnaryOp::kStep: return x > 0.0f ? 1.0f : x == x ? 0.0f : x;
    case UnaryOp::kFloor: return floorf(x);
    case UnaryOp::kCeil: return ceilf(x);
    case UnaryOp::kRound: return rintf(x);
    case UnaryOp::kErf: return erff(x);
    case UnaryOp::kSin: return sinf(x);
    default: return cosf(x);
  }
}

// Computed in float64 and stored as an Int32Array would.
__device__ double apply(UnaryOp op, double x) {
  switch (op) {
    case UnaryOp::kNeg: return -x;
    case UnaryOp::kAbs: return fabs(x);
    case UnaryOp::kExp: return exp(x);
    case UnaryOp::kExpm1: return expm1(x);
    case UnaryOp::kLog: return log(x);
    case UnaryOp::kLog1p: return log1p(x);
    case UnaryOp::kSqrt: return sqrt(x);
    case UnaryOp::kRsqrt: return 1.0 / sqrt(x);
    case UnaryOp::kSquare: return x * x;
    case UnaryOp::kReciprocal: return 1.0 / x;
    case UnaryOp::kSigmoid: return 1.0 / (1.0 + exp(-x));
    case UnaryOp::kSoftplus: return x > 20.0 ? x : log1p(exp(x));
    case UnaryOp::kTanh: return tanh(x);
    case UnaryOp::kRelu: return x > 0.0 ? x : 0.0;
    case UnaryOp::kSign: return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : 0.0;
    case UnaryOp::kStep: return x > 0.0 ? 1.0 : 0.0;
    case UnaryOp::kErf: return erf(x);
    case UnaryOp::kSin: return sin(x);
    case UnaryOp::kCos: return cos(x);
    default: return x;  // floor, ceil, round of a whole number
  }
}

template <class T>
__device__ bool holds(UnaryOp op, T x) {
  switch (op) {
    case UnaryOp::kIsNan: return x != x;
    case UnaryOp::kIsFinite: return x - x == 0;
    case UnaryOp::kIsInf: return x == x && x - x != 0;
    default: return x == 0 || x != x;
  }
}

__global__ void __launch_bounds__(kThreads) unary_kernel(UnaryOp op, const float* x, float* y, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) y[i] = apply(op, x[i]);
}

__global__ void __launch_bounds__(kThreads) unary_kernel(UnaryOp op, const int32_t* x, int32_t* y, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) y[i] = wrap_int32(apply(op, static_cast<double>(x[i])));
}

template <class T>
__global__ void __launch_bounds__(kThreads) predicate_kernel(UnaryOp op, const T* x, uint8_t* y, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) y[i] = holds(op, x[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) select_kernel(const uint8_t* condition, const T* a, const T* b, T* out, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) out[i] = condition[i] ? a[i] : b[i];
}

template <class From, class To>
__device__ To cast_to(From x) {
  if constexpr (sizeof(To) == 1) return x != 0;
  return convert<To>(static_cast<double>(x));
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads) cast_kernel(const From* x, To* y, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) y[i] = cast_to<From, To>(x[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T value, T* y, int64_t size) {
  for (int64_t i = first_index(); i < size; i += index_step()) y[i] = value;
}

bool is_predicate(UnaryOp op) {
  return op == UnaryOp::kIsNan || op == UnaryOp::kIsFinite || op == UnaryOp::kIsInf || op == UnaryOp::kLogicalNot;
}

}  // namespace

Error unary(const UnaryParams& p) {
  if (p.size == 0) return nullptr;
  const unsigned blocks = blocks_for(p.size);
  if (is_predicate(p.op)) {
    with_type(p.dtype, [&](auto type) {
      using T = decltype(type);
      predicate_kernel<T><<<blocks, kThreads, 0, stream()>>>(p.op, static_cast<const T*>(p.x), static_cast<uint8_t*>(p.y), p.size);
    });
  } else if (p.dtype == DType::kFloat32) {
    unary_kernel<<<blocks, kThreads, 0, stream()>>>(p.op, static_cast<const float*>(p.x), static_cast<float*>(p.y), p.size);
  } else if (p.dtype == DType::kInt32) {
    unary_kernel<<<blocks, kThreads, 0, stream()>>>(p.op, static_cast<const int32_t*>(p.x), static_cast<int32_t*>(p.y), p.size);
  } else {
    return "unary: a bool operand is only for isNaN, isFinite, isInf and logicalNot";
  }
  return describe_error(cudaGetLastError(), "unary");
}

Error select(const SelectParams& p) {
  if (p.size == 0) return nullptr;
  with_type(p.element_size == 4 ? DType::kInt32 : DType::kBool, [&](auto type) {
    using T = decltype(type);
    select_kernel<T><<<blocks_for(p.size), kThreads, 0, stream()>>>(p.condition, static_cast<const T*>(p.a), static_cast<const T*>(p.b),
                                                                 static_cast<T*>(p.out), p.size);
  });
  return describe_error(cudaGetLastError(), "select");
}

Error cast(const CastParams& p) {
  if (p.size == 0) return nullptr;
  with_type(p.from, [&](auto from) {
    with_type(p.to, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      cast_kernel<From, To><<<blocks_for(p.size), kThreads, 0, stream()>>>(static_cast<const From*>(p.x), static_cast<To*>(p.y), p.size);
    });
  });
  return describe_error(cudaGetLastError(), "cast");
}

Error fill(const FillParams& p) {
  if (p.size == 0) return nullptr;
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    fill_kernel<T><<<blocks_for(p.size), kThreads, 0, stream()>>>(convert<T>(p.value), static_cast<T*>(p.y), p.size);
  });
  return describe_error(cudaGetLastError(), "fill");
}

}  // namespace cuda
}  // namespace mambatune
