// SPDX-License-Identifier: Apache-2.0
// Memory of the CPU device, and the messages of its errors.
#pragma once
#include <cstddef>

#include "../include/device.h"

namespace mambatune {

// A message formatted as by printf, valid until the thread's next.
__attribute__((format(printf, 1, 2))) Error format_error(const char* format, ...);
Error out_of_memory_error(size_t bytes);

// The caching allocator behind DeviceApi. Not thread-safe: for the one thread that runs JavaScript.
Error allocate(size_t bytes, void** memory);
void release(void* memory, size_t bytes);
void trim();
void memory_stats(MemoryStats* stats);
void reset_peak();

// Memory of a weight's copy, counted as such.
Error allocate_copy(size_t bytes, void** memory);
void release_copy(void* memory, size_t bytes);

// Memory of an op for the length of one call, taken from the same cache. Nothing here is inline: code compiled for one
// instruction set must not end up being the copy that all callers share.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  Error reserve(int64_t floats);  // once

  float* data = nullptr;

 private:
  size_t bytes_ = 0;
};

}  // namespace mambatune
