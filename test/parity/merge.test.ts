// SPDX-License-Identifier: Apache-2.0
/** Merging against peft: what transformers computes with the merged folder, and what peft makes of a tied model and of an export. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { mergeAdapter } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { readGolden } from '../golden/golden.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type Python, startPython } from './python.ts';

const interpreter = inject('python');

describe.runIf(interpreter)('merging', () => {
  let python: Python;
  beforeAll(async () => {
    await selectBackend(bestBackend);
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Array.from(a).reduce((max, value, i) => Math.max(max, Math.abs(value - (b[i] as number))), 0);
  const merge = async (name: string, output: string, peftCompatible = false) => {
    const golden = readGolden(name);
    const base = openStreamedModel(join(golden.folder, 'model'));
    const probe = { source: 'golden', inputIds: golden.rows('input_ids')[0] ?? [] };
    await mergeAdapter(base, join(golden.folder, 'adapter'), output, probe, { peftCompatible });
    base.close();
    return golden;
  };

  it.each(['tied', 'rslora'])('%s: logits within 1e-4 where merge_and_unload changes them', async (name) => {
    const output = join(temporaryFolder(), 'merged');
    const golden = await merge(name, output);
    const input_ids = golden.rows('input_ids');
    const { logits } = await python.ask<{ logits: number[] }>('model_logits', { model: output, input_ids });
    const request = { model: join(golden.folder, 'model'), adapter: join(golden.folder, 'adapter'), input_ids };
    const { before, after } = await python.ask<{ before: number[]; after: number[] }>('merged_by_peft', request);
    console.log(
      `${name}: largest difference of a logit: here ${largest(logits, before)}, peft ${largest(after, before)}`,
    );
    expect(largest(logits, before)).toBeLessThan(1e-4);
    expect(largest(after, before)).toBeGreaterThan(0.1);
  });

  it('falcon_mamba: the merged folder gives the adapted logits in transformers', async () => {
    const output = join(temporaryFolder(), 'merged');
    const golden = await merge('falcon_mamba', output);
    const request = { model: output, input_ids: golden.rows('input_ids') };
    const { logits } = await python.ask<{ logits: number[] }>('model_logits', request);
    expectClose(logits, golden.floats('lora_logits'), { rtol: 0, atol: 1e-4 });
  });

  it('an adapter that peft refuses loads there after the export, with equal logits', async () => {
    const output = join(temporaryFolder(), 'export');
    const golden = await merge('tied', output, true);
    const input_ids = golden.rows('input_ids');
    const original = { model: join(golden.folder, 'model'), adapter: join(golden.folder, 'adapter'), input_ids };
    await expect(python.ask('checked_adapter_logits', original)).rejects.toThrow(/ValueError.*out_proj/);
    const exported = { model: join(output, 'model'), adapter: join(output, 'adapter'), input_ids };
    const { logits } = await python.ask<{ logits: number[] }>('checked_adapter_logits', exported);
    expectClose(logits, golden.floats('lora_logits'), { rtol: 0, atol: 1e-4 });
  });
});
