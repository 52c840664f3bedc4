// SPDX-License-Identifier: Apache-2.0
/** The built `mambatune` as a process of its own: exit codes, pipes that close, Ctrl-C. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

let outDir: string;
let bin: string;
beforeAll(async () => {
  mkdirSync('build', { recursive: true });
  outDir = mkdtempSync(resolve('build', 'test-cli-'));
  bin = join(outDir, 'src', 'cli', 'main.js');
  await promisify(execFile)(join('node_modules', '.bin', 'tsc'), ['-p', 'tsconfig.build.json', '--outDir', outDir]);
}, 300_000);
afterAll(() => rmSync(outDir, { recursive: true, force: true }));

/** Nearly every token is as likely as any other, so that the text goes on and on. */
const ENDLESS = [
  ...['generate', '--backend', testedBackends()[0] as string, '--model', 'models/mamba-5m', '--prompt', 'a'],
  ...['--temperature', '1000', '--top-k', '0', '--seed', '1', '--max-new-tokens', '1000000', '--stream'],
];

interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** @param act gets the process and what it has written so far, after each piece */
function run(
  path: string,
  argv: readonly string[],
  act: (child: ChildProcess, output: string) => void = () => {},
): Promise<Run> {
  const child = spawn(process.execPath, [path, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (piece: Buffer) => {
      output[name] += piece;
      act(child, output.stdout + output.stderr);
    });
  }
  return new Promise((end) => child.on('close', (code) => end({ code, ...output })));
}

test('runs through a link, as npm installs it', async () => {
  const link = join(temporaryFolder(), 'mambatune');
  symlinkSync(bin, link);
  expect(await run(link, ['--version'])).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^\d+\.\d+\.\d+/) as string,
  });
});

test('exit codes reach the shell, stdout holds one JSON value', async () => {
  const { code, stdout } = await run(bin, ['eval', 'no/such.yaml', '--json']);
  expect(code).toBe(2);
  expect(JSON.parse(stdout)).toMatchObject({ error: { kind: 'user', exit_code: 2 } });
});

test('a reader that goes away ends it quietly', async () => {
  const { code, stderr } = await run(bin, ENDLESS, (child, output) => {
    if (output.includes('a')) child.stdout?.destroy();
  });
  expect(code).toBe(0);
  expect(stderr).not.toMatch(/EPIPE|error/);
});

test('Ctrl-C in generate exits with 130', async () => {
  let sent = false;
  const { code, stdout, stderr } = await run(bin, ENDLESS, (child, output) => {
    if (sent || output.length < 200) return;
    sent = child.kill('SIGINT');
  });
  expect(code).toBe(130);
  expect(stdout.length).toBeGreaterThan(1);
  expect(stderr).toMatch(/error: interrupted \(SIGINT\)\n$/);
});

test('Ctrl-C in train saves and exits with 130', async () => {
  const folder = join(temporaryFolder(), 'run');
  const settings = ['max_steps=100000', 'logging_steps=1', `output_dir=${folder}`, `backend=${testedBackends()[0]}`];
  const argv = [
    'train',
    'configs/quickstart.yaml',
    '--json',
    ...settings.flatMap((setting) => ['--set', `trainer.${setting}`]),
  ];
  let sent = false;
  const { code, stdout } = await run(bin, argv, (child, output) => {
    if (sent || !/step +1\/100000/.test(output)) return;
    sent = child.kill('SIGINT');
  });
  expect(code).toBe(130);
  expect(JSON.parse(stdout)).toMatchObject({ error: { kind: 'interrupted', exit_code: 130 } });
  expect(existsSync(join(folder, 'adapter', 'adapter_model.safetensors'))).toBe(true);
}, 120_000);
