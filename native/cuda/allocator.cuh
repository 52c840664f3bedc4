// SPDX-License-Identifier: Apache-2.0
// Device memory: what common.cuh does not already say of it, for the device's own files.
#pragma once
#include <vector>

#include "common.cuh"

namespace mambatune {
namespace cuda {

// A message formatted as by printf, valid until the thread's next.
__attribute__((format(printf, 1, 2))) Error format_error(const char* format, ...);

// The functions of DeviceApi. Not thread-safe: for the one thread that runs JavaScript.
Error allocate(size_t bytes, void** memory);
void release(void* memory, size_t bytes);
void memory_stats(MemoryStats* stats);
void reset_peak();
void trim();
// While on, memory that is released is not handed out again: work on several streams may still use it.
void hold_released(bool on);

// Memory that is no buffer: copies of weights, tables of pointers. It never comes from the pool of graphs, and counts as
// weight_cache_bytes or not at all. Not counted in live_bytes.
Error allocate_hidden(size_t bytes, bool weight_cache, void** memory);
void release_hidden(void* memory, size_t bytes, bool weight_cache);

// While recording, memory comes from the pool of graphs, and memory of the other pool that is released is kept in `kept`
// instead. The stream must be idle at the start.
void start_recording();
void stop_recording(std::vector<void*>* kept);
bool is_recording();
// Gives memory that was kept back to the cache.
void release_kept(const std::vector<void*>& kept);
// A graph that may use the pool's memory came to be (+1) or is gone (-1): without any, the pool's memory can be trimmed.
void count_graphs(int change);
// Highest number of live bytes in the pool of graphs while recording last; a launch uses as many again.
uint64_t recorded_peak_bytes();
void note_launch(uint64_t recorded_peak);

}  // namespace cuda
}  // namespace mambatune
