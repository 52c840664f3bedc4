// SPDX-License-Identifier: Apache-2.0
/** A layer's step against the ops that it stands for, composed: output, residual and both states, on the devices that have it. */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import type { BlockLinear } from '../../src/ops/mamba_block.ts';
import { BLOCK_LINEARS } from '../../src/ops/mamba_block.ts';
import { mambaLayerStep } from '../../src/ops/mamba_layer_step.ts';
import { rmsNorm } from '../../src/ops/rms_norm.ts';
import { selectiveScan } from '../../src/ops/selective_scan.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { layerInputs } from '../helpers/layer_inputs.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { type Operand, operandSource, toTensor } from '../helpers/random_tensors.ts';

interface Case {
  batch: number;
  dModel: number;
  dInner: number;
  dState: number;
  dConv: number;
  dtRank: number;
  /** Ranks of the projections' adapters; default none. */
  ranks?: Partial<Record<BlockLinear, number>>;
  residual?: boolean;
  biases?: boolean;
  /** Weights as variables that do not train, of which a device may keep copies. */
  frozen?: boolean;
}

type Tensors = Record<string, Tensor>;
const EPS = 1e-5;
const SCALING = 0.7;
const OUTPUTS = ['out', 'residual', 'convState', 'ssmState'];

function operandsOf({ batch, dModel, dInner, dState, dConv, dtRank, ranks = {}, residual, biases }: Case) {
  const { normal, uniform } = operandSource(17);
  const sizes: Record<BlockLinear, [number, number]> = {
    inProj: [2 * dInner, dModel],
    xProj: [dtRank + 2 * dState, dInner],
    dtProj: [dInner, dtRank],
    outProj: [dModel, dInner],
  };
  const operands: Record<string, Operand> = {
    hidden: normal([batch, 1, dModel]),
    ...(residual && { residual: normal([batch, 1, dModel]) }),
    norm: uniform([dModel], 0.5, 1.5),
    convWeight: normal([dInner, dConv], 0.4),
    ...(biases && { convBias: normal([dInner], 0.2), inProjBias: normal([2 * dInner]), outProjBias: normal([dModel]) }),
    A: uniform([dInner, dState], -3, -0.1),
    D: normal([dInner]),
    dtProjBias: normal([dInner], 0.5, -1),
    convState: normal([batch, dConv - 1, dInner]),
    ssmState: normal([batch, dInner, dState]),
  };
  for (const linear of BLOCK_LINEARS) {
    const [out, inFeatures] = sizes[linear];
    operands[`${linear}W`] = normal([out, inFeatures], 1 / Math.sqrt(inFeatures));
    const r = ranks[linear];
    if (!r) continue;
    operands[`${linear}A`] = normal([r, inFeatures], 1 / Math.sqrt(inFeatures));
    operands[`${linear}B`] = normal([out, r], 0.5);
  }
  return operands;
}

function fused(t: Tensors): Tensor[] {
  const { out, residualOut } = mambaLayerStep(
    {
      ...layerInputs(t, () => ({ scaling: SCALING })),
      convState: t.convState as Tensor3D,
      ssmState: t.ssmState as Tensor3D,
    },
    { eps: EPS },
  );
  return [out, residualOut, t.convState as Tensor, t.ssmState as Tensor];
}

function composed(t: Tensors, { dInner, dState, dtRank }: Case): Tensor[] {
  const linear = (name: BlockLinear, x: Tensor, bias = t[`${name}Bias`]) =>
    loraLinear(
      {
        x,
        W: t[`${name}W`] as Tensor2D,
        bias: bias as Tensor1D | undefined,
        loraA: t[`${name}A`] as Tensor2D | undefined,
        loraB: t[`${name}B`] as Tensor2D | undefined,
      },
      { scaling: SCALING },
    );
  const normed = rmsNorm({ x: t.hidden as Tensor, weight: t.norm as Tensor1D, residual: t.residual }, EPS);
  const [x, z] = splitChannels(linear('inProj', normed.y), [dInner, dInner]);
  const conv = causalConv1d(
    {
      x: x as Tensor3D,
      weight: t.convWeight as Tensor2D,
      bias: t.convBias as Tensor1D,
      convState: t.convState as Tensor3D,
    },
    { returnLastState: true },
  );
  const [dt, B, C] = splitChannels(linear('xProj', conv.y), [dtRank, dState, dState]) as [Tensor, Tensor, Tensor];
  const dtProj = { W: t.dtProjW as Tensor2D, loraA: t.dtProjA as Tensor2D, loraB: t.dtProjB as Tensor2D };
  const scan = selectiveScan(
    {
      u: conv.y,
      delta: loraLinear({ x: dt, ...dtProj }, { scaling: SCALING }) as Tensor3D,
      A: t.A as Tensor2D,
      B: B as Tensor3D,
      C: C as Tensor3D,
      D: t.D as Tensor1D,
      z: z as Tensor3D,
      deltaBias: t.dtProjBias as Tensor1D,
      h0: t.ssmState as Tensor3D,
    },
    { returnLastState: true },
  );
  return [linear('outProj', scan.out), normed.residualOut, conv.lastConvState as Tensor, scan.lastState as Tensor];
}

function run(operands: Record<string, Operand>, frozen: boolean, f: (tensors: Tensors) => Tensor[]): Float32Array[] {
  return expectNoLeak(() => {
    const tensors = Object.fromEntries(
      Object.entries(operands).map(([name, operand]) => {
        const tensor = toTensor(operand);
        const isWeight = name.endsWith('W');
        if (!frozen || !isWeight) return [name, tensor];
        const variable = tf.variable(tensor, false);
        tensor.dispose();
        return [name, variable];
      }),
    );
    const values = tf.tidy(() => f(tensors).map((tensor) => tensor.dataSync<'float32'>())) as unknown as Float32Array[];
    tf.dispose(tensors);
    return values;
  });
}

const TINY = { dModel: 20, dInner: 40, dState: 4, dConv: 4, dtRank: 3 };
const SMALL = { dModel: 64, dInner: 136, dState: 16, dConv: 4, dtRank: 4 };
const WIDE = { dModel: 1544, dInner: 72, dState: 24, dConv: 8, dtRank: 100 };
const EVERY_ADAPTER = { inProj: 3, xProj: 8, dtProj: 2, outProj: 5 };

const CASES: [string, Case][] = [
  ['one row', { batch: 1, ...SMALL, residual: true, frozen: true }],
  ['the first layer, whose weights may change', { batch: 1, ...SMALL }],
  ['two rows, biases', { batch: 2, ...SMALL, biases: true, residual: true }],
  ['three rows, adapters everywhere', { batch: 3, ...SMALL, ranks: EVERY_ADAPTER, residual: true, frozen: true }],
  ['an adapter of a larger rank', { batch: 2, ...SMALL, ranks: { inProj: 40 }, residual: true }],
  ['sizes that fill no vector', { batch: 5, ...TINY, dModel: 21, ranks: EVERY_ADAPTER, biases: true, residual: true }],
  ['a convolution without a state', { batch: 4, ...TINY, dConv: 1 }],
  ['two taps, three states', { batch: 7, ...TINY, dConv: 2, dState: 3, residual: true }],
  ['wide rows, eight taps', { batch: 8, ...WIDE, ranks: EVERY_ADAPTER, residual: true, frozen: true }],
  ['nine rows', { batch: 9, ...SMALL, ranks: EVERY_ADAPTER, residual: true, frozen: true }],
  ['rows that fill no group', { batch: 30, ...TINY, biases: true, residual: true }],
];

forEachDevice(() => {
  it.each(CASES)('%s', (_name, testCase) => {
    const operands = operandsOf(testCase);
    const frozen = testCase.frozen ?? false;
    const expected = run(operands, frozen, (tensors) => composed(tensors, testCase));
    const actual = run(operands, frozen, fused);
    for (const [i, name] of OUTPUTS.entries()) {
      expectClose(actual[i] as Float32Array, expected[i] as Float32Array, { name });
    }
  });

  it('a row has the same bits alone and among seven others', () => {
    const operands = operandsOf({ batch: 8, ...SMALL, ranks: EVERY_ADAPTER, residual: true });
    const together = run(operands, true, fused);
    for (let row = 0; row < 8; row++) {
      const cut = ({ values, shape: [, ...rest] }: Operand): Operand => {
        const size = tf.util.sizeFromShape(rest);
        return { values: values.slice(row * size, (row + 1) * size), shape: [1, ...rest] };
      };
      const ofRows = ['hidden', 'residual', 'convState', 'ssmState'];
      const alone = run(
        Object.fromEntries(
          Object.entries(operands).map(([name, each]) => [name, ofRows.includes(name) ? cut(each) : each]),
        ),
        true,
        fused,
      );
      for (const [i, values] of alone.entries()) {
        const size = values.length;
        expect(values).toEqual(together[i]?.slice(row * size, (row + 1) * size));
      }
    }
  });

  it('says which operand has the wrong shape', () => {
    tf.tidy(() => {
      const tensors = Object.fromEntries(
        Object.entries(operandsOf({ batch: 2, ...TINY })).map(([name, operand]) => [name, toTensor(operand)]),
      );
      const refused = (name: string, shape: number[], text: string) =>
        expect(() => fused({ ...tensors, [name]: tf.zeros(shape) })).toThrow(text);
      refused('hidden', [2, 3, 20], 'mambaLayerStep: hidden must have shape [2, 1, 20], got [2, 3, 20]');
      refused('convState', [1, 3, 40], 'mambaLayerStep: convState must have shape [2, 3, 40], got [1, 3, 40]');
      refused('xProjW', [10, 40], 'mambaLayerStep: xProj.W must have shape [11, 40], got [10, 40]');
      refused('inProjA', [2, 20], 'mambaLayerStep: inProj.A and inProj.B must be given together');
    });
  });
});
