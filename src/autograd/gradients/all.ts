// SPDX-License-Identifier: Apache-2.0
/** Every gradient definition: importing this file registers them. */
import './causal_conv1d.ts';
import './elementwise.ts';
import './linear_cross_entropy.ts';
import './lora_embedding.ts';
import './lora_linear.ts';
import './mamba_block.ts';
import './rms_norm.ts';
import './selective_scan.ts';
import './shape.ts';
import './split_channels.ts';
