// SPDX-License-Identifier: Apache-2.0
// Blocks come in size classes an eighth of a power of two apart and are kept for reuse when released, within a bound; the
// blocks released longest ago go back to the system first. Only the thread that runs JavaScript may call in here.
#include "memory.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace mambatune {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMappedBytes = size_t{1} << 20;  // from here on blocks are pages of their own
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr int kClasses = 8 * 64;

// Under AddressSanitizer blocks have their exact size and are not kept, so that it sees every access out of bounds.
#if defined(__SANITIZE_ADDRESS__)
#define MAMBATUNE_EXACT_BLOCKS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MAMBATUNE_EXACT_BLOCKS 1
#endif
#endif
#if defined(MAMBATUNE_EXACT_BLOCKS)
constexpr bool kExactBlocks = true;
constexpr uint64_t kMinCacheBound = 0;
#else
constexpr bool kExactBlocks = false;
constexpr uint64_t kMinCacheBound = uint64_t{256} << 20;
#endif

// Lies in the memory of a free block. In its class the block released last comes first; by age all free blocks are one list.
struct FreeBlock {
  FreeBlock *class_next, *class_previous;
  FreeBlock *newer, *older;
  size_t bytes;
};

FreeBlock* classes[kClasses];
FreeBlock *newest, *oldest;
MemoryStats statistics;

// The bytes a block of this size really has: up to 512 bytes a multiple of 64, then of an eighth of the power of two below.
size_t block_bytes(size_t bytes) {
  if (bytes < kAlignment) bytes = kAlignment;
  if (kExactBlocks) return bytes;
  const int top = 63 - __builtin_clzll(bytes);
  const size_t unit = top < 9 ? kAlignment : size_t{1} << (top - 3);
  return (bytes + unit - 1) / unit * unit;
}

FreeBlock*& class_of(size_t bytes) {
  const int top = 63 - __builtin_clzll(bytes);
  return classes[top < 9 ? bytes / kAlignment : static_cast<size_t>(top) * 8 + ((bytes >> (top - 3)) & 7)];
}

// Pages aligned to `alignment`: more are mapped and the ends given back.
void* map_pages(size_t bytes, size_t alignment) {
  void* mapped = mmap(nullptr, bytes + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  const size_t before = (alignment - reinterpret_cast<uintptr_t>(begin) % alignment) % alignment;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, alignment - before);
  return begin + before;
}

void* system_allocate(size_t bytes) {
  if (kExactBlocks || bytes < kMappedBytes) {
    void* memory = nullptr;
    return posix_memalign(&memory, kAlignment, bytes) == 0 ? memory : nullptr;
  }
  void* memory = map_pages(bytes, kHugePageBytes);
#if defined(MADV_HUGEPAGE)
  if (memory && bytes >= kHugePageBytes) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

void system_release(void* memory, size_t bytes) {
  if (kExactBlocks || bytes < kMappedBytes) {
    std::free(memory);
  } else {
    munmap(memory, bytes);
  }
}

void unlink(FreeBlock* block) {
  (block->class_previous ? block->class_previous->class_next : class_of(block->bytes)) = block->class_next;
  if (block->class_next) block->class_next->class_previous = block->class_previous;
  (block->newer ? block->newer->older : newest) = block->older;
  (block->older ? block->older->newer : oldest) = block->newer;
  statistics.cached_bytes -= block->bytes;
}

void trim_to(uint64_t bound) {
  while (statistics.cached_bytes > bound) {
    FreeBlock* block = oldest;
    unlink(block);
    system_release(block, block->bytes);
  }
}

}  // namespace

Error format_error(const char* format, ...) {
  thread_local char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return message;
}

Error out_of_memory_error(size_t bytes) {
  return format_error("out of memory: %zu bytes wanted, %llu bytes in use by %llu buffers", bytes,
                      static_cast<unsigned long long>(statistics.live_bytes),
                      static_cast<unsigned long long>(statistics.live_buffers));
}

Error allocate(size_t bytes, void** memory) {
  *memory = nullptr;
  if (bytes > SIZE_MAX / 4) return out_of_memory_error(bytes);
  const size_t size = block_bytes(bytes);
  FreeBlock* block = kExactBlocks ? nullptr : class_of(size);
  if (block) {
    unlink(block);
    *memory = block;
  } else {
    *memory = system_allocate(size);
    if (!*memory) {
      trim_to(0);
      *memory = system_allocate(size);
    }
    if (!*memory) return out_of_memory_error(bytes);
  }
  statistics.live_bytes += bytes;
  ++statistics.live_buffers;
  if (statistics.live_bytes > statistics.peak_bytes) statistics.peak_bytes = statistics.live_bytes;
  return nullptr;
}

void release(void* memory, size_t bytes) {
  if (!memory) return;
  statistics.live_bytes -= bytes;
  --statistics.live_buffers;
  const size_t size = block_bytes(bytes);
  if (kExactBlocks) {
    system_release(memory, size);
    return;
  }
  FreeBlock*& first = class_of(size);
  FreeBlock* block = static_cast<FreeBlock*>(memory);
  *block = {first, nullptr, nullptr, newest, size};
  if (first) first->class_previous = block;
  first = block;
  (newest ? newest->newer : oldest) = block;
  newest = block;
  statistics.cached_bytes += size;
  const uint64_t half = statistics.live_bytes / 2;
  trim_to(half > kMinCacheBound ? half : kMinCacheBound);
}

Error allocate_copy(size_t bytes, void** memory) {
  const uint64_t peak = statistics.peak_bytes;
  if (Error error = allocate(bytes, memory)) return error;
  statistics.live_bytes -= bytes;
  --statistics.live_buffers;
  statistics.peak_bytes = peak;
  statistics.weight_cache_bytes += bytes;
  return nullptr;
}

void release_copy(void* memory, size_t bytes) {
  statistics.weight_cache_bytes -= bytes;
  statistics.live_bytes += bytes;
  ++statistics.live_buffers;
  release(memory, bytes);
}

void trim() { trim_to(0); }

void memory_stats(MemoryStats* stats) { *stats = statistics; }

void reset_peak() { statistics.peak_bytes = statistics.live_bytes; }

Workspace::~Workspace() { release(data, bytes_); }

Error Workspace::reserve(int64_t floats) {
  bytes_ = static_cast<size_t>(floats) * sizeof(float);
  void* memory;
  const Error error = allocate(bytes_, &memory);
  data = static_cast<float*>(memory);
  return error;
}

}  // namespace mambatune
