// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLAS, which is opened at run time.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../include/device.h"

namespace mambatune {
namespace cuda {

// A place where libcublas was looked for, and what came of it.
struct CublasPlace {
  std::string place, result;
};

// Finds libcublas and makes its handle; the error lists every place looked at.
Error open_cublas();
const std::vector<CublasPlace>& cublas_places();
const std::string& cublas_path();  // of the library in use
int cublas_version();              // 130000 is 13.0.0

MatmulPrecision matmul_precision();
Error set_matmul_precision(int32_t precision);

// A row-major matrix; transposed, it is stored as its transpose.
struct GemmOperand {
  const void* data;  // float, or bfloat16 where Gemm says so
  int64_t row_stride;
  bool transposed;
  int64_t batch_stride = 0;
};

// c = alpha a b + beta c in row-major layout; a: [m, k], b: [k, n].
struct Gemm {
  int64_t m, n, k;
  GemmOperand a, b;
  float* c;
  int64_t c_row_stride;
  float alpha = 1.0f, beta = 0.0f;
  bool bfloat16 = false;  // of a and b; floats are multiplied as matmul_precision() says, in kMedium as in kHigh
  int64_t batch = 1, c_batch_stride = 0;
};

Error gemm(const Gemm& g, const char* op);

}  // namespace cuda
}  // namespace mambatune
