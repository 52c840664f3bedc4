// SPDX-License-Identifier: Apache-2.0
// Batched matrix product of contiguous operands.
#include "cublas.h"

namespace mambatune {
namespace cuda {

Error matmul(const MatmulParams& p) {
  Gemm g{p.m, p.n, p.k, {p.a, p.transpose_a ? p.m : p.k, p.transpose_a, p.a_batch_stride},
         {p.b, p.transpose_b ? p.k : p.n, p.transpose_b, p.b_batch_stride}, p.out, p.n};
  g.batch = p.batch;
  g.c_batch_stride = p.m * p.n;
  return gemm(g, "matmul");
}

}  // namespace cuda
}  // namespace mambatune
