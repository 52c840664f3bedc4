// SPDX-License-Identifier: Apache-2.0
// What the two kernels of the scan's backward share.
#pragma once
#include "selective_scan_detail.cuh"

namespace mambatune {
namespace cuda {

constexpr const char* kScanBackward = "selective_scan backward";

// Asks for the next tile's operands, a row of the block's channels a thread.
template <class Config>
__device__ __forceinline__ void prefetch_tile(const SelectiveScanBwdParams& p, const ScanPlace<Config>& place, int64_t tile,
                                              int64_t tiles) {
  const int64_t row = place.first_row + tile * kScanTile + threadIdx.x % kScanTile;
  const int64_t channel = place.channel_block * Config::kChannels;
  const int which = threadIdx.x / kScanTile;
  const float* at = which == 0   ? p.u + row * p.u_row_stride
                    : which == 1 ? p.delta + row * p.delta_row_stride
                    : which == 2 ? p.dout + row * p.d_inner
                    : p.z        ? p.z + row * p.z_row_stride
                                 : p.dout + row * p.d_inner;
  if (which < 4) asm volatile("prefetch.global.L2 [%0];" ::"l"(at + channel));
  if (tile > 0 && place.live && place.lane == 0) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(
        p.checkpoints + checkpoint_offset(place.batch, tile, place.channel, tiles, p.d_inner, Config::kStored)));
  }
}

// dB and dC from the sums of channel blocks, [channel blocks, batch, seqlen, 2, stored], added in their order.
Error sum_channel_blocks(const SelectiveScanBwdParams& p, const float* partial, int64_t blocks, int stored);

// The backward in training, terms of dB and dC cut to TF32: d_state 16, no gradients of A, D and delta_bias, and rows of elements
// that can be read four channels at a time.
bool tensor_cores_fit(const SelectiveScanBwdParams& p);
Error selective_scan_bwd_tensor_cores(const SelectiveScanBwdParams& p);

}  // namespace cuda
}  // namespace mambatune
