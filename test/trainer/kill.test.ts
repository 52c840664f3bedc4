// SPDX-License-Identifier: Apache-2.0
/** The train command against what the system does to processes: SIGKILL, SIGTERM, a limit on files. The long one: test/slow. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { readCheckpoint } from '../../trainer/checkpoints.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { expectSameRun } from './compare_runs.ts';
import { configFile, trainProcess, trainThroughKills } from './killed_run.ts';
import { readRecord, type TinyProject, tinyProject } from './tiny_project.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

function killConfig(project: TinyProject, trainer: object = {}): RunConfig {
  const steps = { save_strategy: 'steps', save_steps: 1, save_total_limit: 2, eval_strategy: 'steps', eval_steps: 7 };
  return project.config({ trainer: { max_steps: 30, ...steps, ...trainer }, adapter: { lora_dropout: 0.1 } });
}

it('a run whose process is killed and resumed is the uninterrupted one', async () => {
  const project = await tinyProject();
  const whole = killConfig(project, { output_dir: join(project.folder, 'whole') });
  await runTraining(whole, { onMessage: () => {} });
  const path = configFile(killConfig(project), project.folder);
  const { kills, code, stderr } = await trainThroughKills(path, project.outputDir, 3, 1);
  expect({ kills, code }, stderr).toEqual({ kills: 3, code: 0 });
  expectSameRun(project.outputDir, whole.trainer.output_dir);
});

it('SIGTERM saves and ends with 130; a second run in the folder is refused meanwhile', async () => {
  const project = await tinyProject();
  const path = configFile(killConfig(project, { max_steps: 100_000, save_steps: 1000 }), project.folder);
  const child = trainProcess(path);
  while (!existsSync(join(project.outputDir, 'coverage.json'))) await new Promise((resolve) => setTimeout(resolve, 20));
  const second = await trainProcess(path).ended;
  expect(second.code).toBe(1);
  expect(second.stderr).toContain(`process ${child.process.pid} trains into this folder`);
  child.process.kill('SIGTERM');
  const { code, stderr } = await child.ended;
  expect(code).toBe(130);
  expect(stderr).toMatch(/SIGTERM: finishing this step, then saving/);
  const [, saved] = /interrupted after step (\d+) of 100000/.exec(stderr) ?? [];
  expect(readCheckpoint(join(project.outputDir, `checkpoint-${saved}`))).toMatchObject({
    state: { step: Number(saved) },
  });
  expect(readdirSync(project.outputDir).filter((name) => name.startsWith('.'))).toEqual([]);
});

it.runIf(process.platform === 'linux')(
  'a file beyond ulimit -f: an error that says so, and the last checkpoint whole',
  async () => {
    const project = await tinyProject();
    await runTraining(killConfig(project, { max_steps: 4 }), { onMessage: () => {} });
    const path = configFile(killConfig(project, { max_steps: 8 }), project.folder);
    // In KiB; optimizer.safetensors is of 104.
    const { code, stderr } = await trainProcess(path, ['--resume'], 'ulimit -f 60').ended;
    expect(stderr).toMatch(
      /cannot write .*optimizer\.safetensors: the file would be larger than this process may write/,
    );
    expect(code).toBe(1);
    const left = readdirSync(project.outputDir).filter((name) => name.includes('checkpoint'));
    expect(left).toEqual(['checkpoint-3', 'checkpoint-4']);
    expect(readCheckpoint(join(project.outputDir, 'checkpoint-4'))).toMatchObject({ state: { step: 4 } });
    expect(readRecord(project.outputDir).status).toBe('failed');
    expect((await trainProcess(path, ['--resume']).ended).code).toBe(0);
  },
);

/** Makes a folder a disk of its own, of so many KiB, until the test ends; false where this process may not. */
function mountSmallDisk(folder: string, kibibytes: number): boolean {
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${kibibytes}k`, 'tmpfs', folder]).status !== 0) return false;
  onTestFinished(() => {
    spawnSync('umount', [folder]);
  });
  return true;
}

const canMount =
  process.platform === 'linux' && spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).status === 0;

it.runIf(canMount)('a full disk: an error that says so, and the last checkpoint whole', async () => {
  const project = await tinyProject();
  await runTraining(killConfig(project, { max_steps: 4 }), { onMessage: () => {} });
  const disk = join(temporaryFolder(), 'disk');
  mkdirSync(disk);
  expect(mountSmallDisk(disk, 1024)).toBe(true);
  const outputDir = join(disk, 'run');
  cpSync(project.outputDir, outputDir, { recursive: true });
  const path = configFile(
    killConfig(project, { max_steps: 40, save_total_limit: null, output_dir: outputDir }),
    project.folder,
  );
  const { code, stderr } = await trainProcess(path, ['--resume']).ended;
  expect(stderr).toMatch(
    /cannot write .*run.*: no space is left on the disk; free some, or choose a folder on another one \(ENOSPC\)/,
  );
  expect(stderr).not.toMatch(/\n\s+at /);
  expect(code).toBe(1);
  const steps = readdirSync(outputDir).flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []);
  const last = Math.max(...steps.map(Number));
  expect(last).toBeGreaterThanOrEqual(4);
  for (const step of steps) {
    expect(readCheckpoint(join(outputDir, `checkpoint-${step}`))).toMatchObject({ state: { step: Number(step) } });
  }
  expect(readdirSync(outputDir).filter((name) => name.startsWith('.checkpoint'))).toEqual([]);
});
