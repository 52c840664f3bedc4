// SPDX-License-Identifier: Apache-2.0
// What the plain tensor kernels share: the grain of their tasks and JavaScript's conversion to int32.
#pragma once
#include <math.h>

#include "../include/tensor_ops.h"
#include "simd.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

constexpr int64_t kElementBlock = 16384;  // elements a task is worth

MAMBATUNE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// body(begin, end) over [0, size) in blocks, in parallel.
template <class Body>
MAMBATUNE_INLINE void for_each_block(int64_t size, int64_t block, const Body& body) {
  parallel_for((size + block - 1) / block,
               [&](int64_t task, int) { body(task * block, smaller((task + 1) * block, size)); });
}

// Units of `unit_elements` elements that make a task's worth.
MAMBATUNE_INLINE int64_t units_per_task(int64_t unit_elements) {
  return unit_elements < kElementBlock ? kElementBlock / (unit_elements < 1 ? 1 : unit_elements) : 1;
}

// As an Int32Array stores a number: truncated, modulo 2^32; 0 for NaN and infinities.
MAMBATUNE_INLINE int32_t wrap_int32(double x) {
  if (x > -2147483649.0 && x < 2147483648.0) return static_cast<int32_t>(x);
  if (!isfinite(x)) return 0;
  const double rest = ::fmod(::trunc(x), 4294967296.0);
  return static_cast<int32_t>(static_cast<uint32_t>(static_cast<int64_t>(rest)));
}

MAMBATUNE_INLINE void convert(double from, float* to) { *to = static_cast<float>(from); }
MAMBATUNE_INLINE void convert(double from, int32_t* to) { *to = wrap_int32(from); }
MAMBATUNE_INLINE void convert(double from, uint8_t* to) { *to = static_cast<uint8_t>(wrap_int32(from)); }

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
