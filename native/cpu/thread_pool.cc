// SPDX-License-Identifier: Apache-2.0
// Workers spin for a short while after each job, so that the next of many small jobs finds them awake, and then sleep on
// a condition variable, so that an idle process uses no processor. The pool is never destroyed: the process may end while
// workers sleep.
#include "thread_pool.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace mambatune {
namespace {

constexpr int kMaxThreads = 1024;
constexpr auto kSpin = std::chrono::microseconds(40);

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Processors' worth of time the control group grants (version 2, then version 1), or 0 for no limit.
int cgroup_cpus() {
#if defined(__linux__)
  double quota = 0, period = 0;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lf %lf", &quota, &period) != 2) quota = 0;
    std::fclose(file);
  } else {
    FILE* quota_file = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
    FILE* period_file = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
    if (!quota_file || !period_file || std::fscanf(quota_file, "%lf", &quota) != 1 ||
        std::fscanf(period_file, "%lf", &period) != 1) {
      quota = 0;
    }
    if (quota_file) std::fclose(quota_file);
    if (period_file) std::fclose(period_file);
  }
  if (quota > 0 && period > 0) return static_cast<int>(std::ceil(quota / period));
#endif
  return 0;
}

int available_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
#endif
  const int granted = cgroup_cpus();
  if (granted > 0 && granted < cpus) cpus = granted;
  return cpus < 1 ? 1 : cpus > kMaxThreads ? kMaxThreads : cpus;
}

struct Setting {
  int threads;
  char warning[160] = {};

  Setting() : threads(available_cpus()) {
    const char* text = std::getenv("MAMBATUNE_NUM_THREADS");
    if (!text || !*text) return;
    char* end;
    const long value = std::strtol(text, &end, 10);
    if (*end == 0 && value >= 1 && value <= kMaxThreads) {
      threads = static_cast<int>(value);
    } else {
      std::snprintf(warning, sizeof warning,
                    "MAMBATUNE_NUM_THREADS is '%.40s', not a whole number from 1 to %d; using %d threads", text, kMaxThreads,
                    threads);
    }
  }
};

const Setting& setting() {
  static const Setting value;
  return value;
}

thread_local int current_thread = 0;
thread_local bool inside_job = false;

// One word says whether a job can be entered, which one, and how many workers are in it: a worker can only enter while
// the job is open, and the caller leaves only when it has closed the job and no worker is left in it.
constexpr uint64_t kWorkers = 0xffff, kOpen = 0x10000, kGeneration = 0x20000;

struct Pool {
  std::atomic<uint64_t> state{0};
  std::atomic<int64_t> next{0};
  int64_t tasks = 0;
  void (*body)(void*, int64_t, int) = nullptr;
  void* context = nullptr;

  std::mutex caller;  // held by the one thread whose job runs
  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};
  int workers = 0;

  Pool() {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (int i = 1; i < thread_count(); ++i) {
        std::thread(&Pool::work, this, i).detach();
        ++workers;
      }
    } catch (const std::system_error&) {
      // The system gives no more threads: the job is shared by those there are.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void run_tasks(int thread) {
    inside_job = true;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(context, task, thread);
    inside_job = false;
  }

  bool is_new(uint64_t s, uint64_t seen) const { return (s & kOpen) && s / kGeneration != seen; }

  uint64_t wait_for_job(uint64_t seen) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; ++i) {
        const uint64_t s = state.load(std::memory_order_acquire);
        if (is_new(s, seen)) return s;
        pause_cpu();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    std::unique_lock<std::mutex> lock(sleep_mutex);
    sleepers.fetch_add(1);
    uint64_t s;
    wake.wait(lock, [&] { return is_new(s = state.load(), seen); });
    sleepers.fetch_sub(1);
    return s;
  }

  void work(int thread) {
    current_thread = thread;
    uint64_t seen = 0;
    for (;;) {
      uint64_t s = wait_for_job(seen);
      while (is_new(s, seen)) {
        if (!state.compare_exchange_weak(s, s + 1, std::memory_order_acquire)) continue;
        seen = s / kGeneration;
        run_tasks(thread);
        state.fetch_sub(1, std::memory_order_release);
        break;
      }
    }
  }

  void run(int64_t count, void (*function)(void*, int64_t, int), void* argument) {
    tasks = count;
    body = function;
    context = argument;
    next.store(0, std::memory_order_relaxed);
    const uint64_t closed = state.load(std::memory_order_relaxed);
    state.store((closed / kGeneration + 1) * kGeneration | kOpen);
    if (sleepers.load() > 0) {
      std::lock_guard<std::mutex> lock(sleep_mutex);
      if (count - 1 >= workers) {
        wake.notify_all();
      } else {
        for (int64_t i = 1; i < count; ++i) wake.notify_one();
      }
    }
    run_tasks(0);
    state.fetch_and(~kOpen);
    for (int spins = 0; state.load(std::memory_order_acquire) & kWorkers; ++spins) {
      if (spins < 20000) {
        pause_cpu();
      } else {
        std::this_thread::yield();  // more threads than processors: let the last worker have this one
      }
    }
  }
};

struct Scratch {
  float* memory = nullptr;
  size_t floats = 0;
  ~Scratch() { std::free(memory); }
};

}  // namespace

int thread_count() { return setting().threads; }

const char* thread_count_warning() { return setting().warning[0] ? setting().warning : nullptr; }

void parallel_for(int64_t tasks, void (*body)(void*, int64_t, int), void* context) {
  if (tasks <= 0) return;
  if (tasks > 1 && !inside_job && thread_count() > 1) {
    static Pool& pool = *new Pool;
    std::unique_lock<std::mutex> lock(pool.caller, std::try_to_lock);
    if (lock.owns_lock()) {
      pool.run(tasks, body, context);
      return;
    }
  }
  for (int64_t task = 0; task < tasks; ++task) body(context, task, current_thread);
}

float* thread_scratch(size_t floats) {
  thread_local Scratch scratch;
  if (scratch.floats < floats) {
    std::free(scratch.memory);
    const size_t bytes = (floats * sizeof(float) + 4095) / 4096 * 4096;
    scratch.memory = static_cast<float*>(std::aligned_alloc(4096, bytes));
    scratch.floats = scratch.memory ? bytes / sizeof(float) : 0;
  }
  return scratch.memory;
}

}  // namespace mambatune
