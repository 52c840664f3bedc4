// SPDX-License-Identifier: Apache-2.0
/** matmul_precision on each backend. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { MATMUL_PRECISIONS, setMatmulPrecision } from '../../src/backends/precision.ts';
import { ConfigError } from '../../src/errors.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import { forEachBackend } from '../helpers/backends.ts';

/** Largest relative error of a product over 512 terms: float32's, TF32's 10 bits and bfloat16's 7 bits of mantissa. */
const WORST = { highest: 1e-6, high: 2e-3, medium: 2e-2 };

forEachBackend((backend) => {
  if (backend === 'cuda') {
    it.each(MATMUL_PRECISIONS)('%s rounds its inputs as it says, and no more', (precision) => {
      const x = Float32Array.from({ length: 512 }, (_, i) => Math.fround(Math.sin(i) + 1.5));
      const exact = x.reduce((sum, value) => sum + value * value, 0);
      setMatmulPrecision(precision);
      const [product = 0] = tf.tidy(() =>
        loraLinear({ x: tf.tensor(x, [1, 512]), W: tf.tensor2d(x, [1, 512]) }).dataSync(),
      );
      setMatmulPrecision('highest');
      expect(Math.abs(product - exact) / exact).toBeLessThan(WORST[precision]);
    });
  } else {
    it('has IEEE float32 alone, and says so', () => {
      expect(() => setMatmulPrecision('highest')).not.toThrow();
      expect(() => setMatmulPrecision('high')).toThrow(ConfigError);
      expect(() => setMatmulPrecision('medium')).toThrow(
        `matmul_precision: found medium; the ${backend} backend multiplies in IEEE float32 alone`,
      );
    });
  }
});
