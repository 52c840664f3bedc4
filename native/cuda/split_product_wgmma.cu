// SPDX-License-Identifier: Apache-2.0
// The split product on wgmma, which compute capability 9.0 alone has: 128 x 192 a block, of which each of two groups of four warps has
// 64 rows. Its left factor comes from registers; of its columns one half is multiplied while the other half's sums of sixteen are added up.
//
// Of a group and 16 of the inner length: six wgmma of m64n96k16, 48 cycles each at the rate of 2048 multiplications a cycle and
// multiprocessor, so that both groups keep the tensor cores busy for 576 cycles. A scheduler issues 192 additions in that time, and
// shared memory moves 2 x (4 KB of a and 18 KB of b) and takes in 20 KB, in 512 cycles. Measured on an H100 a step of 32 takes some 2,000
// cycles instead of 1,152, and a tile's beginning and end 7 us.
#include "split_product_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kGroups = 2, kGroupThreads = 128, kWgmmaThreads = kGroups * kGroupThreads;
constexpr int kLeftPanels = kWgmmaRows / kPanelRows, kRightPanels = kWgmmaCols / kPanelRows;
constexpr int kHalfCols = kWgmmaCols / 2, kHalfTiles = kHalfCols / 8;
constexpr int kStages = 5;
constexpr int kLag = 2;  // steps that a stage waits to be filled again, by which one group may be ahead of the other
constexpr int kStageBytes = (kLeftPanels + kRightPanels) * kPanelBytes;
constexpr int kBytes = kStages * kStageBytes + 2 * kStages * static_cast<int>(sizeof(uint64_t));
static_assert(kWgmmaRows == kGroups * kPanelRows, "a panel a group");

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

using HalfSums = float[kHalfTiles][4];

__device__ __forceinline__ uint32_t shared_address(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }

__device__ __forceinline__ void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_panel(char* to, const char* from, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from),
               "r"(kPanelBytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void wait_barrier(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Rows of 128 bytes with the chunks of eight of them exchanged, 1024 bytes from eight rows to the next; `at` in chunks of 16 bytes.
__device__ __forceinline__ uint64_t right_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

__device__ __forceinline__ void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int InFlight>
__device__ __forceinline__ void wait_wgmma(HalfSums& d) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(InFlight) : "memory");
#pragma unroll
  for (int j = 0; j < kHalfTiles; ++j) asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
}

// d = a b, or d += a b
__device__ __forceinline__ void wgmma(HalfSums& d, const uint32_t (&a)[4], uint64_t b, bool add) {
#define MAMBATUNE_SUMS(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "
      "%45, %46, %47}, {%48, %49, %50, %51}, %52, add, 1, 1, 0;\n"
      "}\n"
      : MAMBATUNE_SUMS(0), MAMBATUNE_SUMS(1), MAMBATUNE_SUMS(2), MAMBATUNE_SUMS(3), MAMBATUNE_SUMS(4), MAMBATUNE_SUMS(5), MAMBATUNE_SUMS(6),
        MAMBATUNE_SUMS(7), MAMBATUNE_SUMS(8), MAMBATUNE_SUMS(9), MAMBATUNE_SUMS(10), MAMBATUNE_SUMS(11)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
#undef MAMBATUNE_SUMS
}

// The three products of sixteen, the small ones first.
__device__ __forceinline__ void multiply_half(HalfSums& d, const uint32_t (&high)[4], const uint32_t (&low)[4], uint64_t b) {
  constexpr int kLow = 2;  // chunks from the high parts to the low ones
  begin_wgmma();
  wgmma(d, low, b, false);
  wgmma(d, high, b + kLow, true);
  wgmma(d, high, b, true);
  commit_wgmma();
}

__device__ __forceinline__ void add_half(float (&sums)[1][2 * kHalfTiles][4], int half, const HalfSums& d) {
#pragma unroll
  for (int j = 0; j < kHalfTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[0][half * kHalfTiles + j][e] += d[j][e];
  }
}

#endif

__global__ void __launch_bounds__(kWgmmaThreads, 1) split_product_wgmma_kernel(const __grid_constant__ SplitProduct p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char memory[];
  uint64_t* full = reinterpret_cast<uint64_t*>(memory + kStages * kStageBytes);
  uint64_t* read = full + kStages;
  const SplitTile tile = split_tile<kWgmmaRows, kWgmmaCols>(p, static_cast<int>(blockIdx.x));
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / 32 % 4;
  const auto stage = [&](int step) {
    if (step >= tile.steps) return;
    char* to = memory + step % kStages * kStageBytes;
    uint64_t* barrier = full + step % kStages;
    expect_bytes(barrier, kStageBytes);
#pragma unroll
    for (int i = 0; i < kLeftPanels; ++i, to += kPanelBytes) {
      copy_panel(to, split_panel(p.a, tile.first_row, i, tile.first_step + step), barrier);
    }
#pragma unroll
    for (int i = 0; i < kRightPanels; ++i, to += kPanelBytes) {
      copy_panel(to, split_panel(p.b, tile.first_col, i, tile.first_step + step), barrier);
    }
  };
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) init_barrier(full + i, 1), init_barrier(read + i, kWgmmaThreads);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  let_next_start();
  wait_for_previous();
  if (threadIdx.x == 0) {
    for (int step = 0; step < kStages; ++step) stage(step);
  }
  __syncthreads();

  HalfSums near, far;
  const int left = warp * 16 * kPanelRowBytes + left_offset();
  const uint32_t right = shared_address(memory) + kLeftPanels * kPanelBytes;
  for (int round = 0; round < tile.steps; round += p.steps_of_round) {
    float sums[1][2 * kHalfTiles][4] = {};
    for (int step = round; step < min(round + p.steps_of_round, tile.steps); ++step) {
      constexpr int kSixteen = 4, kHalf = kHalfCols * kPanelRowBytes / 16;  // in chunks
      const int slot = step % kStages;
      if (threadIdx.x == 0 && step >= kLag && step - kLag + kStages < tile.steps) {
        wait_barrier(read + (step - kLag) % kStages, (step - kLag) / kStages % 2);
        stage(step - kLag + kStages);
      }
      __syncwarp();
      wait_barrier(full + slot, step / kStages % 2);
      const char* a = memory + slot * kStageBytes + group * kPanelBytes;
      const uint64_t b = right_descriptor(right + slot * kStageBytes);
      uint32_t high[2][4], low[2][4];
#pragma unroll
      for (int sixteen = 0; sixteen < 2; ++sixteen) {
        load_four_8x8(high[sixteen], chunk_at(a, left, sixteen, 0));
        load_four_8x8(low[sixteen], chunk_at(a, left, sixteen, 1));
      }
      // Nothing is left in flight at the end of a step: nvcc 13.0 serializes what is.
      multiply_half(near, high[0], low[0], b);
      multiply_half(far, high[0], low[0], b + kHalf);
      wait_wgmma<1>(near);
      add_half(sums, 0, near);
      multiply_half(near, high[1], low[1], b + kSixteen);
      wait_wgmma<1>(far);
      add_half(sums, 1, far);
      multiply_half(far, high[1], low[1], b + kSixteen + kHalf);
      wait_wgmma<1>(near);
      add_half(sums, 0, near);
      wait_wgmma<0>(far);
      arrive(read + slot);
      add_half(sums, 1, far);
    }
    store_sums(p, tile, tile.first_row + group * kPanelRows + warp * 16, tile.first_col, sums, round == 0 ? p.beta : 1.0f);
  }
#endif
}

}  // namespace

bool has_wgmma() {
  static const bool has = [] {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    return major == 9 && minor == 0;
  }();
  return has;
}

Error split_product_wgmma(const SplitProduct& p, int tiles, const char* op) {
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(split_product_wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), op));
  return launch_early_with_memory(split_product_wgmma_kernel, static_cast<unsigned>(tiles), kWgmmaThreads, kBytes, op, p);
}

}  // namespace cuda
}  // namespace mambatune
