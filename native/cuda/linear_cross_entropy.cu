// SPDX-License-Identifier: Apache-2.0
// Head and loss by blocks of rows: a block's logits (at most kBlockBytes) come from cuBLAS, one block of threads a row turns
// them into probabilities minus the label's one in place, and cuBLAS multiplies those with W for dhidden; in IEEE float32 both products
// are split ones (split_product.cuh) where they are large, with W's parts made once for all blocks. Which rows have no
// label is known on the device alone: their logits are computed, but not read again; their rows of probabilities are zero.
//
// A row of logits is read twice, the second time from the L2 cache. Bytes of a logit: written 4, read 4, written 4 (2 in
// bfloat16), read 4 (2); at 8192 x 50280 in float32 6.6 GB, 1.6 ms at 4.1 TB/s, beside 1.3 TFLOP of products.
#include <algorithm>

#include "cublas.h"
#include "launch.cuh"
#include "split_product.cuh"
#include "weight_cache.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr const char* kOp = "linear_cross_entropy";
constexpr int64_t kBlockBytes = int64_t{256} << 20;
constexpr int64_t kRowUnit = 128;  // rows of a block come in multiples of it: a tile of the products
constexpr int kRowThreads = 1024;
static_assert(kRowThreads == 32 * 32, "merge_block() merges one value a warp within a warp");
// Shared memory that a block asks for and does not use, so that it has its multiprocessor for itself: all rows that are worked on
// then stay in the L2 cache until they are read again.
constexpr int kKeepAlone = 120 << 10;

// Sum of exp2(x - maximum) beside the maximum of x.
struct Running {
  float maximum, sum;
};

__device__ __forceinline__ Running merge(Running a, Running b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  if (maximum == -INFINITY) return {maximum, 0.0f};
  return {maximum, a.sum * exp2f(a.maximum - maximum) + b.sum * exp2f(b.maximum - maximum)};
}

__device__ __forceinline__ Running merge_warp(Running value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const Running other = {__shfl_xor_sync(0xffffffffu, value.maximum, mask), __shfl_xor_sync(0xffffffffu, value.sum, mask)};
    // Both lanes of a pair merge in the same order, so that all of them end with the same bits.
    value = threadIdx.x & mask ? merge(other, value) : merge(value, other);
  }
  return value;
}

__device__ __forceinline__ Running merge_block(Running value) {
  __shared__ Running parts[32];
  value = merge_warp(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  return merge_warp(parts[threadIdx.x % 32]);
}

// Of exp(logit), from that of exp2(logit * log2(e)).
__device__ __forceinline__ double log_sum_of(Running value) {
  return static_cast<double>(value.maximum) * 0.6931471805599453 + log(static_cast<double>(value.sum));
}

__device__ __forceinline__ void store(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float4 x) {
  const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pair);
}
__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// The sum over the block.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double parts[kRowThreads / 32];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = parts[0];
  for (int i = 1; i < kRowThreads / 32; ++i) sum += parts[i];
  return sum;
}

// One block a row, in a kernel of its own where there is neither label smoothing nor z loss. losses[row]: the row's loss; 0 without a label. Probability writes over the logits of its own row:
// in bfloat16 at a place that earlier steps of the loop have read.
template <class Probability, int Width, bool Plain>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_kernel(float* logits, int64_t vocab_size, const int32_t* labels, double* losses, bool gradient,
                         double label_smoothing, double z_loss) {
  float* row = logits + blockIdx.x * vocab_size;
  Probability* probabilities = reinterpret_cast<Probability*>(row);
  const int32_t label = labels[blockIdx.x];
  constexpr int64_t kStep = static_cast<int64_t>(kRowThreads) * Width;
  if (label < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0;
    if (!gradient) return;
    for (int64_t i = threadIdx.x; i < vocab_size; i += kRowThreads) store(probabilities + i, 0.0f);
    return;
  }
  Running own = {-INFINITY, 0.0f};
  float own_sum = 0.0f;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * Width; i < vocab_size; i += kStep) {
    float x[Width];
    if constexpr (Width == 4) {
      *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(row + i);
    } else {
      x[0] = row[i];
    }
    if constexpr (!Plain) {
#pragma unroll
      for (int j = 0; j < Width; ++j) own_sum += x[j];
    }
    float top = x[0];
#pragma unroll
    for (int j = 1; j < Width; ++j) top = fmaxf(top, x[j]);
    top *= kLog2E;
    if (top > own.maximum) {
      own.sum *= exp2_fast(own.maximum - top);
      own.maximum = top;
    }
#pragma unroll
    for (int j = 0; j < Width; ++j) own.sum += exp2_fast(fmaf(x[j], kLog2E, -own.maximum));
  }
  const Running total = merge_block(own);
  float factor = 1.0f, rest = 1.0f, share = 0.0f;
  if constexpr (Plain) {
    if (threadIdx.x == 0) losses[blockIdx.x] = log_sum_of(total) - static_cast<double>(row[label]);
  } else {
    const double mean = block_sum(own_sum) / static_cast<double>(vocab_size), log_sum = log_sum_of(total);
    if (threadIdx.x == 0) {
      const double target = (1.0 - label_smoothing) * static_cast<double>(row[label]) + label_smoothing * mean;
      losses[blockIdx.x] = log_sum - target + z_loss * log_sum * log_sum;
    }
    factor = static_cast<float>(1.0 + 2.0 * z_loss * log_sum);
    rest = static_cast<float>(1.0 - label_smoothing);
    share = static_cast<float>(label_smoothing / static_cast<double>(vocab_size));
  }
  if (!gradient) return;
  __syncthreads();  // the label's logit has been read
  const float shift = total.maximum, scale = factor / total.sum;
  for (int64_t base = 0; base < vocab_size; base += kStep) {
    const int64_t i = base + static_cast<int64_t>(threadIdx.x) * Width;
    float x[Width];
    if (i < vocab_size) {
      if constexpr (Width == 4) {
        *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(row + i);
      } else {
        x[0] = row[i];
      }
#pragma unroll
      for (int j = 0; j < Width; ++j) x[j] = exp2_fast(fmaf(x[j], kLog2E, -shift)) * scale - (i + j == label ? rest : 0.0f) - share;
    }
    if constexpr (sizeof(Probability) < sizeof(float)) __syncthreads();
    if (i >= vocab_size) continue;
    if constexpr (Width == 4) {
      store(probabilities + i, make_float4(x[0], x[1], x[2], x[3]));
    } else {
      store(probabilities + i, x[0]);
    }
  }
}

__global__ void __launch_bounds__(kRowThreads)
    sum_losses_kernel(const double* losses, const int32_t* labels, int64_t rows, float* loss_sum, float* count) {
  __shared__ double sums[kRowThreads];
  __shared__ int counts[kRowThreads];
  double sum = 0.0;
  int labelled = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kRowThreads) {
    sum += losses[i];
    labelled += labels[i] >= 0;
  }
  sums[threadIdx.x] = sum;
  counts[threadIdx.x] = labelled;
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) {
      sums[threadIdx.x] += sums[threadIdx.x + half];
      counts[threadIdx.x] += counts[threadIdx.x + half];
    }
  }
  if (threadIdx.x > 0) return;
  *loss_sum = static_cast<float>(sums[0]);
  *count = static_cast<float>(counts[0]);
}

// What all blocks of rows share.
struct Operands {
  bool half;
  const void* hidden;
  const void* W;
  size_t element() const { return half ? sizeof(__nv_bfloat16) : sizeof(float); }
  // W's parts as the products of the logits and of dhidden want them, or null
  const SplitFactor *head = nullptr, *transposed = nullptr;
};

Error probabilities(const LinearCrossEntropyParams& p, bool half, int64_t row, int64_t rows, float* logits, double* losses) {
  const bool gradient = p.dhidden || p.dW;
  const bool vector = p.W.rows % 4 == 0;
  const auto launch = [&](auto* type, auto width) {
    using Probability = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = decltype(width)::value;
    const bool plain = p.label_smoothing == 0.0 && p.z_loss == 0.0;
    const auto kernel = plain ? cross_entropy_kernel<Probability, kWidth, true> : cross_entropy_kernel<Probability, kWidth, false>;
    MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kKeepAlone), kOp));
    kernel<<<static_cast<unsigned>(rows), kRowThreads, kKeepAlone, stream()>>>(logits, p.W.rows, p.labels + row, losses + row, gradient,
                                                                              p.label_smoothing, p.z_loss);
    return describe_error(cudaGetLastError(), kOp);
  };
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  if (half) return vector ? launch(static_cast<__nv_bfloat16*>(nullptr), Four()) : launch(static_cast<__nv_bfloat16*>(nullptr), One());
  return vector ? launch(static_cast<float*>(nullptr), Four()) : launch(static_cast<float*>(nullptr), One());
}

// A product with W, given W's parts where it is to be a split one.
Error multiply(Gemm g, bool half, const SplitFactor* W) {
  g.bfloat16 = half;
  if (!W) return gemm(g, kOp);
  SplitCopy left;
  MAMBATUNE_TRY(split_left(g, &left, kOp));
  return multiply_split(left.factor(), *W, g, kOp);
}

Gemm logits_product(const LinearCrossEntropyParams& p, const Operands& operands, int64_t row, int64_t rows, float* logits) {
  const void* hidden = static_cast<const char*>(operands.hidden) + static_cast<size_t>(row * p.d_model) * operands.element();
  return {rows, p.W.rows, p.d_model, {hidden, p.d_model, false}, {operands.W, p.d_model, true}, logits, p.W.rows};
}

Gemm gradient_product(const LinearCrossEntropyParams& p, const Operands& operands, int64_t row, int64_t rows, float* logits) {
  const int64_t stride = operands.half ? 2 * p.W.rows : p.W.rows;
  float* dhidden = p.dhidden ? p.dhidden + row * p.d_model : nullptr;
  return {rows, p.d_model, p.W.rows, {logits, stride, false}, {operands.W, p.d_model, false}, dhidden, p.d_model};
}

Error run_block(const LinearCrossEntropyParams& p, const Operands& operands, int64_t row, int64_t rows, float* logits, double* losses) {
  const Gemm head = logits_product(p, operands, row, rows, logits);
  MAMBATUNE_TRY(multiply(head, operands.half, operands.head));
  MAMBATUNE_TRY(probabilities(p, operands.half, row, rows, logits, losses));
  const Gemm gradient = gradient_product(p, operands, row, rows, logits);
  if (p.dhidden) MAMBATUNE_TRY(multiply(gradient, operands.half, operands.transposed));
  if (p.dW) {
    Gemm g{p.W.rows, p.d_model, rows, {logits, gradient.a.row_stride, true}, head.a, p.dW, p.d_model, 1.0f, row > 0 ? 1.0f : 0.0f};
    g.bfloat16 = operands.half;
    MAMBATUNE_TRY(gemm(g, kOp));
  }
  return nullptr;
}

Error zero_outputs(const LinearCrossEntropyParams& p) {
  const auto zero = [](float* memory, int64_t floats) {
    return memory ? describe_error(cudaMemsetAsync(memory, 0, static_cast<size_t>(floats) * sizeof(float), stream()), kOp) : nullptr;
  };
  MAMBATUNE_TRY(zero(p.loss_sum, 1));
  MAMBATUNE_TRY(zero(p.count, 1));
  MAMBATUNE_TRY(zero(p.dhidden, p.rows * p.d_model));
  return zero(p.dW, p.W.rows * p.d_model);
}

}  // namespace

Error linear_cross_entropy(const LinearCrossEntropyParams& p) {
  if (p.rows == 0 || p.d_model == 0 || p.W.rows == 0) return zero_outputs(p);
  const bool half = matmul_precision() == MatmulPrecision::kMedium;
  Scratch W_copy, hidden_copy, logits, losses;
  Operands operands{half, p.hidden, p.W.data};
  if (half) {
    const __nv_bfloat16* W = nullptr;
    MAMBATUNE_TRY(bfloat16_weight(p.W, &W_copy, &W));
    MAMBATUNE_TRY(hidden_copy.reserve(ceil_div(p.rows * p.d_model, 2)));
    __nv_bfloat16* hidden = reinterpret_cast<__nv_bfloat16*>(hidden_copy.get());
    MAMBATUNE_TRY(to_bfloat16(p.hidden, p.d_model, p.rows, p.d_model, hidden, p.d_model));
    operands.W = W;
    operands.hidden = hidden;
  }
  // The parts of a block's probabilities take as much again in float32's products.
  const int64_t block_bytes = matmul_precision() == MatmulPrecision::kHighest ? kBlockBytes / 2 : kBlockBytes;
  const int64_t most_rows = std::max(kRowUnit, block_bytes / (p.W.rows * static_cast<int64_t>(sizeof(float))) / kRowUnit * kRowUnit);
  const int64_t blocks = ceil_div(p.rows, most_rows);
  const int64_t block_rows = std::min(p.rows, ceil_div(ceil_div(p.rows, blocks), kRowUnit) * kRowUnit);
  MAMBATUNE_TRY(logits.reserve(block_rows * p.W.rows));
  MAMBATUNE_TRY(losses.reserve(2 * p.rows));
  double* row_losses = reinterpret_cast<double*>(losses.get());
  SplitCopy head, transposed;
  if (matmul_precision() == MatmulPrecision::kHighest) {
    const Gemm product = logits_product(p, operands, 0, block_rows, logits.get());
    if (split_product_fits(product)) {
      MAMBATUNE_TRY(split_right(product, &head, kOp));
      operands.head = &head.factor();
    }
    const Gemm gradient = gradient_product(p, operands, 0, block_rows, logits.get());
    if (p.dhidden && split_product_fits(gradient)) {
      MAMBATUNE_TRY(split_right(gradient, &transposed, kOp));
      operands.transposed = &transposed.factor();
    }
  }
  for (int64_t row = 0; row < p.rows; row += block_rows) {
    MAMBATUNE_TRY(run_block(p, operands, row, std::min(block_rows, p.rows - row), logits.get(), row_losses));
  }
  sum_losses_kernel<<<1, kRowThreads, 0, stream()>>>(row_losses, p.labels, p.rows, p.loss_sum, p.count);
  return describe_error(cudaGetLastError(), kOp);
}

}  // namespace cuda
}  // namespace mambatune
