// SPDX-License-Identifier: Apache-2.0
/** configs/english_quotes.yaml from a Hub: model, tokenizer and dataset fetched into an empty cache, then trained. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { testedBackends } from '../helpers/backends.ts';
import { startHubServer } from '../helpers/hub_server.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { runCli, runJson } from './run_cli.ts';

const MODEL = 'models/mamba-5m';

afterEach(() => vi.unstubAllEnvs());

test('trains from the Hub, and a second time without it', async () => {
  const folder = temporaryFolder();
  const hub = await startHubServer({
    'state-spaces/mamba-130m-hf': Object.fromEntries(
      readdirSync(MODEL).map((name) => [name, readFileSync(join(MODEL, name))]),
    ),
    'datasets/Abirate/english_quotes': {
      'README.md': '# quotes',
      'quotes.jsonl': [
        '{"quote": "“Be yourself; everyone else is already taken.”", "author": "Oscar Wilde", "tags": ["be-yourself"]}',
        '{"quote": "“So many books, so little time.”", "author": "Frank Zappa", "tags": ["books"]}',
      ].join('\n'),
    },
  });
  vi.stubEnv('HF_ENDPOINT', hub.url);
  vi.stubEnv('HF_HOME', join(folder, 'hub'));
  const train = (output: string) => [
    'train',
    'configs/english_quotes.yaml',
    '--set',
    `trainer.output_dir=${join(folder, output)}`,
    '--set',
    `trainer.backend=${testedBackends()[0]}`,
  ];
  const first = await runJson<{ steps: number; losses: number[]; adapter_folder: string }>(train('first'));
  expect(first.stderr).not.toContain('error');
  expect(first.value.steps).toBe(3);
  const config = JSON.parse(readFileSync(join(first.value.adapter_folder, 'adapter_config.json'), 'utf8')) as object;
  expect(config).toMatchObject({ base_model_name_or_path: 'state-spaces/mamba-130m-hf', r: 8 });

  await hub.close();
  const again = await runJson<{ losses: number[] }>(train('again'));
  expect(again.stderr).toContain('state-spaces/mamba-130m-hf');
  expect(again.value.losses).toEqual(first.value.losses);

  vi.stubEnv('HF_HOME', join(folder, 'empty'));
  const offline = await runCli(train('offline'));
  expect(offline.code).toBe(1);
  expect(offline.stderr).toContain('english_quotes');
});
