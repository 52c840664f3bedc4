// SPDX-License-Identifier: Apache-2.0
// Two events fork a stream and join it again; in a recording they become edges of the graph. The main stream has the higher priority.
#include "beside.cuh"

#include <vector>

#include "allocator.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr const char* kWhat = "two parts beside each other";

struct Stream {
  cudaStream_t stream = nullptr;
  cudaEvent_t forked = nullptr, ended = nullptr;
  bool taken = false;
  bool follows_kernel = true;  // the work enqueued last: an early launch must follow a kernel of its own stream, and no other
};
Stream streams[kStreams];
int current = 0;

struct Fork {
  int main, side;  // equal when no stream was left
};
std::vector<Fork>& forks = *new std::vector<Fork>();

}  // namespace

Error open_streams() {
  if (streams[0].stream) return nullptr;
  int least = 0, greatest = 0;
  MAMBATUNE_TRY(describe_error(cudaDeviceGetStreamPriorityRange(&least, &greatest), "making a stream"));
  for (Stream& each : streams) {
    const int priority = &each == streams ? greatest : least;
    MAMBATUNE_TRY(describe_error(cudaStreamCreateWithPriority(&each.stream, cudaStreamNonBlocking, priority), "making a stream"));
    MAMBATUNE_TRY(describe_error(cudaEventCreateWithFlags(&each.forked, cudaEventDisableTiming), "making a stream"));
    MAMBATUNE_TRY(describe_error(cudaEventCreateWithFlags(&each.ended, cudaEventDisableTiming), "making a stream"));
  }
  streams[0].taken = true;
  return nullptr;
}

cudaStream_t stream() {
  streams[current].follows_kernel = true;
  return streams[current].stream;
}

cudaStream_t stream_at(int index) { return streams[index].stream; }

int stream_index() { return current; }

void note_kernel() { streams[current].follows_kernel = true; }

bool follows_kernel() { return streams[current].follows_kernel; }

Error begin_beside() {
  int side = current;
  for (int i = 1; i < kStreams && side == current; ++i) {
    if (!streams[i].taken) side = i;
  }
  if (side != current) {
    MAMBATUNE_TRY(describe_error(cudaEventRecord(streams[side].forked, streams[current].stream), kWhat));
    streams[side].taken = true;
  }
  if (forks.empty()) hold_released(true);
  forks.push_back({current, side});
  return nullptr;
}

Error begin_side() {
  const Fork& fork = forks.back();
  if (fork.side == fork.main) return nullptr;
  Stream& side = streams[fork.side];
  current = fork.side;
  side.follows_kernel = false;
  return describe_error(cudaStreamWaitEvent(side.stream, side.forked, 0), kWhat);
}

Error end_beside() {
  const Fork fork = forks.back();
  forks.pop_back();
  current = fork.main;
  cudaError_t status = cudaSuccess;
  if (fork.side != fork.main) {
    Stream &side = streams[fork.side], &main = streams[fork.main];
    status = cudaEventRecord(side.ended, side.stream);
    if (status == cudaSuccess) status = cudaStreamWaitEvent(main.stream, side.ended, 0);
    side.taken = main.follows_kernel = false;
  }
  if (forks.empty()) hold_released(false);
  return describe_error(status, kWhat);
}

}  // namespace cuda
}  // namespace mambatune
