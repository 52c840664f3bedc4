// SPDX-License-Identifier: Apache-2.0
// A stable radix sort (CUB's), whose result does not depend on timing.
#include "sorted_rows.cuh"

#include <cub/device/device_radix_sort.cuh>

#include "allocator.cuh"
#include "launch.cuh"

namespace mambatune {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kThreads) number_rows_kernel(int32_t* rows, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_step()) rows[i] = static_cast<int32_t>(i);
}

int bits_of(int64_t id_count) {
  int bits = 1;
  while (bits < 31 && (int64_t{1} << bits) < id_count) ++bits;
  return bits;
}

}  // namespace

Error sort_rows(const int32_t* ids, int64_t count, int64_t id_count, SortedRows* sorted, const char* op) {
  if (count > INT32_MAX) return format_error("%s: more than 2^31 - 1 rows", op);
  const int items = static_cast<int>(count), bits = bits_of(id_count);
  MAMBATUNE_TRY(sorted->memory.reserve(2 * count));
  int32_t* sorted_ids = reinterpret_cast<int32_t*>(sorted->memory.get());
  int32_t* sorted_numbers = sorted_ids + count;
  size_t bytes = 0;
  MAMBATUNE_TRY(describe_error(
      cub::DeviceRadixSort::SortPairs(nullptr, bytes, ids, sorted_ids, sorted_numbers, sorted_numbers, items, 0, bits, stream()), op));
  Scratch numbers, temporary;
  MAMBATUNE_TRY(numbers.reserve(count));
  MAMBATUNE_TRY(temporary.reserve(static_cast<int64_t>(bytes / sizeof(float) + 1)));
  int32_t* rows = reinterpret_cast<int32_t*>(numbers.get());
  number_rows_kernel<<<blocks_for(count), kThreads, 0, stream()>>>(rows, count);
  MAMBATUNE_CHECK_LAUNCH(op);
  MAMBATUNE_TRY(describe_error(
      cub::DeviceRadixSort::SortPairs(temporary.get(), bytes, ids, sorted_ids, rows, sorted_numbers, items, 0, bits, stream()), op));
  sorted->ids = sorted_ids;
  sorted->rows = sorted_numbers;
  return nullptr;
}

}  // namespace cuda
}  // namespace mambatune
