// SPDX-License-Identifier: Apache-2.0
// Peak of the machine: float32 fused multiply-adds from registers, copying between arrays far larger than the caches, and reading one.
//   peak THREADS   prints {"flops": a second, "copy_bytes": read and written a second, "read_bytes": a second}
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
constexpr int kChains = 12;
volatile float sink;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <typename Work>
double run_on_all(int threads, Work work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) pool.emplace_back(work);
  for (auto& thread : pool) thread.join();
  return seconds_since(start);
}

void multiply_add(long rounds) {
  Vector sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Vector{} + static_cast<float>(i);
  const Vector factor = Vector{} + 0.999f, addend = Vector{} + 0.001f;
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + addend;
  }
  Vector total{};
  for (const Vector& sum : sums) total += sum;
  sink = total[0];
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  constexpr long kRounds = 20'000'000;
  constexpr size_t kBytes = size_t{128} << 20;
  double flops = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const double took = run_on_all(threads, [] { multiply_add(kRounds); });
    const double rate = 2.0 * kChains * kWidth * static_cast<double>(kRounds) * threads / took;
    if (rate > flops) flops = rate;
  }
  const auto copy = [threads](int times) {
    return run_on_all(threads, [times] {
      std::vector<char> from(kBytes, 1), to(kBytes, 2);
      for (int i = 0; i < times; ++i) {
        std::memcpy(to.data(), from.data(), kBytes);
        asm volatile("" ::"r"(to.data()) : "memory");
      }
    });
  };
  // The difference leaves out the making of the arrays.
  const double copying = copy(22) - copy(2);
  const double copied = 2.0 * 20 * static_cast<double>(kBytes) * threads / copying;
  const auto read = [threads](int times) {
    return run_on_all(threads, [times] {
      const std::vector<float> from(kBytes / sizeof(float), 1.0f);
      const auto* vectors = reinterpret_cast<const Vector*>((reinterpret_cast<uintptr_t>(from.data()) + 63) / 64 * 64);
      Vector sums[8] = {};
      for (int i = 0; i < times; ++i) {
        for (size_t j = 0; j + 9 <= kBytes / sizeof(Vector); j += 8) {
#pragma GCC unroll 8
          for (int k = 0; k < 8; ++k) sums[k] += vectors[j + k];
        }
      }
      for (const Vector& sum : sums) sink = sum[0];
    });
  };
  const double reading = read(22) - read(2);
  const double bytes_read = 20 * static_cast<double>(kBytes) * threads / reading;
  std::printf("{\"flops\": %.6e, \"copy_bytes\": %.6e, \"read_bytes\": %.6e}\n", flops, copied, bytes_read);
}
