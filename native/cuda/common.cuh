// SPDX-License-Identifier: Apache-2.0
// What every CUDA op shares: the stream, scratch memory, errors, the fast special functions and fixed-order column sums.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

#include "../include/device.h"

namespace mambatune {
namespace cuda {

// The stream that work is enqueued on now: of the whole, or of a part of it (beside.cuh).
cudaStream_t stream();

// Whether a kernel may be started before the one before it has ended (compute capability 9.0).
bool starts_early();
// Whether the work before on the stream is one kernel of this stream: not after a fork or a join.
bool follows_kernel();

// Memory from the caching allocator, ordered with stream(): it may be released as soon as the work that uses it is enqueued.
// Neither call waits; both are safe during graph capture.
Error scratch(size_t bytes, void** memory);
void release_scratch(void* memory, size_t bytes);

// Scratch floats that live until the end of the scope.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (memory_) release_scratch(memory_, bytes_);
  }

  Error reserve(int64_t floats) {
    bytes_ = static_cast<size_t>(floats) * sizeof(float);
    return scratch(bytes_, &memory_);
  }
  float* get() const { return static_cast<float*>(memory_); }

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

// Null, or the CUDA error with the op's name; valid until the next failure on the same thread.
inline Error describe_error(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return nullptr;
  static thread_local char message[256];
  snprintf(message, sizeof(message), "%s: CUDA error %s: %s", op, cudaGetErrorName(status), cudaGetErrorString(status));
  return message;
}

#define MAMBATUNE_TRY(expression)                                    \
  do {                                                               \
    if (const ::mambatune::Error mambatune_error = (expression)) return mambatune_error; \
  } while (0)

// After a launch: returns its error, if any, from the enclosing function.
#define MAMBATUNE_CHECK_LAUNCH(op) MAMBATUNE_TRY(::mambatune::cuda::describe_error(cudaGetLastError(), op))

// Launches a kernel that calls wait_for_previous(), so that its start passes beside the end of the kernel before it; `shared_bytes` of
// dynamic shared memory.
template <class... Parameters, class... Arguments>
Error launch_early_with_memory(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes, const char* op,
                               const Arguments&... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &early;
  config.numAttrs = starts_early() && follows_kernel() ? 1 : 0;
  config.stream = stream();
  return describe_error(cudaLaunchKernelEx(&config, kernel, arguments...), op);
}
template <class... Parameters, class... Arguments>
Error launch_early(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, const char* op, const Arguments&... arguments) {
  return launch_early_with_memory(kernel, blocks, threads, 0, op, arguments...);
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned_to(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

// 2^x, 2 ulp; 1/x, 1 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// In a kernel that launch_early() starts: waits for what the kernels before it write, and lets the one after it start; that one waits
// likewise. Before the first of the two, only memory that the kernel just before does not write may be touched.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Asks for the 128 bytes around an address, of whatever state they are in: nothing is read.
__device__ __forceinline__ void prefetch_to_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2_fast(-kLog2E * x)); }

__device__ __forceinline__ float warp_sum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

constexpr int kSumLanes = 32;  // rows summed side by side

// out[col] = sum over rows of in[row * cols + col], always in the same order. One block for 32 columns.
static __global__ void __launch_bounds__(32 * kSumLanes) column_sums_kernel(const float* in, float* out, int64_t rows, int64_t cols) {
  __shared__ float parts[kSumLanes][33];
  const int64_t col = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  let_next_start();
  wait_for_previous();
  float sum = 0.0f;
  if (col < cols) {
#pragma unroll 4
    for (int64_t row = threadIdx.y; row < rows; row += kSumLanes) sum += in[row * cols + col];
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  const float total = warp_sum(parts[threadIdx.x][threadIdx.y]);
  const int64_t out_col = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.y;
  if (threadIdx.x == 0 && out_col < cols) out[out_col] = total;
}

inline Error column_sums(const float* in, float* out, int64_t rows, int64_t cols, const char* op) {
  return launch_early(column_sums_kernel, static_cast<unsigned>(ceil_div(cols, 32)), dim3(32, kSumLanes), op, in, out, rows, cols);
}

}  // namespace cuda
}  // namespace mambatune
