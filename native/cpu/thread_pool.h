// SPDX-License-Identifier: Apache-2.0
// The process-wide pool of threads that every CPU kernel runs on.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mambatune {

// Threads that work on a parallel_for, the caller among them: MAMBATUNE_NUM_THREADS, else the processors this process may
// use (affinity mask and control-group quota).
int thread_count();

// What was wrong with MAMBATUNE_NUM_THREADS, as a sentence, or null.
const char* thread_count_warning();

// Calls body(context, task, thread) for every task in [0, tasks), thread in [0, thread_count()), and returns when all are
// done. Threads take the next task as they become free, so which thread runs a task is not fixed; a body must not let its
// result depend on it. A call from inside a body runs on the calling thread alone, and so does a call made while another
// thread's call is under way.
void parallel_for(int64_t tasks, void (*body)(void* context, int64_t task, int thread), void* context);

template <class Body>
inline void parallel_for(int64_t tasks, Body body) {
  parallel_for(
      tasks, [](void* context, int64_t task, int thread) { (*static_cast<Body*>(context))(task, thread); }, &body);
}

// Scratch memory of the calling thread, 64-byte aligned, at least `floats` long, valid until its next call; null when
// there is no memory. Not zeroed.
float* thread_scratch(size_t floats);

}  // namespace mambatune
