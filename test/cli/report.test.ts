// SPDX-License-Identifier: Apache-2.0
/** mambatune report. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { writeRun } from '../logging/report/run_files.ts';
import { runCli } from './run_cli.ts';

describe('mambatune report', () => {
  it('writes the page into the folder of the run, and says where', async () => {
    const run = writeRun(join(temporaryFolder(), 'run'));
    const { code, stdout } = await runCli(['report', run]);
    expect([code, stdout]).toEqual([0, `${join(run, 'report.html')}\n`]);
    expect(readFileSync(join(run, 'report.html'), 'utf8')).toMatch(/^<!doctype html>/);
  });

  it('compares runs, into a file of choice', async () => {
    const folder = temporaryFolder();
    const runs = [writeRun(join(folder, 'a')), writeRun(join(folder, 'b'))];
    const output = join(folder, 'pages', 'both.html');
    const { code, stdout } = await runCli(['report', ...runs, '--output', output, '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({ report: output, runs });
    expect(readFileSync(output, 'utf8')).toContain('2 runs compared');
    expect(existsSync(join(folder, 'a', 'report.html'))).toBe(false);
  });

  it('refuses a folder that holds no run', async () => {
    const folder = temporaryFolder();
    const { code, stderr } = await runCli(['report', folder]);
    expect(code).toBe(1);
    expect(stderr).toContain('found no run.json; expected the folder of a run');
  });
});
