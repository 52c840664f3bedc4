// SPDX-License-Identifier: Apache-2.0
// Float32 products out of TF32 ones: each factor is split into its TF32 part and the rest, x = xh + xl, and x W = xh Wh + xh Wl +
// xl Wh, without the smallest term. Prints, for the shapes of a 130m model at 8x1024, the time of IEEE float32, of TF32 and of the
// split, as three products and as one of three times the length, with the splitting of both factors, and their error against float64.
//
//   cd native/cuda
//   nvcc -std=c++17 -O3 -gencode arch=compute_90,code=sm_90 -o /tmp/tf32_split self_check/tf32_split.cu cublas.cu -ldl
#include <cstdarg>

#include "../allocator.cuh"
#include "../cublas.h"
#include "harness.cuh"

namespace mambatune {
namespace cuda {

Error format_error(const char* format, ...) {
  static char message[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return message;
}

Error allocate_hidden(size_t bytes, bool, void** memory) { return describe_error(cudaMalloc(memory, bytes), "allocate_hidden"); }

}  // namespace cuda

namespace self_check {
namespace {

constexpr int64_t kCheckedRows = 16;

struct Shape {
  const char* name;
  int64_t rows, in, out;
};

__device__ float tf32_part(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

// Row i of x, [rows, cols], becomes [high, high, low] or, for the other factor, [high, low, high], of 3 * cols.
__global__ void split_kernel(const float* x, float* parts, int64_t rows, int64_t cols, bool low_last) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * cols; i += step) {
    const int64_t row = i / cols, col = i % cols;
    const float high = tf32_part(x[i]), low = tf32_part(x[i] - high);
    float* out = parts + row * 3 * cols + col;
    out[0] = high;
    out[cols] = low_last ? high : low;
    out[2 * cols] = low_last ? low : high;
  }
}

Error split(const float* x, float* parts, int64_t rows, int64_t cols, bool low_last) {
  split_kernel<<<2048, 256, 0, cuda::stream()>>>(x, parts, rows, cols, low_last);
  return cuda::describe_error(cudaGetLastError(), "split");
}

struct Case {
  Shape shape;
  TensorPtr x, W, y, x_parts, W_parts;

  explicit Case(const Shape& s) : shape(s) {
    x = uniform(s.rows, s.in, -1.7f, 1.7f);
    const float bound = 1.7f / std::sqrt(static_cast<float>(s.in));
    W = uniform(s.out, s.in, -bound, bound);
    y = output(s.rows, s.out), x_parts = output(s.rows, 3 * s.in), W_parts = output(s.out, 3 * s.in);
  }

  Error plain(MatmulPrecision precision) const {
    MAMBATUNE_TRY(cuda::set_matmul_precision(static_cast<int32_t>(precision)));
    return product(x->device, shape.in, W->device, shape.in, shape.in, 0.0f);
  }

  Error split_factors() const {
    MAMBATUNE_TRY(split(x->device, x_parts->device, shape.rows, shape.in, true));
    return split(W->device, W_parts->device, shape.out, shape.in, false);
  }

  Error three_products() const {
    MAMBATUNE_TRY(cuda::set_matmul_precision(static_cast<int32_t>(MatmulPrecision::kHigh)));
    MAMBATUNE_TRY(split_factors());
    const int64_t K = shape.in;
    // The small terms first: xl Wh, xh Wl, xh Wh.
    MAMBATUNE_TRY(product(x_parts->device + 2 * K, 3 * K, W_parts->device + 2 * K, 3 * K, K, 0.0f));
    MAMBATUNE_TRY(product(x_parts->device + K, 3 * K, W_parts->device + K, 3 * K, K, 1.0f));
    return product(x_parts->device, 3 * K, W_parts->device, 3 * K, K, 1.0f);
  }

  Error one_long_product() const {
    MAMBATUNE_TRY(cuda::set_matmul_precision(static_cast<int32_t>(MatmulPrecision::kHigh)));
    MAMBATUNE_TRY(split_factors());
    const int64_t K = 3 * shape.in;
    return product(x_parts->device, K, W_parts->device, K, K, 0.0f);
  }

  // Root mean square of the error of the first rows, of that of the exact values.
  double error() const {
    y->download();
    double squares = 0.0, all = 0.0;
    for (int64_t i = 0; i < kCheckedRows; ++i) {
      for (int64_t j = 0; j < shape.out; ++j) {
        double exact = 0.0;
        for (int64_t k = 0; k < shape.in; ++k) exact += static_cast<double>(x->host[i * shape.in + k]) * W->host[j * shape.in + k];
        const double difference = y->host[i * shape.out + j] - exact;
        squares += difference * difference, all += exact * exact;
      }
    }
    return std::sqrt(squares / all);
  }

 private:
  Error product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t k, float beta) const {
    cuda::Gemm g = {};
    g.m = shape.rows, g.n = shape.out, g.k = k;
    g.a = {a, a_stride, false}, g.b = {b, b_stride, true};
    g.c = y->device, g.c_row_stride = shape.out, g.alpha = 1.0f, g.beta = beta, g.batch = 1;
    return cuda::gemm(g, "tf32_split");
  }
};

void measure(const Shape& shape) {
  const Case c(shape);
  const std::pair<const char*, std::function<Error()>> variants[] = {
      {"IEEE float32", [&] { return c.plain(MatmulPrecision::kHighest); }},
      {"TF32", [&] { return c.plain(MatmulPrecision::kHigh); }},
      {"split, three products", [&] { return c.three_products(); }},
      {"split, one long product", [&] { return c.one_long_product(); }},
      {"of that, the splitting", [&] { return c.split_factors(); }},
  };
  printf("%s: [%lld, %lld] x [%lld, %lld]^T\n", shape.name, static_cast<long long>(shape.rows), static_cast<long long>(shape.in),
         static_cast<long long>(shape.out), static_cast<long long>(shape.in));
  for (const auto& [name, run] : variants) {
    const double microseconds = time_graph(run);
    if (std::string(name) == "of that, the splitting") {
      printf("  %-24s %8.1f us\n", name, microseconds);
    } else {
      printf("  %-24s %8.1f us   error %.1e (root mean square)\n", name, microseconds, c.error());
    }
  }
}

}  // namespace
}  // namespace self_check
}  // namespace mambatune

int main() {
  using namespace mambatune;
  self_check::require(cudaStreamCreateWithFlags(&cuda::the_stream, cudaStreamNonBlocking));
  self_check::require(cuda::open_cublas());
  for (const self_check::Shape& shape : {self_check::Shape{"in_proj", 8192, 768, 3072}, {"out_proj", 8192, 1536, 768}, {"x_proj", 8192, 1536, 80},
                                         {"head, a block of rows", 1280, 768, 50280}}) {
    self_check::measure(shape);
  }
  return 0;
}
