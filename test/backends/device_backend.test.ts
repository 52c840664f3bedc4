// SPDX-License-Identifier: Apache-2.0
/** The backend over a native device: lifetime of data, views, moves between backends. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Addon } from '../../src/backends/addon.ts';
import { DeviceBackend } from '../../src/backends/device_backend.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { expectNoLeak, liveMemory } from '../helpers/memory.ts';

const numbers = (tensor: Tensor | undefined) => Array.from((tensor as Tensor).dataSync());
const device = () => tf.backend() as DeviceBackend;

forEachDevice((name) => {
  it('is the backend that tfjs uses', () => {
    expect(tf.getBackend()).toBe(name);
    expect(tf.backend()).toBeInstanceOf(DeviceBackend);
    expect([tf.backend().floatPrecision(), tf.backend().epsilon(), tf.memory().unreliable]).toEqual([32, 1e-7, false]);
  });

  it.each([
    ['float32', [1.5, -2, 2 ** 127, Number.NaN, Number.NEGATIVE_INFINITY]],
    ['int32', [1, -2, 2 ** 31 - 1, -(2 ** 31), 0]],
    ['bool', [1, 0, 0, 1, 1]],
  ] as const)('writes and reads %s', async (dtype, values) => {
    await expectNoLeakAsync(async () => {
      const x = tf.tensor1d([...values], dtype);
      expect(numbers(x)).toEqual([...values]);
      expect(Array.from(await x.data())).toEqual([...values]);
      x.dispose();
    });
  });

  it('ends the parts of a schedule when one fails, and lets its error through', () => {
    const calls: string[] = [];
    const parts = ['beginBeside', 'beginSide', 'endBeside'].map((call) => [call, () => calls.push(call)]);
    const backend = new DeviceBackend(Object.fromEntries(parts) as Addon, name);
    const fail = () => {
      throw new Error('out of memory');
    };
    expect(() => backend.beside(fail, () => calls.push('side'))).toThrow('out of memory');
    expect(() => backend.beside(() => calls.push('main'), fail)).toThrow('out of memory');
    expect(calls).toEqual(['beginBeside', 'beginSide', 'endBeside', 'beginBeside', 'main', 'beginSide', 'endBeside']);
  });

  it('refuses other dtypes', () => {
    expect(() => tf.tensor1d(['a'])).toThrow('tensors of dtype string are not supported by the native backends');
    expect(() => tf.complex(1, 2)).toThrow(/complex64|Complex/);
  });

  it('frees bytes on disposal, and only with the last user', () => {
    const before = liveMemory();
    const x = tf.zeros([1000]);
    const { liveBytes } = device().memoryStats();
    expect(liveBytes - (before.liveBytes as number)).toBeGreaterThanOrEqual(4000);
    const shared = [x.clone(), tf.reshape(x, [10, 100]), tf.cast(x, 'float32')];
    expect(device().memoryStats().liveBytes).toBe(liveBytes);
    x.dispose();
    for (const tensor of shared) {
      expect(numbers(tensor).every((value) => value === 0)).toBe(true);
      tensor.dispose();
    }
    expect(liveMemory()).toEqual(before);
  });

  it('counts its peak from the last reset', () => {
    const { addon, device: index } = device();
    addon.resetPeak(index);
    const start = device().memoryStats();
    expect(start.peakBytes).toBe(start.liveBytes);
    tf.zeros([5000]).dispose();
    const end = device().memoryStats();
    expect(end.liveBytes).toBe(start.liveBytes);
    expect(end.peakBytes - start.peakBytes).toBeGreaterThanOrEqual(20_000);
  });

  it('keeps memory for reuse until it is trimmed', () => {
    tf.zeros([50_000]).dispose();
    expect(device().memoryStats().cachedBytes).toBeGreaterThanOrEqual(200_000);
    device().addon.trim(device().device);
    expect(device().memoryStats().cachedBytes).toBe(0);
  });

  it('times kernels', async () => {
    const { kernelMs } = (await tf.time(() => tf.zeros([10]).dispose())) as { kernelMs: number };
    expect(kernelMs).toBeGreaterThan(0);
  });

  it('empty tensors', () => {
    expectNoLeak(() =>
      tf.tidy(() => {
        const empty = tf.tensor2d([], [0, 3]);
        expect(numbers(empty)).toEqual([]);
        expect(numbers(tf.add(empty, 1))).toEqual([]);
        expect(numbers(tf.concat([empty, tf.ones([1, 3])], 0))).toEqual([1, 1, 1]);
        expect(numbers(tf.sum(empty, 0))).toEqual([0, 0, 0]);
      }),
    );
  });

  describe('views', () => {
    const matrix = () =>
      tf.tensor2d(
        Array.from({ length: 12 }, (_, i) => i),
        [2, 6],
      );

    it('share the bytes of their source until something needs them side by side', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const x = matrix();
          const { liveBuffers } = device().memoryStats();
          const [left, right] = splitChannels(x, [2, 4]);
          expect(device().memoryStats().liveBuffers).toBe(liveBuffers);
          expect(numbers(tf.neg(right as Tensor))).toEqual([-2, -3, -4, -5, -8, -9, -10, -11]);
          expect(numbers(left)).toEqual([0, 1, 6, 7]);
          expect(numbers(x)).toEqual(Array.from({ length: 12 }, (_, i) => i));
        }),
      );
    });

    it('outlive their source, and their source outlives them', () => {
      expectNoLeak(() => {
        const x = matrix();
        const [left, right] = splitChannels(x, [2, 4]);
        x.dispose();
        right?.dispose();
        expect(numbers(left)).toEqual([0, 1, 6, 7]);
        left?.dispose();
        const y = matrix();
        tf.dispose(splitChannels(y, [1, 5]));
        expect(numbers(y)[11]).toBe(11);
        y.dispose();
      });
    });

    it('of views', () => {
      tf.tidy(() => {
        const [, right] = splitChannels(matrix(), [1, 5]);
        const [, inner] = splitChannels(right as Tensor, [2, 3]);
        const [, last] = splitChannels(inner as Tensor, [2, 1]);
        expect([numbers(inner), numbers(last)]).toEqual([
          [3, 4, 5, 9, 10, 11],
          [5, 11],
        ]);
      });
    });

    it('under other shapes, with the same columns and with others', () => {
      expectNoLeak(() =>
        tf.tidy(() => {
          const [, right] = splitChannels(tf.reshape(matrix(), [1, 2, 6]), [2, 4]) as [Tensor, Tensor];
          const rows = tf.reshape(right, [2, 4]);
          const [, ofRows] = splitChannels(rows, [3, 1]) as [Tensor, Tensor];
          expect(numbers(ofRows)).toEqual([5, 11]);
          expect(numbers(tf.reshape(right, [8]))).toEqual([2, 3, 4, 5, 8, 9, 10, 11]);
          expect(numbers(tf.reshape(rows, [4, 2]))).toEqual([2, 3, 4, 5, 8, 9, 10, 11]);
          expect(numbers(splitChannels(tf.reshape(right, [4, 2]), [1, 1])[1])).toEqual([3, 5, 9, 11]);
          expect(numbers(right)).toEqual([2, 3, 4, 5, 8, 9, 10, 11]);
        }),
      );
    });

    it('as clones, one disposed of before the other', () => {
      expectNoLeak(() => {
        const x = matrix();
        const [view, rest] = splitChannels(x, [2, 4]) as [Tensor, Tensor];
        const copy = view.clone();
        tf.dispose([x, rest, view]);
        const sum = tf.add(copy, 1);
        expect(numbers(sum)).toEqual([1, 2, 7, 8]);
        sum.dispose();
        copy.dispose();
      });
    });

    it.each(['int32', 'bool'] as const)('of %s', (dtype) => {
      tf.tidy(() => {
        const x = tf.tensor2d([1, 0, 1, 0, 1, 1], [2, 3], dtype);
        expect(numbers(splitChannels(x, [1, 2])[1])).toEqual([0, 1, 1, 1]);
      });
    });

    it('in a variable that is assigned to, without touching the source', () => {
      expectNoLeak(() => {
        const x = matrix();
        const [view, rest] = splitChannels(x, [2, 4]) as [Tensor, Tensor];
        const variable = tf.variable(view);
        const other = tf.ones([2, 2]);
        variable.assign(other);
        expect([numbers(variable), numbers(view), numbers(x)[7]]).toEqual([[1, 1, 1, 1], [0, 1, 6, 7], 7]);
        variable.dispose();
        tf.dispose([x, view, rest, other]);
      });
    });
  });

  describe('moves between backends', () => {
    beforeAll(async () => {
      await selectBackend('cpu');
      await selectBackend(name);
    });

    it('from the device and back, also of shared and of viewed data', async () => {
      const before = liveMemory();
      const x = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3]);
      const shared = tf.reshape(x, [3, 2]);
      const [view, rest] = splitChannels(x, [2, 1]) as [Tensor, Tensor];
      await selectBackend('cpu');
      const onCpu = [tf.square(x), tf.square(shared), tf.square(view)];
      expect(onCpu.map(numbers)).toEqual([
        [1, 4, 9, 16, 25, 36],
        [1, 4, 9, 16, 25, 36],
        [1, 4, 16, 25],
      ]);
      await selectBackend(name);
      const sum = tf.add(onCpu[0] as Tensor, x);
      expect(numbers(sum)).toEqual([2, 6, 12, 20, 30, 42]);
      expect(numbers(view)).toEqual([1, 2, 4, 5]);
      tf.dispose([x, shared, view, rest, ...onCpu, sum]);
      expect(liveMemory()).toEqual(before);
    });

    it('of every dtype', async () => {
      for (const dtype of ['float32', 'int32', 'bool'] as const) {
        const x = tf.tensor1d([1, 0, 1], dtype);
        await selectBackend('cpu');
        const y = tf.concat([x, x]);
        await selectBackend(name);
        const z = tf.reverse(y);
        expect([z.dtype, numbers(z)]).toEqual([dtype, [1, 0, 1, 1, 0, 1]]);
        tf.dispose([x, y, z]);
      }
    });
  });
});

async function expectNoLeakAsync(body: () => Promise<void>): Promise<void> {
  const before = liveMemory();
  await body();
  expect(liveMemory()).toEqual(before);
}
