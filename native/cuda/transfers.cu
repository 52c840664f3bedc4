// SPDX-License-Identifier: Apache-2.0
// Transfers between host and device, and tables of constants.
//
// An upload is copied into a ring of two page-locked halves and sent from there, so that the caller's memory is free when the
// call returns and the host waits only for the half that is still being sent. Nothing is uploaded, downloaded or waited for
// while a graph is recorded: the replay would not repeat the host's part.
#include "transfers.cuh"

#include <algorithm>
#include <cstring>
#include <list>

#include "allocator.cuh"
#include "ops.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr size_t kHalfBytes = size_t{8} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kTables = 32;  // tables kept outside recordings

struct Ring {
  char* memory = nullptr;
  cudaEvent_t sent[2] = {};
  int half = 0;
  size_t used = 0;  // of the half
};

Ring ring;

Error open_ring() {
  if (ring.memory) return nullptr;
  for (cudaEvent_t& event : ring.sent) {
    if (!event) MAMBATUNE_TRY(describe_error(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "upload"));
  }
  void* memory = nullptr;
  MAMBATUNE_TRY(describe_error(cudaHostAlloc(&memory, 2 * kHalfBytes, cudaHostAllocDefault), "upload"));
  ring.memory = static_cast<char*>(memory);
  return nullptr;
}

// Goes on to the other half once what was sent from it has arrived.
Error turn_ring() {
  MAMBATUNE_TRY(describe_error(cudaEventRecord(ring.sent[ring.half], stream()), "upload"));
  ring.half = 1 - ring.half;
  ring.used = 0;
  return describe_error(cudaEventSynchronize(ring.sent[ring.half]), "upload");
}

struct Table {
  std::vector<char> content;
  void* memory;
};

std::list<Table>& tables = *new std::list<Table>();  // used last comes first
std::vector<RecordedTable>& recorded_tables = *new std::vector<RecordedTable>();

// Copies on a stream of its own and waits: recorded work does not run, so nothing on stream() can be in the way.
Error upload_beside_recording(void* device, const void* host, size_t bytes) {
  static cudaStream_t side = nullptr;
  if (!side) MAMBATUNE_TRY(describe_error(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), "upload of a table"));
  MAMBATUNE_TRY(describe_error(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, side), "upload of a table"));
  return describe_error(cudaStreamSynchronize(side), "upload of a table");
}

}  // namespace

Error upload(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (is_recording()) return "upload: not possible while a graph is recorded; write the data before";
  MAMBATUNE_TRY(open_ring());
  for (size_t done = 0; done < bytes;) {
    if (ring.used == kHalfBytes) MAMBATUNE_TRY(turn_ring());
    const size_t count = std::min(bytes - done, kHalfBytes - ring.used);
    char* staged = ring.memory + static_cast<size_t>(ring.half) * kHalfBytes + ring.used;
    std::memcpy(staged, static_cast<const char*>(host) + done, count);
    MAMBATUNE_TRY(describe_error(
        cudaMemcpyAsync(static_cast<char*>(device) + done, staged, count, cudaMemcpyHostToDevice, stream()), "upload"));
    ring.used = std::min(kHalfBytes, (ring.used + count + kAlignment - 1) / kAlignment * kAlignment);
    done += count;
  }
  return nullptr;
}

Error download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (is_recording()) return "download: not possible while a graph is recorded; read the data after its launch";
  MAMBATUNE_TRY(describe_error(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()), "download"));
  return describe_error(cudaStreamSynchronize(stream()), "download");
}

Error copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return nullptr;
  return describe_error(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy");
}

Error synchronize() {
  if (is_recording()) return "synchronize: not possible while a graph is recorded";
  return describe_error(cudaStreamSynchronize(stream()), "synchronize");
}

Error constant_table(const void* content, size_t bytes, void** memory) {
  const char* begin = static_cast<const char*>(content);
  if (is_recording()) {
    MAMBATUNE_TRY(allocate_hidden(bytes, false, memory));
    recorded_tables.push_back({*memory, bytes});
    return upload_beside_recording(*memory, content, bytes);
  }
  for (auto table = tables.begin(); table != tables.end(); ++table) {
    if (table->content.size() != bytes || std::memcmp(table->content.data(), content, bytes) != 0) continue;
    tables.splice(tables.begin(), tables, table);
    *memory = table->memory;
    return nullptr;
  }
  if (tables.size() == kTables) {
    release_hidden(tables.back().memory, tables.back().content.size(), false);
    tables.pop_back();
  }
  MAMBATUNE_TRY(allocate_hidden(bytes, false, memory));
  if (Error error = upload(*memory, content, bytes)) {
    release_hidden(*memory, bytes, false);
    return error;
  }
  tables.push_front({std::vector<char>(begin, begin + bytes), *memory});
  return nullptr;
}

std::vector<RecordedTable> take_recorded_tables() {
  std::vector<RecordedTable> taken;
  taken.swap(recorded_tables);
  return taken;
}

}  // namespace cuda
}  // namespace mambatune
