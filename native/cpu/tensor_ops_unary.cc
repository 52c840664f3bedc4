// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels of one operand, and select, cast and fill. NaN and rounding behave as in tfjs's cpu backend.
#include "../include/device.h"
#include "tensor_ops_detail.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

template <class Op>
void map_vectors(const UnaryParams& p, const Op& op) {
  const float* x = static_cast<const float*>(p.x);
  float* y = static_cast<float*>(p.y);
  for_each_block(p.size, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kWidth) {
      const int lanes = static_cast<int>(smaller(end - i, kWidth));
      store_lanes(y + i, op(load_lanes(x + i, lanes)), lanes);
    }
  });
}

template <class In, class Out, class Op>
void map(const UnaryParams& p, const Op& op) {
  const In* x = static_cast<const In*>(p.x);
  Out* y = static_cast<Out*>(p.y);
  for_each_block(p.size, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<Out>(op(x[i]));
  });
}

// int32 in, computed in double, stored as an Int32Array would.
template <class Op>
void map_int(const UnaryParams& p, const Op& op) {
  map<int32_t, int32_t>(p, [&](int32_t x) { return wrap_int32(op(static_cast<double>(x))); });
}

template <class In>
Error predicate(const UnaryParams& p) {
  switch (p.op) {
    case UnaryOp::kIsNan: map<In, uint8_t>(p, [](In x) { return x != x; }); return nullptr;
    case UnaryOp::kIsFinite: map<In, uint8_t>(p, [](In x) { return x - x == 0; }); return nullptr;
    case UnaryOp::kIsInf: map<In, uint8_t>(p, [](In x) { return x == x && x - x != 0; }); return nullptr;
    default: map<In, uint8_t>(p, [](In x) { return x == 0 || x != x; }); return nullptr;
  }
}

Vec sign_of(Vec x) { return x > 0.0f ? broadcast(1.0f) : (x < 0.0f ? broadcast(-1.0f) : Vec{}); }

Error unary_float(const UnaryParams& p) {
  switch (p.op) {
    case UnaryOp::kNeg: map_vectors(p, [](Vec x) { return -x; }); break;
    case UnaryOp::kAbs: map_vectors(p, [](Vec x) { return abs(x); }); break;
    case UnaryOp::kExp: map_vectors(p, [](Vec x) { return exp(x); }); break;
    case UnaryOp::kExpm1: map<float, float>(p, [](float x) { return ::expm1f(x); }); break;
    case UnaryOp::kLog: map_vectors(p, [](Vec x) { return log(x); }); break;
    case UnaryOp::kLog1p: map<float, float>(p, [](float x) { return ::log1pf(x); }); break;
    case UnaryOp::kSqrt: map_vectors(p, [](Vec x) { return sqrt(x); }); break;
    case UnaryOp::kRsqrt: map_vectors(p, [](Vec x) { return 1.0f / sqrt(x); }); break;
    case UnaryOp::kSquare: map_vectors(p, [](Vec x) { return x * x; }); break;
    case UnaryOp::kReciprocal: map_vectors(p, [](Vec x) { return 1.0f / x; }); break;
    case UnaryOp::kSigmoid: map_vectors(p, [](Vec x) { return sigmoid(x); }); break;
    case UnaryOp::kSoftplus: map_vectors(p, [](Vec x) { return softplus(x); }); break;
    case UnaryOp::kTanh: map_vectors(p, [](Vec x) { return tanh(x); }); break;
    case UnaryOp::kRelu: map_vectors(p, [](Vec x) { return x <= 0.0f ? Vec{} : x; }); break;
    case UnaryOp::kSign: map_vectors(p, [](Vec x) { return sign_of(x); }); break;
    case UnaryOp::kStep: map_vectors(p, [](Vec x) { return x > 0.0f ? broadcast(1.0f) : (x == x ? Vec{} : x); }); break;
    case UnaryOp::kFloor: map<float, float>(p, [](float x) { return ::floorf(x); }); break;
    case UnaryOp::kCeil: map<float, float>(p, [](float x) { return ::ceilf(x); }); break;
    case UnaryOp::kRound: map<float, float>(p, [](float x) { return ::nearbyintf(x); }); break;
    case UnaryOp::kErf: map<float, float>(p, [](float x) { return ::erff(x); }); break;
    case UnaryOp::kSin: map<float, float>(p, [](float x) { return ::sinf(x); }); break;
    case UnaryOp::kCos: map<float, float>(p, [](float x) { return ::cosf(x); }); break;
    default: return "unary: unknown operation";
  }
  return nullptr;
}

Error unary_int(const UnaryParams& p) {
  switch (p.op) {
    case UnaryOp::kNeg: map_int(p, [](double x) { return -x; }); break;
    case UnaryOp::kAbs: map_int(p, [](double x) { return ::fabs(x); }); break;
    case UnaryOp::kExp: map_int(p, [](double x) { return ::exp(x); }); break;
    case UnaryOp::kExpm1: map_int(p, [](double x) { return ::expm1(x); }); break;
    case UnaryOp::kLog: map_int(p, [](double x) { return ::log(x); }); break;
    case UnaryOp::kLog1p: map_int(p, [](double x) { return ::log1p(x); }); break;
    case UnaryOp::kSqrt: map_int(p, [](double x) { return ::sqrt(x); }); break;
    case UnaryOp::kRsqrt: map_int(p, [](double x) { return 1.0 / ::sqrt(x); }); break;
    case UnaryOp::kSquare: map_int(p, [](double x) { return x * x; }); break;
    case UnaryOp::kReciprocal: map_int(p, [](double x) { return 1.0 / x; }); break;
    case UnaryOp::kSigmoid: map_int(p, [](double x) { return 1.0 / (1.0 + ::exp(-x)); }); break;
    case UnaryOp::kSoftplus: map_int(p, [](double x) { return x > 20.0 ? x : ::log1p(::exp(x)); }); break;
    case UnaryOp::kTanh: map_int(p, [](double x) { return ::tanh(x); }); break;
    case UnaryOp::kRelu: map_int(p, [](double x) { return x > 0.0 ? x : 0.0; }); break;
    case UnaryOp::kSign: map_int(p, [](double x) { return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : 0.0; }); break;
    case UnaryOp::kStep: map_int(p, [](double x) { return x > 0.0 ? 1.0 : 0.0; }); break;
    case UnaryOp::kFloor:
    case UnaryOp::kCeil:
    case UnaryOp::kRound: map_int(p, [](double x) { return x; }); break;
    case UnaryOp::kErf: map_int(p, [](double x) { return ::erf(x); }); break;
    case UnaryOp::kSin: map_int(p, [](double x) { return ::sin(x); }); break;
    case UnaryOp::kCos: map_int(p, [](double x) { return ::cos(x); }); break;
    default: return "unary: unknown operation";
  }
  return nullptr;
}

bool is_predicate(UnaryOp op) {
  return op == UnaryOp::kIsNan || op == UnaryOp::kIsFinite || op == UnaryOp::kIsInf || op == UnaryOp::kLogicalNot;
}

template <class T>
void select_elements(const SelectParams& p) {
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  T* out = static_cast<T*>(p.out);
  for_each_block(p.size, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T from_a = a[i], from_b = b[i];
      out[i] = p.condition[i] ? from_a : from_b;
    }
  });
}

template <class From, class To, class Op>
void cast_elements(const CastParams& p, const Op& op) {
  const From* x = static_cast<const From*>(p.x);
  To* y = static_cast<To*>(p.y);
  for_each_block(p.size, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(op(x[i]));
  });
}

template <class From>
void cast_from(const CastParams& p) {
  switch (p.to) {
    case DType::kFloat32: cast_elements<From, float>(p, [](From x) { return x; }); break;
    case DType::kInt32: cast_elements<From, int32_t>(p, [](From x) { return wrap_int32(static_cast<double>(x)); }); break;
    case DType::kBool: cast_elements<From, uint8_t>(p, [](From x) { return x != 0; }); break;
  }
}

template <class T>
void fill_elements(const FillParams& p) {
  T value;
  convert(p.value, &value);
  T* y = static_cast<T*>(p.y);
  for_each_block(p.size, 4 * kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = value;
  });
}

}  // namespace

Error unary(const UnaryParams& p) {
  if (is_predicate(p.op)) {
    if (p.dtype == DType::kFloat32) return predicate<float>(p);
    return p.dtype == DType::kInt32 ? predicate<int32_t>(p) : predicate<uint8_t>(p);
  }
  if (p.dtype == DType::kFloat32) return unary_float(p);
  if (p.dtype == DType::kInt32) return unary_int(p);
  return "unary: a bool operand is only for isNaN, isFinite, isInf and logicalNot";
}

Error select(const SelectParams& p) {
  if (p.element_size == 4) {
    select_elements<int32_t>(p);
  } else {
    select_elements<uint8_t>(p);
  }
  return nullptr;
}

Error cast(const CastParams& p) {
  switch (p.from) {
    case DType::kFloat32: cast_from<float>(p); break;
    case DType::kInt32: cast_from<int32_t>(p); break;
    case DType::kBool: cast_from<uint8_t>(p); break;
  }
  return nullptr;
}

Error fill(const FillParams& p) {
  switch (p.dtype) {
    case DType::kFloat32: fill_elements<float>(p); break;
    case DType::kInt32: fill_elements<int32_t>(p); break;
    case DType::kBool: fill_elements<uint8_t>(p); break;
  }
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
