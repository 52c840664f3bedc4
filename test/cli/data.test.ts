// SPDX-License-Identifier: Apache-2.0
/** mambatune data preview: tokens with their mask, counts and lengths. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { DataPreview } from '../../src/cli/preview_data.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

/** A config over records of the given objects. */
function project(records: object[], data = ''): { config: string; file: string } {
  const folder = temporaryFolder();
  const [file, config] = [join(folder, 'train.jsonl'), join(folder, 'run.yaml')];
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  writeFileSync(
    config,
    `model: {path: models/mamba-5m}\ndata: {train: {path: ${JSON.stringify(file)}}, shuffle: false${data}}\n` +
      'trainer: {output_dir: x, per_device_train_batch_size: 2}\n',
  );
  return { config, file };
}

const PAIRS = [
  { prompt: 'love, n.', completion: ' A temporary insanity.' },
  { prompt: 'year, n.', completion: ' A period of three hundred and sixty-five disappointments.\nAnd so on.' },
  { prompt: 'hope, n.', completion: ' Wait.' },
];

afterEach(() => vi.unstubAllEnvs());

describe('data preview', () => {
  it('shows what carries loss, counts, lengths and padding', async () => {
    const { config, file } = project(PAIRS);
    const { code, stdout, stderr } = await runCli(['data', 'preview', config, '--records', '2']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(`${file}:1  `);
    expect(stdout).toContain('love, n.⟦ A temporary insanity.<|endoftext|>⟧\n');
    expect(stdout).toContain('disappointments.⏎\nAnd so on.<|endoftext|>⟧\n');
    expect(stdout).not.toContain('hope');
    expect(stdout).toMatch(/\n3 records, 3 examples, \d+ tokens, \d+ with loss \(\d\d\.\d %\)\n/);
    expect(stdout).toMatch(/\ntokens an example: \d+ to \d+, median \d+, 95th percentile \d+\n {2}[ \d-]+ █+ 1\n/);
    expect(stdout).toMatch(/\n3 rows in batches of 2: \d+\.\d % padding\n$/);
  });

  it('colours by the mask where there are colours', async () => {
    vi.stubEnv('FORCE_COLOR', '1');
    vi.stubEnv('NO_COLOR', '');
    const { stdout } = await runCli(['data', 'preview', project(PAIRS).config, '--records', '1']);
    const [first = '', answer = ''] = stdout.split(' A');
    expect(first).toContain('\x1b[2m');
    expect(first.split('\x1b[32m')).toHaveLength(2);
    expect(answer).not.toContain('\x1b[2m');
    expect(stdout).not.toContain('⟦');
  });

  it('gives all of it as JSON', async () => {
    const { config, file } = project(PAIRS, ', packing: true, max_length: 32');
    const { code, value } = await runJson<Record<string, unknown>>(['data', 'preview', config, '--records', '1']);
    expect(code).toBe(0);
    expect(value).toMatchObject({ name: file, records: 3, examples: 3, skipped: 0, max_length: 32 });
    const [shown] = value.shown as DataPreview['shown'];
    const text = (loss: boolean) =>
      (shown?.tokens ?? []).filter((token) => token.loss === loss).map((token) => token.text);
    expect(text(false).join('')).toBe('love, n.');
    expect(text(true).join('')).toBe(' A temporary insanity.<|endoftext|>');
    const { histogram } = value.lengths as DataPreview['lengths'];
    expect(histogram.reduce((sum, { count }) => sum + count, 0)).toBe(3);
    expect(value.batches).toMatchObject({ batch_size: 2, rows: 2, packed: true });
  });

  it('needs a config, and records of the part', async () => {
    const { config } = project(PAIRS);
    const missing = await runJson<JsonError>(['data', 'preview', config, '--part', 'eval']);
    expect(missing).toMatchObject({
      code: 2,
      value: { error: { message: '--part eval: the config has no data.eval' } },
    });
    expect(await runCli(['data'])).toMatchObject({ code: 2, stderr: expect.stringContaining('preview') });
    expect(await runCli(['data', 'preview'])).toMatchObject({ code: 2 });
  });
});
