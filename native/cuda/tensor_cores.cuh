// SPDX-License-Identifier: Apache-2.0
// Products of a warp on the tensor cores (PTX ISA, mma.sync): d += a b with float32 sums, each thread holding its share of the
// fragments. With group = lane / 4 and place = lane % 4:
//
//   d, 16x8         d[0], d[1]: row group, columns 2 place and 2 place + 1; d[2], d[3]: the same of row group + 8
//   a, 16x8 TF32    a[0]: (group, place), a[1]: (group + 8, place), a[2]: (group, place + 4), a[3]: (group + 8, place + 4)
//   b, 8x8 TF32     b[0]: (place, group), b[1]: (place + 4, group)
//   a, 16x4 TF32    a[0]: (group, place), a[1]: (group + 8, place)
//   b, 4x8 TF32     (place, group)
//   a, 16x16 bf16   pairs: a[0]: (group, 2 place), a[1]: (group + 8, 2 place), a[2]: (group, 2 place + 8), a[3]: (group + 8, 2 place + 8)
//   b, 16x8 bf16    pairs: b[0]: (2 place, group), b[1]: (2 place + 8, group)
//   float16         as bf16
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace mambatune {
namespace cuda {

// Rounded to the nearest TF32, ten bits of mantissa.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// a below b in memory order, rounded to the nearest
__device__ __forceinline__ uint32_t bfloat16_pair(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// a, 16x8 of floats in shared memory: lane l gives the address of four of them, in row l % 16 from column l / 16 * 4 on, at a multiple of
// 16 bytes.
__device__ __forceinline__ void load_16x8(uint32_t (&a)[4], const float* quad) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(quad)))
               : "memory");
}

__device__ __forceinline__ uint32_t float16_pair(float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float2 float16_pair_values(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }

// Four matrices of 8x8 elements of 16 bits in shared memory: lane l gives the address of row l % 8 of matrix l / 8, at a multiple of
// 16 bytes, and gets the pair (group, 2 place) of each.
__device__ __forceinline__ void load_four_8x8(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ __forceinline__ void mma_16x8x8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d = a b
__device__ __forceinline__ void mma_16x8x8_from_zero(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0f));
}

__device__ __forceinline__ void mma_16x8x4(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

__device__ __forceinline__ void mma_16x8x16_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// b0 and b1 are b[0] and b[1].
__device__ __forceinline__ void mma_16x8x16_float16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = a b
__device__ __forceinline__ void mma_16x8x16_float16_from_zero(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

}  // namespace cuda
}  // namespace mambatune
