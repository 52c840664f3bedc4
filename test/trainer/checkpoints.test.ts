// SPDX-License-Identifier: Apache-2.0
/** Checkpoints are whole or absent, and the oldest go first. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import type { PeftModel } from '../../adapters/index.ts';
import { pruneCheckpoints, saveTrainingCheckpoint } from '../../trainer/checkpoints.ts';
import { createAdamw, type Optimizer } from '../../trainer/optimizer.ts';
import type { TrainerState } from '../../trainer/trainer_state.ts';
import { onBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { goldenAdapter } from './tiny_run.ts';

const state = JSON.parse(readFileSync('test/helpers/trainer_state.json', 'utf8')) as TrainerState;

onBackend('cpu', () => {
  it('leaves the earlier checkpoint, and no other trace, when one cannot be written to its end', async () => {
    const folder = temporaryFolder();
    const adapter = await goldenAdapter('tied', 'cpu');
    const settings = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 1 };
    const optimizer = createAdamw(adapter.model.trainableParameters(), settings);
    const path = await saveTrainingCheckpoint(folder, adapter, optimizer, state);
    expect(path).toBe(join(folder, 'checkpoint-7'));
    const weights = readFileSync(join(path, 'adapter_model.safetensors'));

    const failing: Optimizer = {
      ...optimizer,
      step: 0,
      tensors: () => {
        throw new Error('no more');
      },
    };
    for (const tensor of adapter.tensors().values()) tensor.assign(tf.zerosLike(tensor));
    await expect(saveTrainingCheckpoint(folder, adapter, failing, state)).rejects.toThrow('no more');
    expect(readdirSync(folder)).toEqual(['checkpoint-7']);
    expect(readFileSync(join(path, 'adapter_model.safetensors')).equals(weights)).toBe(true);

    const broken = {
      savePretrained: async (to: string) => writeFileSync(join(to, 'half'), ''),
    } as unknown as PeftModel;
    await expect(saveTrainingCheckpoint(folder, broken, failing, { ...state, step: 8 })).rejects.toThrow('no more');
    expect(readdirSync(folder)).toEqual(['checkpoint-7']);
    optimizer.dispose();
    adapter.model.dispose();
  });
});

it('prunes by step, not by name', () => {
  const folder = temporaryFolder();
  for (const name of ['checkpoint-9', 'checkpoint-100', 'checkpoint-20', 'checkpoint-x', 'adapter']) {
    mkdirSync(join(folder, name));
  }
  pruneCheckpoints(folder, 2, null);
  expect(readdirSync(folder).sort()).toEqual(['adapter', 'checkpoint-100', 'checkpoint-20', 'checkpoint-x']);
});

it('keeps the best one beyond the limit', () => {
  const folder = temporaryFolder();
  for (const step of [1, 2, 3, 4]) mkdirSync(join(folder, `checkpoint-${step}`));
  pruneCheckpoints(folder, 1, 2);
  expect(readdirSync(folder).sort()).toEqual(['checkpoint-2', 'checkpoint-4']);
  pruneCheckpoints(folder, 1, 4);
  expect(readdirSync(folder).sort()).toEqual(['checkpoint-4']);
});
