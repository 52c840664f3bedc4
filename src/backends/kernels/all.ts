// SPDX-License-Identifier: Apache-2.0
/** Every kernel of the native devices: importing this file defines them. */
import './adamw_step.ts';
import './causal_conv1d.ts';
import './elementwise.ts';
import './linear_cross_entropy.ts';
import './lora_embedding.ts';
import './lora_linear.ts';
import './mamba_block.ts';
import './mamba_layer_step.ts';
import './reduction.ts';
import './rms_norm.ts';
import './selective_scan.ts';
import './shape.ts';

export { registerDeviceKernels } from './define.ts';
