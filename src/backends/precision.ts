// SPDX-License-Identifier: Apache-2.0
/** Precision of matrix products, in the words of torch.set_float32_matmul_precision. */
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../errors.ts';
import { DEVICE_INDEX } from './addon.ts';
import { DeviceBackend } from './device_backend.ts';

/** Float32's accuracy; TF32 inputs; bfloat16 inputs. Sums are float32 in all of them. In the order of native/include/device.h. */
export const MATMUL_PRECISIONS = ['highest', 'high', 'medium'] as const;
export type MatmulPrecision = (typeof MATMUL_PRECISIONS)[number];

/**
 * Sets the precision of the current backend's products with weights.
 * @throws ConfigError for another than `highest` on a backend that has only that
 */
export function setMatmulPrecision(precision: MatmulPrecision): void {
  const backend = tf.backend();
  if (backend instanceof DeviceBackend && backend.device === DEVICE_INDEX.cuda) {
    backend.addon.setMatmulPrecision(backend.device, MATMUL_PRECISIONS.indexOf(precision));
  } else if (precision !== 'highest') {
    throw new ConfigError(
      `matmul_precision: found ${precision}; the ${tf.getBackend()} backend multiplies in IEEE float32 alone: expected highest (high and medium need backend: cuda).`,
    );
  }
}
