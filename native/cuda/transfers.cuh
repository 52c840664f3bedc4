// SPDX-License-Identifier: Apache-2.0
// Tables of constants (lists of pointers and sizes) for kernels that work on many tensors at once.
#pragma once
#include <vector>

#include "common.cuh"

namespace mambatune {
namespace cuda {

// Device memory with this content, for the work enqueued next; equal contents share memory. While a graph is recorded the
// table is made at once and belongs to the graph.
Error constant_table(const void* content, size_t bytes, void** memory);

struct RecordedTable {
  void* memory;
  size_t bytes;
};

// The tables made since recording began: the caller owns them.
std::vector<RecordedTable> take_recorded_tables();

}  // namespace cuda
}  // namespace mambatune
