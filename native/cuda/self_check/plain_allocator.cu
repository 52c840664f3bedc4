// SPDX-License-Identifier: Apache-2.0
// In the place of allocator.cu for compute-sanitizer: every piece of memory is one cudaMalloc of its exact size, so that a read or
// write past its end, or of what nobody wrote, is seen. While a graph is recorded nothing is freed: the graph may use it.
#include <cstdarg>
#include <unordered_map>

#include "../allocator.cuh"

namespace mambatune {
namespace cuda {
namespace {

std::unordered_map<void*, size_t>& used = *new std::unordered_map<void*, size_t>();
MemoryStats statistics;
bool recording = false;
std::vector<void*> kept_blocks;

Error take(size_t bytes, void** memory) {
  *memory = nullptr;
  const cudaError_t status = cudaMalloc(memory, bytes > 0 ? bytes : 1);
  cudaGetLastError();
  if (status != cudaSuccess) return format_error("out of memory on the GPU: %.1f MiB wanted", static_cast<double>(bytes) / 1048576.0);
  used[*memory] = bytes;
  return nullptr;
}

void give_back(void* memory) {
  if (recording) {
    kept_blocks.push_back(memory);
    return;
  }
  used.erase(memory);
  cudaFree(memory);  // waits for the work that uses it
}

}  // namespace

Error format_error(const char* format, ...) {
  static thread_local char message[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return message;
}

Error allocate(size_t bytes, void** memory) {
  MAMBATUNE_TRY(take(bytes, memory));
  statistics.live_bytes += bytes;
  ++statistics.live_buffers;
  if (statistics.live_bytes > statistics.peak_bytes) statistics.peak_bytes = statistics.live_bytes;
  return nullptr;
}

void release(void* memory, size_t bytes) {
  if (!memory) return;
  statistics.live_bytes -= bytes;
  --statistics.live_buffers;
  give_back(memory);
}

void hold_released(bool) {}  // cudaFree waits for all streams

Error scratch(size_t bytes, void** memory) { return allocate(bytes, memory); }
void release_scratch(void* memory, size_t bytes) { release(memory, bytes); }

Error allocate_hidden(size_t bytes, bool weight_cache, void** memory) {
  MAMBATUNE_TRY(take(bytes, memory));
  if (weight_cache) statistics.weight_cache_bytes += bytes;
  return nullptr;
}

void release_hidden(void* memory, size_t bytes, bool weight_cache) {
  if (!memory) return;
  if (weight_cache) statistics.weight_cache_bytes -= bytes;
  give_back(memory);
}

void memory_stats(MemoryStats* stats) { *stats = statistics; }
void reset_peak() { statistics.peak_bytes = statistics.live_bytes; }
void trim() {}

void start_recording() { recording = true; }

void stop_recording(std::vector<void*>* kept) {
  recording = false;
  kept->swap(kept_blocks);
  kept_blocks.clear();
}

bool is_recording() { return recording; }

void release_kept(const std::vector<void*>& kept) {
  for (void* memory : kept) give_back(memory);
}

void count_graphs(int) {}
uint64_t recorded_peak_bytes() { return 0; }
void note_launch(uint64_t) {}

}  // namespace cuda
}  // namespace mambatune
