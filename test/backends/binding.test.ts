// SPDX-License-Identifier: Apache-2.0
/** The addon's exports against wrong arguments: each is a JavaScript Error, never a read or write outside a buffer. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Addon } from '../../src/backends/addon.ts';
import { DEVICE_INDEX, loadAddon } from '../../src/backends/addon.ts';
import { forEachDevice } from '../helpers/backends.ts';

type Arguments = (number | boolean | ArrayBufferView | string | null | undefined | object)[];

forEachDevice((name) => {
  const addon = loadAddon().addon as Addon;
  const device = DEVICE_INDEX[name];
  let before = addon?.memoryStats(DEVICE_INDEX.native);
  let small = 0;
  let large = 0;

  /** Calls an export with whatever is given. */
  const call = (exported: string, ...args: Arguments): unknown =>
    (addon[exported as keyof Addon] as unknown as (...given: Arguments) => unknown)(...args);

  beforeEach(() => {
    before = addon.memoryStats(device);
    small = addon.allocate(device, 16);
    large = addon.allocate(device, 1 << 16);
  });

  afterEach(() => {
    addon.release(small);
    addon.release(large);
    expect(addon.memoryStats(device)).toMatchObject({ liveBytes: before.liveBytes, liveBuffers: before.liveBuffers });
  });

  const EXPORTS = Object.entries(addon ?? {}).filter(([, value]) => typeof value === 'function');

  it('exports exactly what src/backends/addon.ts types', () => {
    expect(EXPORTS.map(([exported]) => exported).sort()).toEqual([
      'adamwStep',
      'allocate',
      'beginBeside',
      'beginSide',
      'binary',
      'cast',
      'causalConv1dBwd',
      'causalConv1dBwdTakesXProj',
      'causalConv1dFwd',
      'chooseLikeliest',
      'cumsum',
      'describe',
      'endBeside',
      'fill',
      'gather',
      'globalNorm',
      'graphBegin',
      'graphDiscard',
      'graphEnd',
      'graphLaunch',
      'graphRelease',
      'linearCrossEntropy',
      'loraEmbeddingBwd',
      'loraEmbeddingFwd',
      'loraLinearBwd',
      'loraLinearFwd',
      'loraLinearKeepsXa',
      'mambaLayerStep',
      'matmul',
      'memoryStats',
      'openCuda',
      'read',
      'reduce',
      'release',
      'resetPeak',
      'rmsNormBwd',
      'rmsNormFwd',
      'sampleToken',
      'select',
      'selectiveScanBwd',
      'selectiveScanCheckpointSize',
      'selectiveScanFwd',
      'setMatmulPrecision',
      'softmax',
      'stridedCopy',
      'synchronize',
      'trim',
      'unary',
      'write',
    ]);
  });

  it('describes itself as JSON', () => {
    expect(Object.keys(JSON.parse(addon.describe(device)) as object).length).toBeGreaterThan(0);
  });

  describe.each(EXPORTS.map(([exported]) => exported))('%s', (exported) => {
    it('without arguments', () => {
      expect(() => call(exported)).toThrow(/native call|d_conv must lie/);
    });

    it.each([[undefined], [null], [{}], ['text'], [new Float32Array(1)], [Symbol.iterator]])(
      'with %s in every place',
      (value) => {
        if (exported === 'openCuda' && typeof value === 'string') return;
        expect(() => call(exported, ...Array.from({ length: 64 }, () => value as object))).toThrow(
          /native call|d_conv must lie/,
        );
      },
    );

    it.each([99, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32])(
      'with %d as the device or handle',
      (value) => {
        expect(() => call(exported, value, ...Array.from({ length: 63 }, () => 1))).toThrow(
          /native call|d_conv must lie/,
        );
      },
    );

    it('with a handle that is not alive in every place', () => {
      if (
        [
          'allocate',
          'beginBeside',
          'beginSide',
          'endBeside',
          'graphBegin',
          'graphDiscard',
          'graphEnd',
          'graphLaunch',
          'graphRelease',
          'setMatmulPrecision',
          'memoryStats',
          'resetPeak',
          'trim',
          'synchronize',
          'describe',
          'selectiveScanCheckpointSize',
          'causalConv1dBwdTakesXProj',
        ].includes(exported)
      )
        return;
      // These take a handle where the others take a device, whose number may be that of a live handle.
      const first = ['release', 'read', 'write'].includes(exported) ? 987_654 : device;
      expect(() => call(exported, first, ...Array.from({ length: 63 }, () => 987_654))).toThrow(
        /native call|d_conv must lie/,
      );
    });
  });

  describe('memory', () => {
    it('a handle is dead after its release, also for a second release', () => {
      const handle = addon.allocate(device, 4);
      addon.release(handle);
      expect(() => addon.release(handle)).toThrow('native call with a handle that is not alive');
      expect(() => addon.read(handle, new Float32Array(1), 0)).toThrow('native call with a handle that is not alive');
      expect(() => addon.release(0)).toThrow('native call with a handle that is not alive');
    });

    it.each([
      ['read', 'native read past the end of a buffer'],
      ['write', 'native write past the end of a buffer'],
    ])('%s stays inside', (exported, message) => {
      for (const [array, offset] of [
        [new Float32Array(5), 0],
        [new Float32Array(4), 1],
        [new Uint8Array(1), 16],
        [new Uint8Array(0), 17],
        [new Float64Array(2), 2 ** 53 - 1],
      ] as const) {
        expect(() => call(exported, small, array, offset)).toThrow(message);
      }
      call(exported, small, new Float32Array(4), 0);
      call(exported, small, new Uint8Array(0), 16);
      expect(() => call(exported, small, new Float32Array(1), -4)).toThrow(/whole number/);
    });

    it('an allocation that cannot be', () => {
      expect(() => addon.allocate(device, 2 ** 52)).toThrow(/memory|allocat/i);
      expect(() => addon.allocate(device, -1)).toThrow(/whole number/);
    });
  });

  describe('buffers that are too small', () => {
    it.each<[string, () => Arguments]>([
      ['unary', () => [0, 0, 5, small, large]],
      ['unary', () => [0, 0, 5, large, small]],
      ['binary', () => [0, 0, 1, Int32Array.of(5), Int32Array.of(1), Int32Array.of(1), small, large, large]],
      ['binary', () => [0, 0, 1, Int32Array.of(5), Int32Array.of(1), Int32Array.of(1), large, small, large]],
      ['binary', () => [0, 0, 1, Int32Array.of(5), Int32Array.of(1), Int32Array.of(1), large, large, small]],
      ['select', () => [0, 5, large, small, large, large]],
      ['reduce', () => [0, 0, 1, 5, 1, small, large]],
      ['reduce', () => [0, 0, 5, 1, 1, large, small]],
      ['cumsum', () => [0, 1, 5, 1, false, false, large, small]],
      ['matmul', () => [1, 2, 3, 2, 0, 0, false, false, small, small, large]],
      ['matmul', () => [3, 2, 2, 2, 4, 4, false, false, small, large, large]],
      ['gather', () => [0, 1, 5, 1, 2, small, large, large]],
      ['cast', () => [0, 2, 5, small, large]],
      ['fill', () => [0, 5, 1, small]],
      ['softmax', () => [1, 5, small, large]],
      ['rmsNormFwd', () => [1, 5, large, 0, small, 1e-5, large, 0]],
      ['causalConv1dFwd', () => [1, 1, 3, 4, large, 0, 0, small, 0, 0, 0, true, large, 0]],
      ['loraLinearFwd', () => [1, 2, 3, 0, large, 0, 0, small, false, 0, 0, 0, 1, 0, 0, 0, 0, large, 0]],
      ['loraEmbeddingFwd', () => [1, 5, 1, 0, large, small, 0, 0, 1, large]],
      ['linearCrossEntropy', () => [1, 1, 5, large, small, false, large, 0, 0, large, large, 0, 0]],
      ['globalNorm', () => [Uint32Array.of(5), Uint32Array.of(small), large]],
      [
        'adamwStep',
        () => [
          Uint32Array.of(5),
          ...[small, large, large, large].map((h) => Uint32Array.of(h)),
          new Float32Array(1),
          new Float32Array(1),
          0.9,
          0.9,
          1,
          1,
          0,
          0,
          0,
        ],
      ],
    ])('%s', (exported, args) => {
      expect(() => call(exported, device, ...args())).toThrow(/too small/);
    });

    it('a row stride or offset past the end', () => {
      const conv = (offset: number, stride: number) => () =>
        call('causalConv1dFwd', device, 1, 2, 2, 1, small, offset, stride, large, 0, 0, 0, false, large, 0);
      conv(0, 2)();
      expect(conv(1, 2)).toThrow(/too small/);
      expect(conv(0, 3)).toThrow(/too small/);
      expect(conv(0, 1)).toThrow(/row stride/);
      expect(conv(2 ** 53 - 1, 2)).toThrow(/too small|size/);
      expect(conv(0, 2 ** 53 - 1)).toThrow(/too small|size/);
    });

    it('a strided copy outside of either buffer', () => {
      const copy = (dims: number[], from: number[], to: number[], srcOffset: number, dstOffset: number) => () =>
        call(
          'stridedCopy',
          device,
          0,
          dims.length,
          Int32Array.from(dims),
          Int32Array.from(from),
          Int32Array.from(to),
          small,
          srcOffset,
          large,
          dstOffset,
        );
      copy([2, 2], [2, 1], [2, 1], 0, 0)();
      copy([4], [-1], [1], 3, 0)();
      for (const outside of [
        copy([5], [1], [1], 0, 0),
        copy([4], [1], [1], 1, 0),
        copy([4], [-1], [1], 2, 0),
        copy([2, 2], [3, 1], [2, 1], 0, 0),
        copy([4], [1], [-1], 0, 2),
        copy([4], [1], [1], 0, 1 << 14),
        copy([2 ** 31 - 1, 2 ** 31 - 1], [2 ** 31 - 1, 2 ** 31 - 1], [0, 0], 0, 0),
      ]) {
        expect(outside).toThrow('native copy outside a buffer');
      }
    });
  });

  describe('numbers that cannot be', () => {
    it.each<[string, () => Arguments]>([
      ['unary', () => [99, 0, 4, small, large]],
      ['unary', () => [-1, 0, 4, small, large]],
      ['unary', () => [0, 3, 4, small, large]],
      ['unary', () => [0, -1, 4, small, large]],
      ['binary', () => [99, 0, 1, Int32Array.of(4), Int32Array.of(1), Int32Array.of(1), small, small, small]],
      ['binary', () => [0, 0, 7, new Int32Array(7), new Int32Array(7), new Int32Array(7), small, small, small]],
      ['binary', () => [0, 0, 2, Int32Array.of(4), Int32Array.of(1), Int32Array.of(1), small, small, small]],
      ['binary', () => [0, 0, 1, Float32Array.of(4), Int32Array.of(1), Int32Array.of(1), small, small, small]],
      ['binary', () => [0, 0, 1, Int32Array.of(4), Int32Array.of(-1), Int32Array.of(1), small, small, small]],
      ['binary', () => [0, 0, 2, Int32Array.of(-2, -2), Int32Array.of(1, 1), Int32Array.of(1, 1), small, small, small]],
      [
        'stridedCopy',
        () => [0, 2, Int32Array.of(-2, -2), Int32Array.of(1, 1), Int32Array.of(1, 1), small, 0, small, 0],
      ],
      ['reduce', () => [99, 0, 1, 4, 1, small, small]],
      ['reduce', () => [0, 0, 1, -4, 1, small, small]],
      ['causalConv1dFwd', () => [1, 1, 1, 9, large, 0, 0, large, 0, 0, 0, true, large, 0]],
      ['causalConv1dFwd', () => [1, 1, 1, 0, large, 0, 0, large, 0, 0, 0, true, large, 0]],
      ['globalNorm', () => [Uint32Array.of(1), Uint32Array.of(small, small), large]],
      ['globalNorm', () => [Float32Array.of(1), Uint32Array.of(small), large]],
      [
        'adamwStep',
        () => [
          Uint32Array.of(1),
          ...[small, small, small, small].map((h) => Uint32Array.of(h)),
          new Float32Array(0),
          new Float32Array(1),
          0.9,
          0.9,
          1,
          1,
          0,
          0,
          0,
        ],
      ],
    ])('%s', (exported, args) => {
      expect(() => call(exported, device, ...args())).toThrow();
    });

    it.each<[string, () => Arguments]>([
      ['reduce', () => [0, 0, 4, 2 ** 52, 1024, small, large]],
      ['cumsum', () => [0, 4, 2 ** 52, 1024, false, false, small, small]],
      ['softmax', () => [4096, 2 ** 52, small, small]],
      ['gather', () => [0, 4, 2 ** 52, 1024, 1, small, small, large]],
      ['rmsNormFwd', () => [4096, 2 ** 52, small, 0, 0, 1e-5, small, 0]],
      ['loraEmbeddingFwd', () => [1, 2 ** 52, 4096, 0, small, small, 0, 0, 1, large]],
      ['matmul', () => [2 ** 40, 2 ** 12, 2 ** 12, 1, 0, 0, false, false, large, large, small]],
      [
        'selectiveScanFwd',
        () => [
          2 ** 32,
          2 ** 32,
          1,
          1,
          small,
          0,
          0,
          small,
          0,
          0,
          small,
          small,
          0,
          0,
          small,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          0,
          false,
          small,
          0,
          0,
        ],
      ],
    ])('%s with sizes whose product overflows 64 bits', (exported, args) => {
      expect(() => call(exported, device, ...args())).toThrow(/native/);
    });
  });
});
