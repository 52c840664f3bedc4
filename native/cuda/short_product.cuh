// SPDX-License-Identifier: Apache-2.0
// Products in IEEE float32 whose inner length is short, as dt_proj's: there cuBLAS takes three times what memory and arithmetic ask for.
#pragma once
#include "cublas.h"

namespace mambatune {
namespace cuda {

// Whether short_product() takes it: c = a b^T, contiguous inner sides of at most 64, everything aligned to 16 bytes.
bool short_product_fits(const Gemm& g);
Error short_product(const Gemm& g, const char* op);

}  // namespace cuda
}  // namespace mambatune
