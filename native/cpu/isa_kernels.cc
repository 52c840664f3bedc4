// SPDX-License-Identifier: Apache-2.0
// Fills the table of one instruction set.
#include "isa_kernels.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

size_t selective_scan_checkpoint_size(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state);
#define MAMBATUNE_DECLARE(op, Params) Error op(const Params&);
MAMBATUNE_KERNELS(MAMBATUNE_DECLARE)
#undef MAMBATUNE_DECLARE

#define MAMBATUNE_ENTRY(op, Params) op,
const IsaKernels kernels = {selective_scan_checkpoint_size, MAMBATUNE_KERNELS(MAMBATUNE_ENTRY)};
#undef MAMBATUNE_ENTRY

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
