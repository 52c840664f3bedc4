// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { compareLogits } from '../../adapters/logit_comparison.ts';

test('two positions by hand', () => {
  const wanted = Float32Array.of(0, Math.log(3), 5, 5);
  const found = Float32Array.of(0, 0, 5, 6);
  const comparison = compareLogits(wanted, found, 2);
  // (1/4) ln((1/4) / (1/2)) + (3/4) ln((3/4) / (1/2)); then ln(1/2) - (ln sigma(-1) + ln sigma(1)) / 2.
  const first = 0.25 * Math.log(0.5) + 0.75 * Math.log(1.5);
  const second = Math.log(0.5) + 0.5 * (Math.log1p(Math.exp(1)) + Math.log1p(Math.exp(-1)));
  expect(comparison.max_abs_logit_difference).toBeCloseTo(Math.log(3), 6);
  expect(comparison.largest_logit).toBe(5);
  expect(comparison.mean_kl_divergence).toBeCloseTo((first + second) / 2, 6);
  expect(comparison.max_kl_divergence).toBeCloseTo(Math.max(first, second), 6);
  expect(comparison.argmax_agreement).toBe(0);
});

test('equal logits, and large ones that overflow a naive softmax', () => {
  const logits = Float32Array.of(900, -900, 3, 4);
  expect(compareLogits(logits, logits, 2)).toEqual({
    max_abs_logit_difference: 0,
    largest_logit: 900,
    mean_kl_divergence: 0,
    max_kl_divergence: 0,
    argmax_agreement: 1,
  });
});

test('a value that is not finite is an infinite difference', () => {
  const { max_abs_logit_difference } = compareLogits(Float32Array.of(1, 2), Float32Array.of(1, Number.NaN), 2);
  expect(max_abs_logit_difference).toBe(Number.POSITIVE_INFINITY);
});

test('refuses logits of another shape', () => {
  expect(() => compareLogits(new Float32Array(4), new Float32Array(2), 2)).toThrow(RangeError);
  expect(() => compareLogits(new Float32Array(3), new Float32Array(3), 2)).toThrow(RangeError);
});
