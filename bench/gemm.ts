// SPDX-License-Identifier: Apache-2.0
/**
 * Matrix products y = x W^T: a frozen weight kept packed (loraLinear), and two plain tensors (matMul), against the machine's
 * multiply-add peak and OpenBLAS through numpy, with 1 and 2 threads.
 */
import type { Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { loraLinear } from '../src/ops/lora_linear.ts';
import { answer, givenCase, runCase } from './helpers/child.ts';
import { measurePeak } from './helpers/peak.ts';
import { runPython } from './helpers/python.ts';
import { digits, nativeBackend, printHeader, printTable, timeMedian } from './helpers/report.ts';

/** rows of x, inputs, outputs */
type Shape = [n: number, input: number, output: number];

const SHAPES: Shape[] = [
  [512, 768, 3072],
  [512, 1536, 768],
  [256, 192, 768],
  [1, 768, 3072],
];

interface Result {
  frozen: number;
  plain: number;
}

async function measure([n, input, output]: Shape): Promise<Result> {
  await nativeBackend();
  const x = tf.randomNormal<tf.Rank.R2>([n, input]);
  const weight = tf.variable(tf.randomNormal<tf.Rank.R2>([output, input]), false);
  const other = tf.randomNormal<tf.Rank.R2>([output, input]);
  const frozen = timeMedian(() => loraLinear({ x, W: weight as unknown as Tensor2D }).dispose());
  const plain = timeMedian(() => tf.matMul(x, other, false, true).dispose());
  return { frozen, plain };
}

const NUMPY = `
import json, sys, time, numpy
answer = []
for n, k, m in json.loads(sys.argv[1]):
    x, w = (numpy.random.randn(*shape).astype(numpy.float32) for shape in ((n, k), (m, k)))
    times = []
    start = time.perf_counter()
    while len(times) < 7 or time.perf_counter() - start < 0.7:
        begin = time.perf_counter()
        x @ w.T
        times.append(time.perf_counter() - begin)
    answer.append(sorted(times[2:])[len(times[2:]) // 2])
print(json.dumps(answer))
`;

function main(): void {
  printHeader('gemm: y[n, out] = x[n, in] W[out, in]^T, float32, GFLOP/s');
  const rows: (string | number)[][] = [];
  for (const threads of [1, 2]) {
    const peak = measurePeak(threads).flops / 1e9;
    const blas = runPython<number[]>(['-c', NUMPY, JSON.stringify(SHAPES)], { OPENBLAS_NUM_THREADS: String(threads) });
    for (const [i, shape] of SHAPES.entries()) {
      const { frozen, plain } = runCase<Result>(import.meta.url, shape, threads);
      const rate = (seconds: number) => (2 * shape[0] * shape[1] * shape[2]) / seconds / 1e9;
      const other = blas?.[i];
      rows.push([
        shape.join('x'),
        threads,
        digits(rate(frozen)),
        `${((100 * rate(frozen)) / peak).toFixed(0)} %`,
        digits(rate(plain)),
        other ? digits(rate(other)) : '',
        other ? digits(other / frozen) : '',
        digits(peak),
      ]);
    }
  }
  printTable(
    ['n x in x out', 'threads', 'frozen W', 'of peak', 'plain', 'OpenBLAS', 'frozen / OpenBLAS', 'peak'],
    rows,
  );
}

const shape = givenCase<Shape>();
if (shape) answer(await measure(shape));
else main();
