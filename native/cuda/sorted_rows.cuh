// SPDX-License-Identifier: Apache-2.0
// Rows grouped by an id, for sums that must always run in the same order.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

// The rows 0..count - 1 sorted by their id, rows of one id in row order. Both arrays lie in `memory`.
struct SortedRows {
  Scratch memory;
  const int32_t* ids = nullptr;   // [count], ascending
  const int32_t* rows = nullptr;  // [count]
};

// ids lie in [0, id_count).
Error sort_rows(const int32_t* ids, int64_t count, int64_t id_count, SortedRows* sorted, const char* op);

// Whether the sorted position is the first of its id.
__device__ __forceinline__ bool starts_group(const int32_t* ids, int64_t position) {
  return position == 0 || ids[position] != ids[position - 1];
}

}  // namespace cuda
}  // namespace mambatune
