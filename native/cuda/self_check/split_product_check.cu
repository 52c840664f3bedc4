// SPDX-License-Identifier: Apache-2.0
// The split product beside cuBLAS's IEEE product: times at the shapes of a 130m model at 8x1024, and errors against float64 there and at
// sizes that are multiples of nothing, on uniform and normal elements, on elements with a large mean, and on rows and columns of very
// different sizes. Exits with 1 where the split's error is over 1.2 times IEEE's.
//
//   cd native/cuda
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -o /tmp/split_product_check self_check/split_product_check.cu \
//     split_product.cu split_product_wgmma.cu split_factors.cu cublas.cu -ldl
#include <cstdarg>

#include "../allocator.cuh"
#include "../split_product.cuh"
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

constexpr int64_t kCheckedRows = 16;  // the first half of them and the last
constexpr double kMostOfIeee = 1.2;

enum class Data { kUniform, kNormal, kMean, kScales };
constexpr const char* kNames[] = {"uniform", "normal", "mean 3, deviation 1", "rows of 2^-20 to 2^20"};

struct Shape {
  const char* name;
  int64_t m, k, n;
  bool transposed;  // b is stored as [n, k]
  bool timed;
};

__device__ float random_unit(uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  i = (i ^ i >> 27) * 0x94d049bb133111ebull;
  return static_cast<float>((i ^ i >> 31) >> 40) * 0x1p-24f + 0x1p-25f;
}

__global__ void fill_kernel(float* x, int64_t rows, int64_t cols, Data data, bool scales_rows, uint64_t seed) {
  for (int64_t i = blockIdx.x * 256 + threadIdx.x; i < rows * cols; i += gridDim.x * 256) {
    const float u = random_unit(seed + 2 * i), v = random_unit(seed + 2 * i + 1);
    const float normal = sqrtf(-2.0f * logf(u)) * cospif(2.0f * v);
    const int64_t own = scales_rows ? i / cols : i % cols;
    x[i] = data == Data::kUniform ? 2.0f * u - 1.0f : data == Data::kMean ? 3.0f + normal : normal;
    if (data == Data::kScales) x[i] = scalbnf(x[i], static_cast<int>(own * 37 % 41) - 20);
  }
}

// The checked rows of a b, and of |a| |b|.
__global__ void exact_kernel(const float* a, const float* b, Shape s, double* exact, double* sizes) {
  const int64_t col = blockIdx.x * 64 + threadIdx.x;
  const int64_t row = blockIdx.y < kCheckedRows / 2 ? blockIdx.y : s.m - kCheckedRows + blockIdx.y;
  if (col >= s.n) return;
  double sum = 0.0, size = 0.0;
  for (int64_t k = 0; k < s.k; ++k) {
    const double product = static_cast<double>(a[row * s.k + k]) * b[s.transposed ? col * s.k + k : k * s.n + col];
    sum += product, size += product * product;
  }
  exact[blockIdx.y * s.n + col] = sum, sizes[blockIdx.y * s.n + col] = sqrt(size);
}

struct Errors {
  double root_mean_square, largest;
};

// Of each element, relative to the root of the sum of its products' squares.
Errors errors_of(const Shape& s, Tensor& c, const std::vector<double>& exact, const std::vector<double>& sizes) {
  c.download();
  Errors errors = {};
  for (int64_t i = 0; i < kCheckedRows; ++i) {
    const int64_t row = i < kCheckedRows / 2 ? i : s.m - kCheckedRows + i;
    for (int64_t col = 0; col < s.n; ++col) {
      const double error = std::fabs(c.host[row * s.n + col] - exact[i * s.n + col]) / sizes[i * s.n + col];
      errors.root_mean_square += error * error;
      if (!(error <= errors.largest)) errors.largest = error;
    }
  }
  errors.root_mean_square = std::sqrt(errors.root_mean_square / (kCheckedRows * s.n));
  return errors;
}

struct Case {
  Shape shape;
  Tensor a, b, c;
  cuda::Gemm gemm = {};

  explicit Case(const Shape& s) : shape(s), a(s.m, s.k, s.k), b(s.n, s.k, s.k), c(s.m, s.n, s.n) {
    gemm.m = s.m, gemm.n = s.n, gemm.k = s.k;
    gemm.a = {a.device, s.k, false}, gemm.b = {b.device, s.transposed ? s.k : s.n, s.transposed};
    gemm.c = c.device, gemm.c_row_stride = s.n, gemm.alpha = 1.0f, gemm.batch = 1;
  }

  Error ieee() const { return cuda::gemm(gemm, "IEEE"); }
  Error split() const { return cuda::split_product(gemm, "split"); }

  void fill(Data data) {
    fill_kernel<<<1024, 256, 0, cuda::stream()>>>(a.device, shape.m, shape.k, data, true, 1);
    fill_kernel<<<1024, 256, 0, cuda::stream()>>>(b.device, shape.transposed ? shape.n : shape.k, shape.transposed ? shape.k : shape.n, data,
                                                  shape.transposed, uint64_t{1} << 40);
    require(cudaGetLastError());
  }

  // The number of errors above what is allowed.
  int check(Data data) {
    fill(data);
    const size_t size = kCheckedRows * shape.n;
    std::vector<double> exact(size), sizes(size);
    double* device = nullptr;
    require(cudaMalloc(&device, 2 * size * sizeof(double)));
    const dim3 grid(static_cast<unsigned>((shape.n + 63) / 64), kCheckedRows);
    exact_kernel<<<grid, 64, 0, cuda::stream()>>>(a.device, b.device, shape, device, device + size);
    require(cudaMemcpyAsync(exact.data(), device, size * sizeof(double), cudaMemcpyDeviceToHost, cuda::stream()));
    require(cudaMemcpyAsync(sizes.data(), device + size, size * sizeof(double), cudaMemcpyDeviceToHost, cuda::stream()));
    require(cudaStreamSynchronize(cuda::stream()));
    require(cudaFree(device));
    const auto run = [&](const std::function<Error()>& multiply) {
      require(cudaMemsetAsync(c.device, 0xff, c.bytes(), cuda::stream()));
      require(multiply());
      return errors_of(shape, c, exact, sizes);
    };
    const Errors ieee_errors = run([&] { return ieee(); }), split_errors = run([&] { return split(); });
    const std::vector<float> first = c.host;
    run([&] { return split(); });
    const bool same = memcmp(first.data(), c.host.data(), c.bytes()) == 0;
    const bool failed = !same || !(split_errors.root_mean_square <= kMostOfIeee * ieee_errors.root_mean_square) ||
                        !(split_errors.largest <= kMostOfIeee * ieee_errors.largest);
    printf("  %-22s error, root mean square and largest: IEEE %.2e %.2e, split %.2e %.2e%s%s\n", kNames[static_cast<int>(data)],
           ieee_errors.root_mean_square, ieee_errors.largest, split_errors.root_mean_square, split_errors.largest,
           same ? "" : " DIFFERS BETWEEN RUNS", failed ? " FAIL" : "");
    return failed;
  }

  void time() {
    const double flops = 2.0 * shape.m * shape.n * shape.k;
    const double ieee_us = time_graph([&] { return ieee(); }), split_us = time_graph([&] { return split(); });
    const double left_us = time_graph([&] {
      cuda::SplitCopy left;
      return cuda::split_left(gemm, &left, "left");
    });
    const double right_us = time_graph([&] {
      cuda::SplitCopy right;
      return cuda::split_right(gemm, &right, "right");
    });
    printf("  IEEE %.1f us, %.1f TFLOP/s; split %.1f us, %.1f TFLOP/s, of that its factors %.1f and %.1f us\n", ieee_us, 1e-6 * flops / ieee_us,
           split_us, 1e-6 * flops / split_us, left_us, right_us);
  }
};

}  // namespace
}  // namespace self_check
}  // namespace mambatune

int main() {
  using namespace mambatune;
  using namespace mambatune::self_check;
  require(cudaStreamCreateWithFlags(&cuda::the_stream, cudaStreamNonBlocking));
  require(cuda::open_cublas());
  const Shape shapes[] = {{"in_proj", 8192, 768, 3072, true, true},          {"in_proj, dx", 8192, 3072, 768, false, true},
                          {"out_proj", 8192, 1536, 768, true, true},         {"out_proj, dx", 8192, 768, 1536, false, true},
                          {"x_proj", 8192, 1536, 80, true, true},            {"in_proj, 256 rows", 256, 768, 3072, true, true},
                          {"in_proj, dx, 1024 rows", 1024, 3072, 768, false, true}, {"head, a block of rows", 1216, 768, 50280, true, true},
                          {"head, dx", 1216, 50280, 768, false, true},       {"odd sizes", 1001, 772, 777, true, false},
                          {"odd sizes, dx", 517, 4100, 260, false, false},   {"odd sizes, short", 131, 132, 67, true, false}};
  int failures = 0;
  for (const Shape& shape : shapes) {
    printf("%s: [%lld, %lld] x [%lld, %lld]\n", shape.name, static_cast<long long>(shape.m), static_cast<long long>(shape.k),
           static_cast<long long>(shape.k), static_cast<long long>(shape.n));
    Case c(shape);
    for (const Data data : {Data::kUniform, Data::kMean, Data::kScales, Data::kNormal}) failures += c.check(data);
    if (shape.timed) c.time();
    fflush(stdout);
  }
  printf("%d failures\n", failures);
  return failures > 0;
}
