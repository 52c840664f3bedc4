// SPDX-License-Identifier: Apache-2.0
/** Merging a checkpoint of mamba-2.8b's widths stays under 2 GB of resident memory, whatever the number of layers. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LoraConfig } from '../../adapters/index.ts';
import { adapterShapes, targetedModules } from '../../adapters/targets.ts';
import { expectedTensors } from '../../src/checkpoint/expected_tensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { saveCheckpoint } from '../../src/checkpoint/save_checkpoint.ts';
import { rowChunks } from '../../src/checkpoint/tensor_source.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const TARGETS = ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj'];
const PRINT_PEAK = 'process.on("exit", () => console.error("peak", process.resourceUsage().maxRSS));';

/** Cheap values that differ from each other and are of a trained model's size. */
function values(count: number, scale: number, seed: number): Float32Array {
  const data = new Float32Array(count);
  for (let i = 0, word = seed; i < count; i++) {
    word = (Math.imul(word, 1664525) + 1013904223) | 0;
    data[i] = (word / 2 ** 31) * scale;
  }
  return data;
}

/** A bfloat16 checkpoint in shards, with the widths of mamba-2.8b, and an adapter on all of it. */
async function writePair(folder: string, numHiddenLayers: number): Promise<void> {
  const config = new MambaConfig({ vocabSize: 50280, hiddenSize: 2560, numHiddenLayers });
  const tensors = Array.from(expectedTensors(config), ([name, shape], seed) => ({
    name,
    shape,
    dtype: 'BF16' as const,
    *data() {
      const width = shape.slice(1).reduce((product, size) => product * size, 1);
      for (const { start, count } of rowChunks(shape)) yield values(count * width, 0.02, seed + start);
    },
  }));
  await saveCheckpoint(join(folder, 'model'), config, tensors, { maxShardSize: 2e8 });
  const model = openStreamedModel(join(folder, 'model'));
  const lora = new LoraConfig({ r: 8, targetModules: TARGETS });
  const adapter = targetedModules(model, lora)
    .flatMap((module) => adapterShapes(module, lora))
    .map(([name, shape], seed) => ({
      name,
      shape,
      dtype: 'F32' as const,
      data: () =>
        values(
          shape.reduce((product, size) => product * size),
          0.02,
          seed,
        ),
    }));
  model.close();
  writeSafetensors(join(folder, 'adapter_model.safetensors'), adapter, { format: 'pt' });
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify(lora.toJSON()));
}

it.each([2, 6])('%i layers of mamba-2.8b', async (layers) => {
  const folder = temporaryFolder();
  await writePair(folder, layers);
  const preload = join(folder, 'preload.mjs');
  writeFileSync(preload, PRINT_PEAK);
  const merge = ['merge', '--model', join(folder, 'model'), '--adapter', folder, '--output', join(folder, 'merged')];
  const argv = ['--import', preload, 'dist/src/cli/main.js', ...merge, '--backend', 'native', '--json'];
  const stderr = join(folder, 'stderr');
  const receipt = JSON.parse(
    execFileSync('sh', ['-c', `exec "$0" "$@" 2> "${stderr}"`, process.execPath, ...argv], { encoding: 'utf8' }),
  ) as { merged_modules: string[]; result: { dtypes: string[] } };
  expect(receipt.merged_modules).toHaveLength(1 + 4 * layers);
  expect(receipt.result.dtypes).toEqual(['BF16']);
  const kibibytes = Number(/^peak (\d+)$/m.exec(readFileSync(stderr, 'utf8'))?.[1]);
  console.log(`${layers} layers: peak resident memory ${Math.round(kibibytes / 1024)} MiB`);
  expect(kibibytes * 1024).toBeLessThan(2e9);
});
