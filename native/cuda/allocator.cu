// SPDX-License-Identifier: Apache-2.0
// A caching allocator over cudaMalloc. Memory comes in segments, which are split for smaller requests (best fit) and merged
// again when neighbours are free. Work runs in the order of one stream, so memory can be handed out again as soon as it is released:
// whoever gets it next comes later. Where parts run beside each other, it is held until they have met. Requests up to 1 MiB share segments of 2 MiB, so that they cannot scatter
// over the large ones.
//
// Graphs have a pool of their own. They run one after another, and each writes its scratch memory before it reads it, so that
// one pool serves all: what is free at the end of a recording can be used by the next.
#include "allocator.cuh"

#include <algorithm>
#include <cstdarg>
#include <cstdlib>
#include <set>
#include <string>
#include <unordered_map>

namespace mambatune {
namespace cuda {
namespace {

constexpr size_t kUnit = 512;                         // every block is a multiple of it
constexpr size_t kSmallest = size_t{1} << 20;         // requests up to this share small segments
constexpr size_t kSmallSegment = size_t{2} << 20;
constexpr size_t kLargeSegment = size_t{32} << 20;    // of requests up to half of it
constexpr size_t kSegmentUnit = size_t{2} << 20;
constexpr const char* kLimitVariable = "MAMBATUNE_CUDA_MEMORY_MIB";

struct Pool;

struct Block {
  char* memory;
  size_t bytes;
  Pool* pool;
  bool free;
  Block *previous, *next;  // neighbours in the segment
};

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    return a->bytes != b->bytes ? a->bytes < b->bytes : a->memory < b->memory;
  }
};

struct Pool {
  bool small;
  bool of_graphs;
  std::set<Block*, BySize> free_blocks;
};

// [of graphs][small]. Never destroyed: buffers may be released while the process ends.
Pool (&pools)[2][2] = *reinterpret_cast<Pool (*)[2][2]>(
    new Pool[4]{{false, false, {}}, {true, false, {}}, {false, true, {}}, {true, true, {}}});
std::unordered_map<void*, Block*>& used = *new std::unordered_map<void*, Block*>();
MemoryStats statistics;
uint64_t segment_bytes;      // of all segments
uint64_t graph_segment_bytes;  // of those in the pools of graphs
uint64_t used_block_bytes;   // of all used blocks
uint64_t pool_live_bytes, pool_peak_bytes;  // of the pool of graphs
bool recording = false;
int graph_count = 0;
std::vector<void*> kept_blocks;

struct Released {
  void* memory;
  size_t bytes;
};
bool holds_released = false;
std::vector<Released>& held = *new std::vector<Released>();

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

size_t segment_size(const Pool& pool, size_t bytes) {
  if (pool.small) return kSmallSegment;
  return bytes <= kLargeSegment / 2 ? kLargeSegment : round_up(bytes, kSegmentUnit);
}

bool is_whole_segment(const Block& block) { return !block.previous && !block.next; }

// Gives the wholly free segments of a pool back to the driver, after the work that may still use them.
void free_segments(Pool& pool) {
  std::vector<Block*> whole;
  for (Block* block : pool.free_blocks) {
    if (is_whole_segment(*block)) whole.push_back(block);
  }
  if (whole.empty()) return;
  if (!recording) cudaStreamSynchronize(stream());
  for (Block* block : whole) {
    pool.free_blocks.erase(block);
    cudaFree(block->memory);
    segment_bytes -= block->bytes;
    if (pool.of_graphs) graph_segment_bytes -= block->bytes;
    delete block;
  }
}

// The most bytes of all segments together, from the variable kLimitVariable; without it, what the card has.
uint64_t segment_limit() {
  static const uint64_t limit = [] {
    const char* text = std::getenv(kLimitVariable);
    const uint64_t mebibytes = text ? std::strtoull(text, nullptr, 10) : 0;
    return mebibytes > 0 ? mebibytes << 20 : UINT64_MAX;
  }();
  return limit;
}

cudaError_t allocate_segment(size_t size, void** memory) {
  if (size > segment_limit() - std::min<uint64_t>(segment_bytes, segment_limit())) return cudaErrorMemoryAllocation;
  return cudaMalloc(memory, size);
}

// A free block of at least `bytes` from a new segment; null when the card has no more.
Block* add_segment(Pool& pool, size_t bytes) {
  void* memory = nullptr;
  size_t size = segment_size(pool, bytes);
  cudaError_t status = allocate_segment(size, &memory);
  if (status != cudaSuccess && round_up(bytes, kSegmentUnit) < size) {
    size = round_up(bytes, kSegmentUnit);
    status = allocate_segment(size, &memory);
  }
  cudaGetLastError();
  if (status != cudaSuccess) return nullptr;
  segment_bytes += size;
  if (pool.of_graphs) graph_segment_bytes += size;
  Block* block = new Block{static_cast<char*>(memory), size, &pool, true, nullptr, nullptr};
  pool.free_blocks.insert(block);
  return block;
}

Block* find_free(Pool& pool, size_t bytes) {
  Block key{};
  key.bytes = bytes;
  const auto found = pool.free_blocks.lower_bound(&key);
  return found == pool.free_blocks.end() ? nullptr : *found;
}

// Takes the first `bytes` of a free block; what remains stays free, unless it is too little to be of use.
void take(Block* block, size_t bytes) {
  Pool& pool = *block->pool;
  pool.free_blocks.erase(block);
  block->free = false;
  const size_t rest = block->bytes - bytes;
  if (rest >= (pool.small ? kUnit : kSmallest)) {
    Block* remainder = new Block{block->memory + bytes, rest, &pool, true, block, block->next};
    if (block->next) block->next->previous = remainder;
    block->next = remainder;
    block->bytes = bytes;
    pool.free_blocks.insert(remainder);
  }
  used[block->memory] = block;
  used_block_bytes += block->bytes;
}

// Joins `block` with its right-hand neighbour, which is not in the list of free blocks.
void absorb_next(Block* block) {
  Block* next = block->next;
  block->bytes += next->bytes;
  block->next = next->next;
  if (block->next) block->next->previous = block;
  delete next;
}

void put_back(Block* block) {
  Pool& pool = *block->pool;
  used.erase(block->memory);
  used_block_bytes -= block->bytes;
  block->free = true;
  if (block->next && block->next->free) {
    pool.free_blocks.erase(block->next);
    absorb_next(block);
  }
  if (block->previous && block->previous->free) {
    block = block->previous;
    pool.free_blocks.erase(block);
    absorb_next(block);
  }
  pool.free_blocks.insert(block);
}

double mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

Error out_of_memory_error(size_t bytes) {
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  cudaGetLastError();
  const std::string limit =
      segment_limit() == UINT64_MAX ? "" : std::string(", and ") + kLimitVariable + " is " + std::to_string(segment_limit() >> 20);
  return format_error(
      "out of memory on the GPU: %.1f MiB wanted; %.1f MiB in use by %llu buffers, %.1f MiB by copies of weights, %.1f MiB held "
      "in cache; %.1f MiB of all of this are the memory of recorded steps; the card has %.1f MiB free of %.1f MiB%s. A smaller "
      "per_device_train_batch_size or max_length, or gradient_checkpointing: true, needs less; cuda_graphs: false keeps no memory "
      "for recorded steps",
      mebibytes(bytes), mebibytes(statistics.live_bytes), static_cast<unsigned long long>(statistics.live_buffers),
      mebibytes(statistics.weight_cache_bytes), mebibytes(segment_bytes - used_block_bytes),
      mebibytes(graph_segment_bytes), mebibytes(free_bytes), mebibytes(total_bytes), limit.c_str());
}

Error take_block(size_t bytes, bool of_graphs, void** memory) {
  *memory = nullptr;
  if (bytes > SIZE_MAX / 4) return out_of_memory_error(bytes);
  const size_t size = std::max(round_up(bytes, kUnit), kUnit);
  Pool& pool = pools[of_graphs][size <= kSmallest];
  Block* block = find_free(pool, size);
  if (!block) block = add_segment(pool, size);
  if (!block) {
    trim();
    block = add_segment(pool, size);
  }
  if (!block) return out_of_memory_error(bytes);
  take(block, size);
  *memory = block->memory;
  return nullptr;
}

void release_block(void* memory) {
  Block* block = used.at(memory);
  if (recording && !block->pool->of_graphs) {
    kept_blocks.push_back(memory);
  } else {
    put_back(block);
  }
}

bool is_of_graphs(void* memory) { return used.at(memory)->pool->of_graphs; }

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
  MAMBATUNE_TRY(take_block(bytes, recording, memory));
  statistics.live_bytes += bytes;
  ++statistics.live_buffers;
  statistics.peak_bytes = std::max(statistics.peak_bytes, statistics.live_bytes);
  if (recording) {
    pool_live_bytes += bytes;
    pool_peak_bytes = std::max(pool_peak_bytes, pool_live_bytes);
  }
  return nullptr;
}

void release(void* memory, size_t bytes) {
  if (!memory) return;
  if (holds_released) {
    held.push_back({memory, bytes});
    return;
  }
  statistics.live_bytes -= bytes;
  --statistics.live_buffers;
  if (is_of_graphs(memory)) pool_live_bytes -= bytes;
  release_block(memory);
}

void hold_released(bool on) {
  holds_released = on;
  if (on) return;
  for (const Released& each : held) release(each.memory, each.bytes);
  held.clear();
}

Error scratch(size_t bytes, void** memory) { return allocate(bytes, memory); }
void release_scratch(void* memory, size_t bytes) { release(memory, bytes); }

Error allocate_hidden(size_t bytes, bool weight_cache, void** memory) {
  MAMBATUNE_TRY(take_block(bytes, false, memory));
  if (weight_cache) statistics.weight_cache_bytes += bytes;
  return nullptr;
}

void release_hidden(void* memory, size_t bytes, bool weight_cache) {
  if (!memory) return;
  if (weight_cache) statistics.weight_cache_bytes -= bytes;
  release_block(memory);
}

void memory_stats(MemoryStats* stats) {
  *stats = statistics;
  stats->cached_bytes = segment_bytes - used_block_bytes;
}

void reset_peak() { statistics.peak_bytes = statistics.live_bytes; }

void trim() {
  for (Pool& pool : pools[false]) free_segments(pool);
  if (graph_count > 0 || recording) return;
  for (Pool& pool : pools[true]) free_segments(pool);
}

void start_recording() {
  recording = true;
  pool_peak_bytes = pool_live_bytes;
}

void stop_recording(std::vector<void*>* kept) {
  recording = false;
  kept->swap(kept_blocks);
  kept_blocks.clear();
}

bool is_recording() { return recording; }

void release_kept(const std::vector<void*>& kept) {
  for (void* memory : kept) release_block(memory);
}

void count_graphs(int change) { graph_count += change; }

uint64_t recorded_peak_bytes() { return pool_peak_bytes; }

void note_launch(uint64_t recorded_peak) {
  const uint64_t in_launch = statistics.live_bytes - pool_live_bytes + std::max(recorded_peak, pool_live_bytes);
  statistics.peak_bytes = std::max(statistics.peak_bytes, in_launch);
}

}  // namespace cuda
}  // namespace mambatune
