// SPDX-License-Identifier: Apache-2.0
// One float vector type per instruction set, with the loads, reductions and elementary functions the kernels share.
// Everything lives in the instruction set's own namespace, so copies compiled for different processors never merge.
// Compiled with MAMBATUNE_ISA = avx512, avx2 or portable (128-bit vectors: SSE2, NEON or whatever the compiler makes of it).
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define MAMBATUNE_INLINE inline __attribute__((always_inline))

// Before a short constant loop whose arrays are to live in registers.
#if defined(__clang__)
#define MAMBATUNE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MAMBATUNE_UNROLL _Pragma("GCC unroll 32")
#endif

namespace mambatune {
namespace MAMBATUNE_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef float UnalignedVec __attribute__((vector_size(kWidth * 4), aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4)));
typedef float HalfVec __attribute__((vector_size(kWidth * 2)));
typedef double DoubleVec __attribute__((vector_size(kWidth * 4)));

MAMBATUNE_INLINE Vec broadcast(float value) { return value - Vec{}; }
MAMBATUNE_INLINE IntVec as_int(Vec x) { return (IntVec)x; }
MAMBATUNE_INLINE Vec as_float(IntVec x) { return (Vec)x; }

// Plain accesses rather than memcpy, which would make the compiler take every store for one to any object.
MAMBATUNE_INLINE Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
MAMBATUNE_INLINE void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }

// Bfloat16 values.
typedef uint16_t UnalignedHalfWords __attribute__((vector_size(kWidth * 2), aligned(2)));
MAMBATUNE_INLINE Vec load(const uint16_t* from) {
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const UnalignedHalfWords*>(from), UintVec) << 16);
}

// The first `count` lanes, zero beyond; memory beyond them is not touched. 0 <= count <= kWidth.
MAMBATUNE_INLINE Vec load_partial(const float* from, int count) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1u), from);
#else
  Vec value = {};
  for (int i = 0; i < count; ++i) value[i] = from[i];
  return value;
#endif
}

MAMBATUNE_INLINE Vec load_partial(const uint16_t* from, int count) {
  UintVec value = {};
  for (int i = 0; i < count; ++i) value[i] = static_cast<uint32_t>(from[i]) << 16;
  return (Vec)value;
}

MAMBATUNE_INLINE void store_partial(float* to, Vec value, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1u), (__m512)value);
#else
  for (int i = 0; i < count; ++i) to[i] = value[i];
#endif
}

MAMBATUNE_INLINE Vec load_lanes(const float* from, int count) {
  return count == kWidth ? load(from) : load_partial(from, count);
}

MAMBATUNE_INLINE void store_lanes(float* to, Vec value, int count) {
  count == kWidth ? store(to, value) : store_partial(to, value, count);
}

// Lanes at from[0], from[stride], from[2 * stride] ...; zero from `count` on.
MAMBATUNE_INLINE Vec load_strided(const float* from, int64_t stride, int count) {
#if defined(__AVX512F__)
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i offsets = _mm512_mullo_epi32(steps, _mm512_set1_epi32((int)stride));
  return (Vec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), (__mmask16)((1u << count) - 1u), offsets, from, 4);
#else
  Vec value = {};
  for (int i = 0; i < count; ++i) value[i] = from[i * stride];
  return value;
#endif
}

// Where a lane of x is NaN the result is NaN: max(low, x) and min(high, x) return their second operand then.
MAMBATUNE_INLINE Vec clamp_below(float low, Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)broadcast(low), (__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)broadcast(low), (__m256)x);
#elif defined(__SSE2__)
  return (Vec)_mm_max_ps((__m128)broadcast(low), (__m128)x);
#else
  return low > x ? broadcast(low) : x;
#endif
}

MAMBATUNE_INLINE Vec clamp_above(float high, Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)broadcast(high), (__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)broadcast(high), (__m256)x);
#elif defined(__SSE2__)
  return (Vec)_mm_min_ps((__m128)broadcast(high), (__m128)x);
#else
  return high < x ? broadcast(high) : x;
#endif
}

// To the nearest integer; on targets without a rounding instruction only for |x| < 2^22.
MAMBATUNE_INLINE Vec round_nearest(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (Vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
  return (Vec)vrndnq_f32((float32x4_t)x);
#else
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (x + magic) - magic;
#endif
}

MAMBATUNE_INLINE Vec sqrt(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (Vec)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < kWidth; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

MAMBATUNE_INLINE IntVec to_int(Vec x) { return __builtin_convertvector(x, IntVec); }

// significand * 2^exponent for an integer exponent; overflows to infinity and underflows through the subnormals to zero.
MAMBATUNE_INLINE Vec scale_by_power_of_two(Vec significand, Vec exponent) {
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)significand, (__m512)exponent);
#else
  const IntVec whole = to_int(exponent);
  const IntVec half = whole >> 1;
  return significand * as_float((half + 127) << 23) * as_float((whole - half + 127) << 23);
#endif
}

// e^x to 1 unit in the last place over the whole range; overflow gives infinity, NaN gives NaN.
MAMBATUNE_INLINE Vec exp(Vec x) {
  x = clamp_above(89.0f, clamp_below(-104.0f, x));
  const Vec n = round_nearest(x * 1.44269504f);
  const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // Cody and Waite's split of ln 2
  Vec p = broadcast(0.001381459879f);
  p = p * r + 0.008368716575f;
  p = p * r + 0.041668388993f;
  p = p * r + 0.166665211320f;
  p = p * r + 0.499999940395f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return scale_by_power_of_two(p, n);
}

// 2^x to 2 units in the last place for the scan's decay, from float's smallest normal number up; below, zero (subnormals
// where the instruction set scales into them), and infinity beyond its largest.
MAMBATUNE_INLINE Vec exp2(Vec x) {
#if defined(__AVX512F__)
  // x = n + r, n a multiple of 1/32: 2^r is a quadratic, 2^(n mod 1) comes from a table in registers. Adding `magic` rounds,
  // and leaves n mod 1 in the low bits. The additions and the table run beside the multipliers, which bound the scan.
  const __m512 low = _mm512_setr_ps(
      1.0f, 1.0218971487f, 1.0442737824f, 1.0671404007f, 1.0905077327f, 1.1143867426f, 1.1387886348f, 1.1637248588f,
      1.1892071150f, 1.2152473600f, 1.2418578121f, 1.2690509572f, 1.2968395547f, 1.3252366432f, 1.3542555469f, 1.3839098820f);
  const __m512 high = _mm512_setr_ps(
      1.4142135624f, 1.4451808070f, 1.4768261459f, 1.5091644276f, 1.5422108254f, 1.5759808451f, 1.6104903319f, 1.6457554782f,
      1.6817928305f, 1.7186192981f, 1.7562521604f, 1.7947090750f, 1.8340080864f, 1.8741676341f, 1.9152065614f, 1.9571441242f);
  const float magic = 393216.0f;  // 1.5 * 2^18
  const Vec shifted = x + magic;
  const Vec n = shifted - magic, r = x - n;
  Vec p = 0.240226537f * r + 0.693157315f;
  p = p * r + 1.0f;
  const Vec root = (Vec)_mm512_permutex2var_ps(low, (__m512i)shifted, high);
  return (Vec)_mm512_scalef_ps((__m512)(p * root), (__m512)n);
#else
  x = clamp_above(128.0f, clamp_below(-127.0f, x));
  const Vec n = round_nearest(x);
  const Vec r = x - n;
  Vec p = broadcast(0.001326472731f);
  p = p * r + 0.009671512991f;
  p = p * r + 0.055507335812f;
  p = p * r + 0.240222424269f;
  p = p * r + 0.693147003651f;
  p = p * r + 1.0f;
  return p * as_float((to_int(n) + 127) << 23);
#endif
}

// log(1 + w) for 0 <= w <= 1, accurate relative to w.
MAMBATUNE_INLINE Vec log1p_unit(Vec w) {
  Vec p = broadcast(-0.003318473231f);
  p = p * w + 0.020204588771f;
  p = p * w - 0.057664450258f;
  p = p * w + 0.106805562973f;
  p = p * w - 0.153553962708f;
  p = p * w + 0.196954011917f;
  p = p * w - 0.249585881829f;
  p = p * w + 0.333305120468f;
  p = p * w - 0.499999314547f;
  return w + w * w * p;
}

MAMBATUNE_INLINE Vec abs(Vec x) { return as_float(as_int(x) & 0x7fffffff); }

constexpr float kSoftplusThreshold = 20.0f;

// log(1 + e^x); x itself above the threshold, as in PyTorch.
MAMBATUNE_INLINE Vec softplus(Vec x) {
  const Vec tail = log1p_unit(exp(-abs(x)));
  return x > kSoftplusThreshold ? x : clamp_below(0.0f, x) + tail;
}

MAMBATUNE_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// Natural logarithm to 1.5 units in the last place; -infinity at zero, NaN below.
MAMBATUNE_INLINE Vec log(Vec x) {
  const Vec normal = x < 1.17549435e-38f ? x * 33554432.0f : x;
  const UintVec bits = (UintVec)normal;
  const IntVec exponent = (IntVec)(bits - 0x3f3504f3u) >> 23;  // of the power of two that leaves [sqrt(1/2), sqrt(2))
  const Vec f = (Vec)(bits - ((UintVec)exponent << 23)) - 1.0f;
  const Vec n = __builtin_convertvector(exponent, Vec) - (x < 1.17549435e-38f ? broadcast(25.0f) : Vec{});
  Vec p = broadcast(-0.076345577836f);
  p = p * f + 0.127616778016f;
  p = p * f - 0.131602078676f;
  p = p * f + 0.142017468810f;
  p = p * f - 0.166233539581f;
  p = p * f + 0.200012266636f;
  p = p * f - 0.250008225441f;
  p = p * f + 0.333333313465f;
  const Vec rest = n * -2.12194440e-4f + (f * f * f * p - 0.5f * f * f);
  const Vec value = n * 0.693359375f + (f + rest);
  const float infinity = __builtin_inff();
  return x > 0.0f ? (x < infinity ? value : x) : (x == 0.0f ? broadcast(-infinity) : broadcast(__builtin_nanf("")));
}

MAMBATUNE_INLINE Vec tanh(Vec x) {
  const Vec size = abs(x), square = x * x;
  Vec p = broadcast(-0.005704935174f);
  p = p * square + 0.020639043301f;
  p = p * square - 0.053739700466f;
  p = p * square + 0.133314415812f;
  p = p * square - 0.333332806826f;
  const Vec large = 1.0f - 2.0f / (1.0f + exp(2.0f * size));
  return size < 0.625f ? x + x * square * p : (x < 0.0f ? -large : large);
}

MAMBATUNE_INLINE float sum_lanes(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float part[kWidth];
  store(part, x);
  for (int width = kWidth / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  }
  return part[0];
#endif
}

// sums[i] = the sum of the lanes of vectors[i * kWidth ...], for kWidth vectors.
MAMBATUNE_INLINE Vec sum_lanes_of_each(const float* vectors) {
#if defined(__AVX512F__)
  __m512 v[16];
  for (int i = 0; i < 16; ++i) v[i] = (__m512)load(vectors + 16 * i);
  // Each level adds the halves of two vectors and keeps both sums in one: 8 lane blocks, then 4, 2 and 1.
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd));
  }
  for (int i = 0; i < 2; ++i) {
    v[i] = _mm512_add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xee));
  }
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);  // as they interleaved
  return (Vec)_mm512_permutexvar_ps(order, sums);
#else
  Vec sums = {};
  for (int i = 0; i < kWidth; ++i) sums[i] = sum_lanes(load(vectors + kWidth * i));
  return sums;
#endif
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
