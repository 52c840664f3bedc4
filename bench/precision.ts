// SPDX-License-Identifier: Apache-2.0
/**
 * Errors of each matmul_precision on the GPU: of lora_linear, forward and dx, against float64 loops on the shapes of a 130m model; of
 * the loss and the gradients of a mamba-5m step against IEEE float32 on the CPU. Run it with `--backend=cuda`.
 */
import * as tf from '@tensorflow/tfjs-core';
import { getPeftModel, LoraConfig } from '../adapters/index.ts';
import { valueAndGradients } from '../src/autograd/index.ts';
import { MATMUL_PRECISIONS, setMatmulPrecision } from '../src/backends/precision.ts';
import { UserError } from '../src/errors.ts';
import { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { loraLinear } from '../src/ops/lora_linear.ts';
import { createRandom } from '../src/random.ts';
import { benchBackend, isOnGpu, printHeader, printTable } from './helpers/report.ts';

const ROWS = 128;
const R = 8;
const LAYERS: [name: string, input: number, output: number][] = [
  ['in_proj', 768, 3072],
  ['x_proj', 1536, 80],
  ['dt_proj', 48, 1536],
  ['out_proj', 1536, 768],
];

type Values = Record<'y' | 'dx', ArrayLike<number>>;

/** Normal numbers. */
function draw(size: number, substream: number, scale: number): Float32Array {
  const random = createRandom({ seed: 0, substream });
  return Float32Array.from({ length: size }, () => scale * random.normal());
}

/** a [m, k] times b [k, n], given as [n, k] when `transposed`. */
function product(a: ArrayLike<number>, b: ArrayLike<number>, m: number, n: number, k: number, transposed: boolean) {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += (a[i * k + l] ?? 0) * (b[transposed ? j * k + l : l * n + j] ?? 0);
      out[i * n + j] = sum;
    }
  }
  return out;
}

/** Largest and root-mean-square difference, of the largest and the root-mean-square value. */
function errorText(actual: ArrayLike<number>, exact: ArrayLike<number>): string {
  const sums = { worst: 0, largest: 0, squares: 0, all: 0 };
  for (let i = 0; i < exact.length; i++) {
    const value = exact[i] ?? Number.NaN;
    const difference = Math.abs((actual[i] ?? Number.NaN) - value);
    sums.worst = Math.max(sums.worst, difference);
    sums.largest = Math.max(sums.largest, Math.abs(value));
    sums.squares += difference ** 2;
    sums.all += value ** 2;
  }
  return `${(sums.worst / sums.largest).toExponential(1)} / ${Math.sqrt(sums.squares / sums.all).toExponential(1)}`;
}

/** What f gives, with all of its tensors freed. */
function valuesOf<T>(f: () => T): T {
  const results: T[] = [];
  tf.tidy(() => {
    results.push(f());
  });
  return results[0] as T;
}

function linearRows(): string[][] {
  return LAYERS.flatMap(([name, input, output]) => {
    const host = {
      x: draw(ROWS * input, 1, 1),
      W: draw(output * input, 2, input ** -0.5),
      A: draw(R * input, 3, input ** -0.5),
      B: draw(output * R, 4, R ** -0.5),
      dy: draw(ROWS * output, 5, 1),
    };
    const merged = product(host.B, host.A, output, input, R, false).map((value, i) => value + (host.W[i] ?? 0));
    const exact: Values = {
      y: product(host.x, merged, ROWS, output, input, true),
      dx: product(host.dy, merged, ROWS, input, output, false),
    };
    const results = MATMUL_PRECISIONS.map((precision) => {
      setMatmulPrecision(precision);
      const run = (): Values => {
        const x = tf.tensor2d(host.x, [ROWS, input]);
        const W = tf.tensor2d(host.W, [output, input]);
        const loraA = tf.tensor2d(host.A, [R, input]);
        const loraB = tf.tensor2d(host.B, [output, R]);
        const forward = () => loraLinear({ x, W, loraA, loraB }, { scaling: 1 });
        const upstream = [tf.tensor2d(host.dy, [ROWS, output])];
        const { value, gradients } = valueAndGradients(forward, [x], { upstream });
        return { y: value.dataSync<'float32'>(), dx: (gradients[0] as tf.Tensor).dataSync<'float32'>() };
      };
      return valuesOf(run);
    });
    return (['y', 'dx'] as const).map((part) => [
      `${name} ${ROWS}x${input}x${output}`,
      part,
      ...results.map((result) => errorText(result[part], exact[part])),
    ]);
  });
}

interface StepValues {
  loss: number;
  gradients: Map<string, Float32Array>;
}

async function stepOn(backend: 'cuda' | 'native', precision: (typeof MATMUL_PRECISIONS)[number]): Promise<StepValues> {
  const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend, matmulPrecision: precision });
  getPeftModel(model, new LoraConfig({ r: R }));
  const random = createRandom({ seed: 1 });
  for (const variable of model.trainableParameters().values()) {
    // Fresh adapters are zero in one factor.
    const values = Float32Array.from({ length: variable.size }, () => 0.02 * random.normal());
    variable.assign(tf.tensor(values, variable.shape));
  }
  const parameters = model.trainableParameters();
  const [batch, seqlen] = [4, 64];
  const inputIds = Int32Array.from({ length: batch * seqlen }, () => random.below(model.config.vocabSize));
  const forward = () => model.lossSum({ inputIds, labels: inputIds, batch, seqlen }).lossSum;
  const run = (): StepValues => {
    const { value, gradients } = valueAndGradients(forward, [...parameters.values()]);
    const names = [...parameters.keys()];
    const loss = value.dataSync<'float32'>()[0] ?? Number.NaN;
    return {
      loss,
      gradients: new Map(names.map((name, i) => [name, (gradients[i] as tf.Tensor).dataSync<'float32'>().slice()])),
    };
  };
  const result = valuesOf(run);
  model.dispose();
  return result;
}

async function stepRow(): Promise<string[][]> {
  const exact = await stepOn('native', 'highest');
  const results: StepValues[] = [];
  for (const precision of MATMUL_PRECISIONS) results.push(await stepOn('cuda', precision));
  const joined = ({ gradients }: StepValues) =>
    Float32Array.from([...gradients.values()].flatMap((values) => [...values]));
  return [
    ['loss', ...results.map(({ loss }) => (Math.abs(loss - exact.loss) / exact.loss).toExponential(1))],
    ['gradients', ...results.map((result) => errorText(joined(result), joined(exact)))],
  ];
}

if (!isOnGpu) throw new UserError('precision: the precisions are the GPU\u2019s; run it with --backend=cuda');
await benchBackend();
printHeader(
  'matmul_precision: largest error of the largest value / root mean square of the error of that of the values',
);
printTable(['lora_linear against float64', 'of', ...MATMUL_PRECISIONS], linearRows());
printTable(['mamba-5m 4x64 against float32 on the CPU', ...MATMUL_PRECISIONS], await stepRow());
