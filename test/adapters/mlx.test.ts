// SPDX-License-Identifier: Apache-2.0
/** Adapters to mlx-lm and back. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readAdapterFolder } from '../../adapters/adapter_folder.ts';
import { type ConvertOptions, convertAdapter } from '../../adapters/index.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { UserError } from '../../src/errors.ts';
import { COMBINE_FOLDER } from '../golden/combine.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { changedAdapter } from './adapter_copy.ts';

const C = join(COMBINE_FOLDER, 'c');

function mlxFolder(
  config: Record<string, unknown>,
  tensors: Record<string, { shape: number[]; data: number[] }>,
): string {
  const folder = join(temporaryFolder(), 'mlx');
  mkdirSync(folder);
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify(config));
  writeSafetensors(
    join(folder, 'adapters.safetensors'),
    Object.entries(tensors).map(([name, { shape, data }]) => ({
      name,
      shape,
      dtype: 'F32',
      data: () => Float32Array.from(data),
    })),
  );
  return folder;
}

const SMALL = {
  'backbone.layers.1.mixer.x_proj.lora_a': { shape: [3, 2], data: [1, 2, 3, 4, 5, 6] },
  'backbone.layers.1.mixer.x_proj.lora_b': { shape: [2, 1], data: [7, 8] },
};
const PARAMETERS = { fine_tune_type: 'lora', num_layers: 2, lora_parameters: { rank: 2, scale: 10, dropout: 0.1 } };

it('mlx-lm to peft: transposed, alpha = scale r, only what is there targeted', async () => {
  const output = join(temporaryFolder(), 'peft');
  const folder = mlxFolder({ ...PARAMETERS, model: 'some/mamba' }, SMALL);
  const result = await convertAdapter(folder, output);
  expect(result).toEqual({
    from: 'mlx',
    to: 'peft',
    r: 2,
    scale: 10,
    modules: ['backbone.layers.1.mixer.x_proj'],
    dropped: [],
  });
  const { config, modules } = readAdapterFolder(output);
  expect(config).toMatchObject({
    r: 2,
    loraAlpha: 20,
    loraDropout: 0.1,
    baseModelNameOrPath: 'some/mamba',
    targetModules: ['backbone.layers.1.mixer.x_proj'],
  });
  expect(modules.get('backbone.layers.1.mixer.x_proj')).toMatchObject({
    scaling: 10,
    A: { shape: [2, 3], data: Float32Array.of(1, 3, 5, 2, 4, 6) },
    B: { shape: [1, 2], data: Float32Array.of(7, 8) },
  });
});

it("mlx-lm's default scale is 20", async () => {
  const folder = mlxFolder({ lora_parameters: { rank: 2 } }, SMALL);
  expect((await convertAdapter(folder, join(temporaryFolder(), 'peft'))).scale).toBe(20);
});

it('peft to mlx-lm and back is the same adapter, bit for bit', async () => {
  const folder = temporaryFolder();
  const there = await convertAdapter(C, join(folder, 'mlx'), { embeddings: 'convert' });
  expect(there).toMatchObject({ from: 'peft', to: 'mlx', r: 3 });
  const config = JSON.parse(readFileSync(join(folder, 'mlx', 'adapter_config.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  expect(config).toMatchObject({ fine_tune_type: 'lora', num_layers: 2, lora_parameters: { rank: 3, scale: 5 / 3 } });
  expect((config.lora_parameters as { keys: string[] }).keys).toContain('backbone.layers.1.mixer.x_proj');
  const source = openSafetensors(join(folder, 'mlx', 'adapters.safetensors'));
  expect(source.entries.get('backbone.embeddings.lora_a')?.shape).toEqual([97, 3]);
  expect(source.entries.get('backbone.embeddings.lora_b')?.shape).toEqual([3, 32]);
  source.close();
  await convertAdapter(join(folder, 'mlx'), join(folder, 'peft'), { embeddings: 'convert' });
  const [before, after] = [C, join(folder, 'peft')].map((path) => readAdapterFolder(path));
  for (const [name, module] of before?.modules ?? []) {
    expect(after?.modules.get(name), name).toMatchObject({ kind: module.kind, A: module.A, B: module.B });
    expect(after?.modules.get(name)?.scaling, name).toBeCloseTo(module.scaling, 12);
  }
});

it('mlx-lm has one rank: lower ones are filled with zeros, and their scalings kept in lora_b', async () => {
  const key = 'base_model.model.backbone.layers.0.mixer.x_proj';
  const mixed = changedAdapter(C, {
    config: { rank_pattern: { '0.mixer.x_proj': 1 } },
    tensors: (tensors) => {
      const B = tensors.get(`${key}.lora_B.weight`);
      tensors.set(`${key}.lora_A.weight`, { shape: [1, 64], data: new Float32Array(64).fill(2) });
      tensors.set(`${key}.lora_B.weight`, {
        shape: [B?.shape[0] ?? 0, 1],
        data: new Float32Array(B?.shape[0] ?? 0).fill(3),
      });
    },
  });
  const output = join(temporaryFolder(), 'mlx');
  expect(await convertAdapter(mixed, output, { embeddings: 'drop' })).toMatchObject({ r: 3, scale: 1 });
  const source = openSafetensors(join(output, 'adapters.safetensors'));
  const name = 'backbone.layers.0.mixer.x_proj';
  expect([...source.readFloat32(`${name}.lora_a`, { start: 0, count: 1 })]).toEqual([2, 0, 0]);
  const lora_b = source.readFloat32(`${name}.lora_b`);
  expect(new Set(lora_b.subarray(0, lora_b.length / 3))).toEqual(new Set([15]));
  expect(new Set(lora_b.subarray(lora_b.length / 3))).toEqual(new Set([0]));
  source.close();
});

describe('adapters of the embeddings', () => {
  it('are refused without a policy, with the reason', async () => {
    const output = join(temporaryFolder(), 'mlx');
    await expect(convertAdapter(C, output)).rejects.toThrow(
      /it adapts the embeddings\. mlx-lm applies that to a tied head as well, peft to the lookup alone/,
    );
    expect(existsSync(output)).toBe(false);
  });

  it('can be left out', async () => {
    const output = join(temporaryFolder(), 'mlx');
    const { dropped, modules } = await convertAdapter(C, output, { embeddings: 'drop' });
    expect(dropped).toEqual(['backbone.embeddings']);
    expect(modules).not.toContain('backbone.embeddings');
    const only = mlxFolder(PARAMETERS, {
      'backbone.embeddings.lora_a': { shape: [1, 2], data: [1, 2] },
      'backbone.embeddings.lora_b': { shape: [2, 1], data: [1, 2] },
    });
    const work = convertAdapter(only, join(temporaryFolder(), 'peft'), { embeddings: 'drop' });
    await expect(work).rejects.toThrow(/it adapts the embeddings only; nothing is left without/);
  });
});

describe('what does not convert', () => {
  const fails = async (folder: string, message: RegExp, options: ConvertOptions = { embeddings: 'drop' }) => {
    const output = join(temporaryFolder(), 'out');
    const work = convertAdapter(folder, output, options);
    await expect(work).rejects.toThrow(UserError);
    await expect(work).rejects.toThrow(message);
    expect(existsSync(output)).toBe(false);
  };

  it('a folder that is no adapter', () =>
    fails(temporaryFolder(), /found neither adapter_model\.safetensors \(peft\) nor/));
  it('other kinds of training', () =>
    fails(
      mlxFolder({ ...PARAMETERS, fine_tune_type: 'full' }, SMALL),
      /fine_tune_type is "full"; only "lora" converts/,
    ));
  it('no parameters', () => fails(mlxFolder({}, SMALL), /expected an object "lora_parameters"/));
  it('a rank that is none', () =>
    fails(
      mlxFolder({ lora_parameters: { rank: 0 } }, SMALL),
      /lora_parameters has rank 0, scale 20, dropout 0; expected/,
    ));
  it('a rank that is not the tensors’', () =>
    fails(mlxFolder({ lora_parameters: { rank: 3 } }, SMALL), /lora_a \[3,2\] and lora_b \[2,1\], and .* says rank 3/));
  it('adapters of the convolution, which mlx-lm has not', () => {
    const prefix = 'base_model.model.backbone.layers.0.mixer.conv1d';
    const conv = changedAdapter(C, {
      tensors: (tensors) => {
        tensors.set(`${prefix}.lora_A.weight`, { shape: [3, 4], data: new Float32Array(12) });
        tensors.set(`${prefix}.lora_B.weight`, { shape: [64, 3], data: new Float32Array(192) });
      },
    });
    return fails(conv, /it adapts backbone\.layers\.0\.mixer\.conv1d, and mlx-lm has no adapters of convolutions/);
  });
  it('half a pair', () =>
    fails(mlxFolder(PARAMETERS, { 'a.lora_b': { shape: [2, 1], data: [7, 8] } }), /a has lora_b without lora_a/));
  it('tensors that peft has no place for', () =>
    fails(
      mlxFolder(PARAMETERS, { ...SMALL, 'backbone.layers.1.mixer.x_proj.m': { shape: [1], data: [1] } }),
      /1 tensors besides lora_A and lora_B \(such as .*x_proj\.m\), and peft has no place for that/,
    ));
  it('NaN', () =>
    fails(
      mlxFolder(PARAMETERS, {
        ...SMALL,
        'backbone.layers.1.mixer.x_proj.lora_b': { shape: [2, 1], data: [1, Number.NaN] },
      }),
      /lora_B of backbone\.layers\.1\.mixer\.x_proj holds NaN at element 1/,
    ));
});
