// SPDX-License-Identifier: Apache-2.0
// Reductions, running sums and softmax. A reduction is a fold: over a contiguous length a block's threads fold every n-th
// element and merge in the order of their numbers; over a strided one each thread folds a column. Long lengths are cut into
// parts that a second kernel merges in order. Sums run in float64. Nothing depends on timing.
#include <algorithm>

#include "tensor_ops_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int64_t kPartLength = 16384;   // least elements of a part
constexpr int64_t kWantedThreads = 1 << 17;

template <class T>
__device__ T nothing() {
  return T(0);
}
template <>
__device__ float nothing<float>() {
  return nanf("");
}

// Each fold: Acc begin(), Acc step(Acc, T, position), Acc merge(Acc earlier, Acc later), Out end(Acc, length).
template <class T, bool kMean>
struct Sum {
  using In = T;
  using Acc = double;
  using Out = T;
  __device__ static Acc begin() { return 0.0; }
  __device__ static Acc step(Acc acc, T x, int64_t) { return acc + static_cast<double>(x); }
  __device__ static Acc merge(Acc a, Acc b) { return a + b; }
  __device__ static Out end(Acc acc, int64_t length) { return convert<T>(kMean ? acc / static_cast<double>(length) : acc); }
};

template <class T>
struct Product {
  using In = T;
  using Acc = double;
  using Out = T;
  __device__ static Acc begin() { return 1.0; }
  __device__ static Acc step(Acc acc, T x, int64_t) { return acc * static_cast<double>(x); }
  __device__ static Acc merge(Acc a, Acc b) { return a * b; }
  __device__ static Out end(Acc acc, int64_t) { return convert<T>(acc); }
};

template <class T>
struct Best {
  T value;
  int32_t index;  // -1: none yet
};

// NaN stays once met.
template <class T, bool kMax>
struct Extreme {
  using In = T;
  using Acc = Best<T>;
  using Out = T;
  __device__ static Acc begin() { return {T(0), -1}; }
  __device__ static Acc step(Acc acc, T x, int64_t) { return merge(acc, {x, 0}); }
  __device__ static Acc merge(Acc a, Acc b) {
    if (a.index < 0) return b;
    if (b.index < 0) return a;
    return (kMax ? b.value > a.value : b.value < a.value) || b.value != b.value ? b : a;
  }
  __device__ static Out end(Acc acc, int64_t) { return acc.index < 0 ? nothing<T>() : acc.value; }
};

// The first of the extreme elements; NaN counts only as the very first element, which nothing then replaces.
template <class T, bool kMax>
struct ArgExtreme {
  using In = T;
  using Acc = Best<T>;
  using Out = int32_t;
  __device__ static Acc begin() { return {T(0), -1}; }
  __device__ static Acc step(Acc acc, T x, int64_t position) {
    if (x != x && position > 0) return acc;
    return merge(acc, {x, static_cast<int32_t>(position)});
  }
  __device__ static Acc merge(Acc a, Acc b) {
    if (a.index < 0) return b;
    if (b.index < 0 || a.value != a.value) return a;
    if (b.value != b.value) return b;
    if (b.value == a.value) return b.index < a.index ? b : a;
    return (kMax ? b.value > a.value : b.value < a.value) ? b : a;
  }
  __device__ static Out end(Acc acc, int64_t) { return max(acc.index, 0); }
};

template <class T, bool kAll>
struct Truth {
  using In = T;
  using Acc = int;
  using Out = T;
  __device__ static Acc begin() { return kAll; }
  __device__ static Acc step(Acc acc, T x, int64_t) { return kAll ? acc & (x != 0) : acc | (x != 0); }
  __device__ static Acc merge(Acc a, Acc b) { return kAll ? a & b : a | b; }
  __device__ static Out end(Acc acc, int64_t) { return static_cast<T>(acc); }
};

template <class Fold>
struct Work {
  int64_t outer, length, inner, parts, part_length;
  const typename Fold::In* x;
  typename Fold::Out* out;
  typename Fold::Acc* partial;  // [parts, outer * inner] when there are several parts
};

template <class Fold>
__device__ void finish(const Work<Fold>& work, int64_t column, int64_t part, typename Fold::Acc acc) {
  if (work.parts == 1) {
    work.out[column] = Fold::end(acc, work.length);
  } else {
    work.partial[part * work.outer * work.inner + column] = acc;
  }
}

// inner is 1: one block for a row's part.
template <class Fold>
__global__ void __launch_bounds__(kThreads) fold_rows_kernel(Work<Fold> work) {
  __shared__ typename Fold::Acc accs[kThreads];
  for (int64_t unit = blockIdx.x; unit < work.outer * work.parts; unit += gridDim.x) {
    const int64_t row = unit / work.parts, part = unit % work.parts;
    const int64_t begin = part * work.part_length, end = min(begin + work.part_length, work.length);
    const typename Fold::In* x = work.x + row * work.length;
    typename Fold::Acc acc = Fold::begin();
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) acc = Fold::step(acc, x[i], i);
    accs[threadIdx.x] = acc;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < half) accs[threadIdx.x] = Fold::merge(accs[threadIdx.x], accs[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) finish(work, row, part, accs[0]);
    __syncthreads();
  }
}

// One thread for a column's part.
template <class Fold>
__global__ void __launch_bounds__(kThreads) fold_columns_kernel(Work<Fold> work) {
  const int64_t columns = work.outer * work.inner;
  for (int64_t unit = first_index(); unit < columns * work.parts; unit += index_step()) {
    const int64_t column = unit % columns, part = unit / columns;
    const int64_t begin = part * work.part_length, end = min(begin + work.part_length, work.length);
    const typename Fold::In* x = work.x + column / work.inner * work.length * work.inner + column % work.inner;
    typename Fold::Acc acc = Fold::begin();
    for (int64_t i = begin; i < end; ++i) acc = Fold::step(acc, x[i * work.inner], i);
    finish(work, column, part, acc);
  }
}

template <class Fold>
__global__ void __launch_bounds__(kThreads) merge_parts_kernel(Work<Fold> work) {
  const int64_t columns = work.outer * work.inner;
  for (int64_t column = first_index(); column < columns; column += index_step()) {
    typename Fold::Acc acc = Fold::begin();
    for (int64_t part = 0; part < work.parts; ++part) acc = Fold::merge(acc, work.partial[part * columns + column]);
    work.out[column] = Fold::end(acc, work.length);
  }
}

template <class Fold>
Error run(const ReduceParams& p) {
  const bool rows = p.inner == 1;
  const int64_t columns = p.outer * p.inner;
  const int64_t wanted = std::max<int64_t>(1, kWantedThreads / (rows ? columns * kThreads : columns));
  const int64_t least = rows ? kPartLength : kPartLength / kThreads;
  const int64_t part_length = std::max({least, ceil_div(p.length, wanted), int64_t{1}});
  const int64_t parts = std::max<int64_t>(1, ceil_div(p.length, part_length));
  Work<Fold> work{p.outer, p.length, p.inner, parts, part_length, static_cast<const typename Fold::In*>(p.x),
                  static_cast<typename Fold::Out*>(p.out), nullptr};
  Scratch partial;
  if (parts > 1) {
    MAMBATUNE_TRY(partial.reserve(parts * columns * static_cast<int64_t>(ceil_div(sizeof(typename Fold::Acc), sizeof(float)))));
    work.partial = reinterpret_cast<typename Fold::Acc*>(partial.get());
  }
  if (rows) {
    fold_rows_kernel<Fold><<<blocks_for(columns * parts * kThreads), kThreads, 0, stream()>>>(work);
  } else {
    fold_columns_kernel<Fold><<<blocks_for(columns * parts), kThreads, 0, stream()>>>(work);
  }
  MAMBATUNE_CHECK_LAUNCH("reduce");
  if (parts > 1) merge_parts_kernel<Fold><<<blocks_for(columns), kThreads, 0, stream()>>>(work);
  return describe_error(cudaGetLastError(), "reduce");
}

template <class T>
Error reduce_type(const ReduceParams& p) {
  switch (p.op) {
    case ReduceOp::kSum: return run<Sum<T, false>>(p);
    case ReduceOp::kMean: return run<Sum<T, true>>(p);
    case ReduceOp::kMax: return run<Extreme<T, true>>(p);
    case ReduceOp::kMin: return run<Extreme<T, false>>(p);
    case ReduceOp::kProd: return run<Product<T>>(p);
    case ReduceOp::kArgMax: return run<ArgExtreme<T, true>>(p);
    case ReduceOp::kArgMin: return run<ArgExtreme<T, false>>(p);
    case ReduceOp::kAny: return run<Truth<T, false>>(p);
    case ReduceOp::kAll: return run<Truth<T, true>>(p);
  }
  return "reduce: unknown operation";
}

// Running sums of rows (inner is 1), one block a row, kThreads elements at a time. Acc: double, or uint32_t, which wraps.
template <class T, class Acc>
__global__ void __launch_bounds__(kThreads) cumulate_rows_kernel(CumsumParams p) {
  __shared__ Acc warps[kThreads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t row = blockIdx.x; row < p.outer; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.length;
    T* y = static_cast<T*>(p.out) + row * p.length;
    Acc carried = 0;
    for (int64_t base = 0; base < p.length; base += kThreads) {
      const int64_t i = base + threadIdx.x, at = p.reverse ? p.length - 1 - i : i;
      const Acc own = i < p.length ? static_cast<Acc>(x[at]) : Acc(0);
      Acc sum = own;
      for (int distance = 1; distance < 32; distance *= 2) {
        const Acc other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      if (lane == 31) warps[warp] = sum;
      __syncthreads();
      Acc before = carried;
      for (int w = 0; w < kThreads / 32; ++w) {
        if (w < warp) before += warps[w];
        carried += warps[w];
      }
      const Acc inclusive = before + sum;
      Acc exclusive = __shfl_up_sync(0xffffffffu, inclusive, 1);
      if (lane == 0) exclusive = before;
      if (i < p.length) y[at] = static_cast<T>(p.exclusive ? exclusive : inclusive);
      __syncthreads();
    }
  }
}

template <class T, class Acc>
__global__ void __launch_bounds__(kThreads) cumulate_columns_kernel(CumsumParams p) {
  for (int64_t column = first_index(); column < p.outer * p.inner; column += index_step()) {
    const int64_t first = column / p.inner * p.length * p.inner + column % p.inner;
    const T* x = static_cast<const T*>(p.x) + first;
    T* y = static_cast<T*>(p.out) + first;
    Acc sum = 0;
    for (int64_t i = 0; i < p.length; ++i) {
      const int64_t at = (p.reverse ? p.length - 1 - i : i) * p.inner;
      const Acc before = sum;
      sum += static_cast<Acc>(x[at]);
      y[at] = static_cast<T>(p.exclusive ? before : sum);
    }
  }
}

template <class T, class Acc>
Error cumulate(const CumsumParams& p) {
  if (p.inner == 1) {
    cumulate_rows_kernel<T, Acc><<<blocks_for(p.outer * kThreads), kThreads, 0, stream()>>>(p);
  } else {
    cumulate_columns_kernel<T, Acc><<<blocks_for(p.outer * p.inner), kThreads, 0, stream()>>>(p);
  }
  return describe_error(cudaGetLastError(), "cumsum");
}

// The block's fold of value, for all threads.
template <class Merge>
__device__ float block_fold(float value, Merge merge) {
  __shared__ float parts[kThreads / 32];
  for (int mask = 16; mask > 0; mask /= 2) value = merge(value, __shfl_xor_sync(0xffffffffu, value, mask));
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < kThreads / 32; ++i) value = merge(value, parts[i]);
  return value;
}

__global__ void __launch_bounds__(kThreads) softmax_kernel(SoftmaxParams p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* x = p.x + row * p.cols;
    float* y = p.y + row * p.cols;
    float top = -INFINITY;
    for (int64_t i = threadIdx.x; i < p.cols; i += kThreads) top = fmaxf(top, x[i]);
    top = block_fold(top, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < p.cols; i += kThreads) {
      const float value = expf(x[i] - top);
      y[i] = value;
      sum += value;
    }
    const float scale = 1.0f / block_fold(sum, [](float a, float b) { return a + b; });
    for (int64_t i = threadIdx.x; i < p.cols; i += kThreads) y[i] *= scale;
  }
}

}  // namespace

Error reduce(const ReduceParams& p) {
  if (p.outer == 0 || p.inner == 0) return nullptr;
  switch (p.dtype) {
    case DType::kFloat32: return reduce_type<float>(p);
    case DType::kInt32: return reduce_type<int32_t>(p);
    default: return reduce_type<uint8_t>(p);
  }
}

Error cumsum(const CumsumParams& p) {
  if (p.outer == 0 || p.length == 0 || p.inner == 0) return nullptr;
  switch (p.dtype) {
    case DType::kFloat32: return cumulate<float, double>(p);
    case DType::kInt32: return cumulate<int32_t, uint32_t>(p);
    default: return cumulate<uint8_t, uint32_t>(p);
  }
}

Error softmax(const SoftmaxParams& p) {
  if (p.rows == 0 || p.cols == 0) return nullptr;
  softmax_kernel<<<blocks_for(p.rows * kThreads), kThreads, 0, stream()>>>(p);
  return describe_error(cudaGetLastError(), "softmax");
}

}  // namespace cuda
}  // namespace mambatune
