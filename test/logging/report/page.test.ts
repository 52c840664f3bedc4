// SPDX-License-Identifier: Apache-2.0
/** The report's page as text, and the run folders that it refuses. */
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.ts';
import { writeReport } from '../../../src/logging/report/page.ts';
import { readRun } from '../../../src/logging/report/read_run.ts';
import { temporaryFolder } from '../../helpers/temporary_folder.ts';
import { writeRun } from './run_files.ts';

function page(...folders: string[]): string {
  const path = join(temporaryFolder(), 'report.html');
  writeReport(folders, path);
  return readFileSync(path, 'utf8');
}

/** What a reader of the page reads: without tags, styles and scripts. */
function textOf(html: string): string {
  return html
    .replace(/<(style|script)[\s\S]*?<\/\1>/g, '')
    .replace(/<[^>]+>/g, ' ')
    .replace(/\s+/g, ' ');
}

describe('the page of a run', () => {
  const run = () => writeRun(join(temporaryFolder(), 'my-run'));

  it('shows its figures', () => {
    const text = textOf(page(run()));
    expect(text).toContain('my-run finished models/mamba-5m · lora, r = 8 · train.jsonl · 2026-11-24 07:36 UTC');
    expect(text).toContain('evaluation loss 3.900 4.100 at step 20');
    expect(text).toContain('perplexity 49.4');
    expect(text).toContain('steps 60 1.2 epochs');
    expect(text).toMatch(/tokens a second 5,\d\d\d 15,000 in all/);
    expect(text).toContain('peak memory 132 MiB');
    expect(text).toContain('trainable parameters 201,728 of 4,754,688 (4.24 %)');
    expect(text).toContain('training data train.jsonl: 840 examples, 43,000 tokens, 43,000 with loss');
    expect(text).toContain('machine cpu EPYC, threads 2, 8.00 GiB of memory');
    expect(text).toContain('learning_rate: 0.002');
  });

  it('draws a curve of each kind, with its values for the pointer', () => {
    const html = page(run());
    const titles = [...html.matchAll(/<figcaption><b>([^<]+)<\/b>/g)].map(([, title]) => title);
    expect(titles).toEqual(['Loss', 'Learning rate', 'Gradient norm', 'Throughput', 'Growth of the adapter']);
    const data = [...html.matchAll(/<script type="application\/json">(.*?)<\/script>/g)].map(
      ([, json]) => JSON.parse(String(json)) as { label: string; points: [number, number, number, string][] }[],
    );
    expect(data[0]?.map(({ label }) => label)).toEqual(['training', 'evaluation']);
    expect(data[0]?.[0]?.points).toHaveLength(60);
    expect(data[0]?.[0]?.points.at(-1)?.slice(2)).toEqual([60, '4']);
    expect(data[0]?.[1]?.points.map((point) => point.slice(2))).toEqual([
      [20, '4.1'],
      [40, '4'],
      [60, '3.9'],
    ]);
    expect(data[4]?.map(({ label }) => label)).toEqual(['embeddings', 'in_proj', 'x_proj']);
    expect(html).toContain(
      'aria-label="Loss. training: 4.79 at step 1, 4 at step 60; evaluation: 4.1 at step 20, 3.9 at step 60."',
    );
  });

  it('shows the norms of the last step by layer and module, coloured by the layers alone', () => {
    const html = page(run());
    const cells = [...html.matchAll(/<td class="(\w*)" style="--v:([\d.]+)"[^>]*>([^<]+)<\/td>/g)].map((match) =>
      match.slice(1),
    );
    expect(cells).toEqual([
      ['', '0.333', '1.5 %'],
      ['', '0.296', '1.3 %'],
      ['', '0.667', '3 %'],
      ['', '0.444', '2 %'],
      ['hot', '1.000', '4.5 %'],
      ['', '0.593', '2.7 %'],
      ['hot', '1.000', '20 %'],
    ]);
    expect(textOf(html)).toContain(
      'layer in_proj x_proj 0 1.5 % 1.3 % 1 3 % 2 % 2 4.5 % 2.7 % whole model embeddings 20 %',
    );
  });

  it('shows samples before and after, and those between folded away', () => {
    const text = textOf(page(run()));
    expect(text).toContain(
      'politician, n. before training before step 60 written at step 60 between step 20 written at step 20 step 40 written at step 40',
    );
  });

  it('shows what got a gradient and what was not checked', () => {
    const text = textOf(page(run()));
    expect(text).toContain('1 of 2 trainable tensors were seen to get a gradient');
    expect(text).toContain('layers.0.in_proj.lora_A.weight 8 × 256 0.25 2');
    expect(text).toContain('layers.0.in_proj.lora_B.weight 1024 × 8 not checked –');
  });

  it('is whole by itself', () => {
    const html = page(run());
    expect(html).not.toMatch(/https?:|\bsrc=|\bhref=|@import|url\(/);
    expect(html).toContain(`content="default-src 'none';`);
  });

  it('escapes what files say', () => {
    const bad = '</script><img src=x onerror=alert(1)>"&\'';
    const folder = writeRun(join(temporaryFolder(), 'run'), {
      record: { status: 'failed', error: bad, model: { name: bad } },
      lines: [{ step: 0, samples: [{ prompt: bad, completion: bad }] }],
    });
    const html = page(folder);
    expect(html).not.toContain('<img');
    expect(
      html.split('&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&amp;&#39;').length,
    ).toBeGreaterThanOrEqual(5);
  });

  it('of one that failed at once says why, without curves', () => {
    const folder = writeRun(join(temporaryFolder(), 'run'), {
      steps: 0,
      record: { status: 'failed', error: 'no room' },
    });
    const html = page(folder);
    expect(textOf(html)).toContain('run failed');
    expect(textOf(html)).toContain('run: no room');
    expect(html).not.toContain('<figure');
  });

  it('leaves gaps where values are not finite', () => {
    const line = {
      epoch: 0,
      loss: null,
      grad_norm: null,
      learning_rate: 0.1,
      tokens: 1,
      tokens_per_second: null,
      peak_memory_bytes: 1,
    };
    const folder = writeRun(join(temporaryFolder(), 'run'), { steps: 0, lines: [{ step: 1, ...line }] });
    const html = page(folder);
    expect(textOf(html)).toContain('training loss not finite');
    expect(html).not.toContain('NaN');
  });
});

describe('the page of several runs', () => {
  it('draws them in one picture and shows in what they differ', () => {
    const parent = temporaryFolder();
    const html = page(writeRun(join(parent, 'low')), writeRun(join(parent, 'high'), { learningRate: 0.01, steps: 40 }));
    const text = textOf(html);
    expect(text).toContain('low, high 2 runs compared');
    expect(text).toContain('eval loss 3.900 4.000');
    expect(text).toContain('trainer.learning_rate 0.002 0.01');
    expect(text).not.toContain('adapter.r 8');
    expect(text).not.toContain('trainer.output_dir');
    expect(html).toMatch(/<b>Loss<\/b>.*<em class="c0">low<\/em><em class="c1">high<\/em>/);
    expect(text).toContain('low, before training before low, step 60 written at step 60 high, before training');
  });

  it('tells runs of the same name apart', () => {
    const parent = temporaryFolder();
    const [a, b] = [writeRun(join(parent, 'a', 'run')), writeRun(join(parent, 'b', 'run'))];
    expect(textOf(page(a, b))).toContain(`${a}, ${b} 2 runs compared`);
    expect(textOf(page(a, b))).toContain('The settings of the runs are the same.');
  });
});

describe('a run folder', () => {
  const refusal = (folder: string) => {
    try {
      readRun(folder);
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      return (error as Error).message.replace(folder, 'RUN');
    }
    return 'accepted';
  };

  it('without run.json is none', () => {
    expect(refusal('/nowhere/run')).toBe(
      'RUN: found no run.json; expected the folder of a run (trainer.output_dir of its config).',
    );
  });

  it('of a run still going may end in half a line, and lack what comes later', () => {
    const folder = writeRun(join(temporaryFolder(), 'run'), { steps: 5 });
    appendFileSync(join(folder, 'metrics.jsonl'), '{"step": 6, "lo');
    rmSync(join(folder, 'coverage.json'));
    expect(readRun(folder).training).toHaveLength(5);
    rmSync(join(folder, 'metrics.jsonl'));
    rmSync(join(folder, 'config.yaml'));
    expect(readRun(folder)).toMatchObject({ training: [], coverage: [], config: null });
  });

  it('that is damaged is refused with the place', () => {
    const folder = writeRun(join(temporaryFolder(), 'run'), { steps: 1 });
    writeFileSync(join(folder, 'metrics.jsonl'), '{"step": 1, "eval_loss": 2}\n{"step"\n');
    expect(refusal(folder)).toMatch(/^RUN\/metrics.jsonl:1: epoch: .*number/);
    writeFileSync(join(folder, 'metrics.jsonl'), '{"step"\n');
    expect(refusal(folder)).toMatch(/^RUN\/metrics.jsonl:1:8: this is not valid JSON/);
    writeFileSync(join(folder, 'metrics.jsonl'), '[1]\n');
    expect(refusal(folder)).toBe('RUN/metrics.jsonl:1: found [1]; expected a JSON object.');
    writeFileSync(join(folder, 'metrics.jsonl'), '');
    writeFileSync(join(folder, 'coverage.json'), '{}');
    expect(refusal(folder)).toMatch(/^RUN\/coverage.json: .*array/);
  });
});
