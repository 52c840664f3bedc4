// SPDX-License-Identifier: Apache-2.0
/** Ops that write their last state over the one that they were given. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { selectiveScan } from '../../src/ops/selective_scan.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';

const DIMENSIONS = { dInner: 20, dState: 4, dConv: 4 };

function scanInputs(batch: number, seqlen: number) {
  const { dInner, dState } = DIMENSIONS;
  const wide = () => tf.randomNormal<tf.Rank.R3>([batch, seqlen, dInner]);
  const narrow = () => tf.randomNormal<tf.Rank.R3>([batch, seqlen, dState]);
  const A = tf.neg(tf.exp(tf.randomNormal<tf.Rank.R2>([dInner, dState]))) as tf.Tensor2D;
  const h0 = tf.randomNormal<tf.Rank.R3>([batch, dInner, dState]);
  return { u: wide(), delta: wide(), A, B: narrow(), C: narrow(), z: wide(), h0 };
}

function convInputs(batch: number, seqlen: number) {
  const { dInner, dConv } = DIMENSIONS;
  return {
    x: tf.randomNormal<tf.Rank.R3>([batch, seqlen, dInner]),
    weight: tf.randomNormal<tf.Rank.R2>([dInner, dConv]),
    convState: tf.randomNormal<tf.Rank.R3>([batch, dConv - 1, dInner]),
  };
}

forEachBackend((backend) => {
  if (!hasOwnKernels(backend)) {
    it('refuses it without the kernel', () => {
      tf.tidy(() => {
        const text = `updateState needs the fused kernel, which the ${backend} backend has not`;
        expect(() => selectiveScan(scanInputs(1, 2), { updateState: true })).toThrow(`selectiveScan: ${text}`);
        expect(() => causalConv1d(convInputs(1, 2), { updateState: true })).toThrow(`causalConv1d: ${text}`);
      });
    });
    return;
  }

  it.each([
    [1, 1],
    [3, 1],
    [2, 2],
    [2, 3],
    [2, 70],
  ])('batch %d, seqlen %d: the state that returnLastState returns', (batch, seqlen) => {
    tf.tidy(() => {
      const scan = scanInputs(batch, seqlen);
      const expected = selectiveScan(scan, { returnLastState: true });
      const updated = selectiveScan(scan, { updateState: true });
      expect(updated.lastState).toBeUndefined();
      expect(updated.out.dataSync()).toEqual(expected.out.dataSync());
      expect(scan.h0.dataSync()).toEqual(expected.lastState?.dataSync());

      const conv = convInputs(batch, seqlen);
      const expectedConv = causalConv1d(conv, { returnLastState: true });
      expect(causalConv1d(conv, { updateState: true }).y.dataSync()).toEqual(expectedConv.y.dataSync());
      expect(conv.convState.dataSync()).toEqual(expectedConv.lastConvState?.dataSync());
    });
  });

  it('refuses it without a state', () => {
    tf.tidy(() => {
      const [scan, conv] = [scanInputs(1, 1), convInputs(1, 1)];
      const text = 'updateState needs the state that it is to write over';
      expect(() => selectiveScan({ ...scan, h0: null }, { updateState: true })).toThrow(`selectiveScan: ${text}`);
      expect(() => causalConv1d({ ...conv, convState: null }, { updateState: true })).toThrow(`causalConv1d: ${text}`);
    });
  });
});
