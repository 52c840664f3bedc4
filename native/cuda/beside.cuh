// SPDX-License-Identifier: Apache-2.0
// Work beside other work: two parts of the schedule that do not need each other run on two streams, so that kernels too small for all
// processors, or bound by different things, share them. Parts may have such parts within.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

// Streams of the device: the main one and those of parts beside it.
constexpr int kStreams = 4;

Error open_streams();
cudaStream_t stream_at(int index);
// Which of the streams stream() is now.
int stream_index();
// A kernel was enqueued on it by its index.
void note_kernel();

// From begin_side() to end_beside() work is enqueued on a stream of its own, beside what was enqueued since begin_beside(). What comes
// later waits for both. Memory released meanwhile is not handed out before the outermost end. With no stream left the two parts run one
// after the other. After an error in a part, the calls that remain are still made.
//
// The main part goes first because the card places its blocks first: behind the side's, of whose kernels there are several, they would be
// crowded onto the processors that those left.
Error begin_beside();
Error begin_side();
Error end_beside();

// Enqueues side's work beside main's; the first error of either.
template <class Main, class Side>
Error beside(const Main& main, const Side& side) {
  MAMBATUNE_TRY(begin_beside());
  Error error = main();
  const Error forked = begin_side();
  if (!error) error = forked ? forked : side();
  const Error joined = end_beside();
  return error ? error : joined;
}

}  // namespace cuda
}  // namespace mambatune
