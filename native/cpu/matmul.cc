// SPDX-License-Identifier: Apache-2.0
// Batched matrix product of contiguous operands.
#include "gemm.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

Error matmul(const MatmulParams& p) {
  GemmParams g{};
  g.m = p.m, g.n = p.n, g.k = p.k;
  g.a = {p.a, p.transpose_a ? p.m : p.k, p.transpose_a};
  g.b = {p.b, p.transpose_b ? p.k : p.n, p.transpose_b};
  g.c = p.out, g.c_row_stride = p.n;
  g.batch = p.batch;
  g.a_batch_stride = p.a_batch_stride, g.b_batch_stride = p.b_batch_stride, g.c_batch_stride = p.m * p.n;
  return gemm(g);
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
