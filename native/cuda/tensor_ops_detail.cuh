// SPDX-License-Identifier: Apache-2.0
// What the plain tensor kernels share: JavaScript's conversions and the choice of an element type.
#pragma once
#include <cmath>

#include "launch.cuh"

namespace mambatune {
namespace cuda {

// As an Int32Array stores a number: truncated, modulo 2^32; 0 for NaN and infinities.
__host__ __device__ inline int32_t wrap_int32(double x) {
  if (x > -2147483649.0 && x < 2147483648.0) return static_cast<int32_t>(x);
  if (!(x - x == 0.0)) return 0;
  const double rest = fmod(trunc(x), 4294967296.0);
  return static_cast<int32_t>(static_cast<uint32_t>(static_cast<int64_t>(rest)));
}

template <class T>
__host__ __device__ inline T convert(double x);
template <>
__host__ __device__ inline float convert<float>(double x) {
  return static_cast<float>(x);
}
template <>
__host__ __device__ inline int32_t convert<int32_t>(double x) {
  return wrap_int32(x);
}
template <>
__host__ __device__ inline uint8_t convert<uint8_t>(double x) {
  return static_cast<uint8_t>(wrap_int32(x));
}

// Calls use with a value of the type that `dtype` stands for.
template <class Use>
void with_type(DType dtype, Use use) {
  switch (dtype) {
    case DType::kFloat32: use(float()); break;
    case DType::kInt32: use(int32_t()); break;
    case DType::kBool: use(uint8_t()); break;
  }
}

}  // namespace cuda
}  // namespace mambatune
