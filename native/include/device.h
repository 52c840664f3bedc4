// SPDX-License-Identifier: Apache-2.0
// What a device offers: memory and every op, as one versioned table of functions. The CPU's table is linked into the addon
// (cpu_device()); the CUDA plugin exports cuda_device() with C linkage and is opened at run time. Neither knows JavaScript.
//
// Every function that can fail returns null on success or a message that stays valid until the next call on the same thread.
#pragma once
#include <cstddef>
#include <cstdint>

#include "adamw_step.h"
#include "causal_conv1d.h"
#include "linear_cross_entropy.h"
#include "lora_embedding.h"
#include "lora_linear.h"
#include "mamba_layer_step.h"
#include "rms_norm.h"
#include "sample_token.h"
#include "selective_scan.h"
#include "tensor_ops.h"
#include "weight.h"

namespace mambatune {

using Error = const char*;

constexpr uint32_t kDeviceAbi = 8;

struct MemoryStats {
  uint64_t live_bytes;     // in use by buffers now
  uint64_t peak_bytes;     // highest live_bytes since the last reset
  uint64_t cached_bytes;   // held for reuse, not in use
  uint64_t live_buffers;
  uint64_t weight_cache_bytes;  // packed copies of frozen weights, not among live_bytes
};

// Of the products with a weight and of matmul: IEEE float32; TF32 inputs; bfloat16 inputs. Sums are float32 in all of them.
enum class MatmulPrecision : int32_t { kHighest, kHigh, kMedium };

struct DeviceApi {
  uint32_t abi;  // kDeviceAbi
  const char* name;

  // One JSON object of facts for `doctor`: instruction set, threads, device name, libraries found.
  const char* (*describe)();

  Error (*allocate)(size_t bytes, void** memory);  // 64-byte aligned, not zeroed; bytes may be 0
  void (*release)(void* memory, size_t bytes);
  Error (*upload)(void* device, const void* host, size_t bytes);
  Error (*download)(void* host, const void* device, size_t bytes);  // waits for work that writes `device`
  Error (*copy)(void* to, const void* from, size_t bytes);
  Error (*synchronize)();
  void (*memory_stats)(MemoryStats* stats);
  void (*reset_peak)();
  void (*trim)();  // gives cached memory back to the system
  void (*free_weight_cache)(WeightCache* cache);

  // Null: the device knows kHighest alone.
  Error (*set_matmul_precision)(int32_t precision);

  // Graphs; all null where there are none. From graph_begin to graph_end ops are recorded, not run: upload, download and
  // synchronize fail, and what changes from launch to launch must lie in device memory. Memory allocated while recording comes
  // from a pool that only graphs use: what a launch writes there is valid until the next launch of any graph or the next
  // graph_begin. Memory allocated before and released while recording is kept for the graph; all other memory that recorded
  // ops use must stay allocated as long as the graph.
  Error (*graph_begin)();
  // Ends recording. With null, or when it fails, what was recorded is dropped; after an op has failed, call it with null.
  Error (*graph_end)(uint32_t* graph);
  Error (*graph_launch)(uint32_t graph);
  void (*graph_release)(uint32_t graph);

  // Parts beside each other; all null where there are none. What is enqueued between begin_beside and begin_side runs beside what is
  // enqueued between that and end_beside; neither may read or write what the other writes. What comes later waits for both. After an error
  // in a part, the calls that remain are still made.
  Error (*begin_beside)();
  Error (*begin_side)();
  Error (*end_beside)();

  size_t (*selective_scan_checkpoint_size)(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state);  // floats
  Error (*selective_scan_fwd)(const SelectiveScanFwdParams&);
  Error (*selective_scan_bwd)(const SelectiveScanBwdParams&);
  Error (*causal_conv1d_fwd)(const CausalConv1dFwdParams&);
  Error (*causal_conv1d_bwd)(const CausalConv1dBwdParams&);
  // Whether causal_conv1d_bwd can do it with the x_proj of p, by its sizes and row strides and the precision of products. Null: never.
  bool (*causal_conv1d_bwd_takes_x_proj)(const CausalConv1dBwdParams& p);
  Error (*rms_norm_fwd)(const RmsNormFwdParams&);
  Error (*rms_norm_bwd)(const RmsNormBwdParams&);
  // Whether the backward wants the xa of the forward; null: always.
  bool (*lora_linear_keeps_xa)(const LoraLinearInputs&);
  Error (*lora_linear_fwd)(const LoraLinearFwdParams&);
  Error (*lora_linear_bwd)(const LoraLinearBwdParams&);
  Error (*lora_embedding_fwd)(const LoraEmbeddingFwdParams&);
  Error (*lora_embedding_bwd)(const LoraEmbeddingBwdParams&);
  Error (*mamba_layer_step)(const MambaLayerStepParams&);  // null: the addon runs the device's other ops one after the other
  Error (*linear_cross_entropy)(const LinearCrossEntropyParams&);
  Error (*global_norm)(const GlobalNormParams&);
  Error (*adamw_step)(const AdamwStepParams&);

  Error (*unary)(const UnaryParams&);
  Error (*binary)(const BinaryParams&);
  Error (*select)(const SelectParams&);
  Error (*reduce)(const ReduceParams&);
  Error (*cumsum)(const CumsumParams&);
  Error (*matmul)(const MatmulParams&);
  Error (*strided_copy)(const StridedCopyParams&);
  Error (*gather)(const GatherParams&);
  Error (*cast)(const CastParams&);
  Error (*fill)(const FillParams&);
  Error (*softmax)(const SoftmaxParams&);
  Error (*choose_likeliest)(const ChooseLikeliestParams&);
  Error (*sample_token)(const SampleTokenParams&);
};

const DeviceApi* cpu_device();

}  // namespace mambatune

extern "C" {
// The CUDA plugin's only export: its table, or null with *error set to what is missing.
const mambatune::DeviceApi* mambatune_cuda_device(uint32_t abi, const char** error);
}
