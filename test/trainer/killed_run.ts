// SPDX-License-Identifier: Apache-2.0
/** Trains in processes that are killed at seeded random moments and resumed, until the run is over. Uses dist/, as built by pretest. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatConfig } from '../../src/config/load.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { createRandom, type Random } from '../../src/random.ts';
import { CHECKPOINT_FOLDER } from '../../trainer/checkpoints.ts';

export interface Kills {
  kills: number;
  /** Kills that came while a checkpoint was being written. */
  inSaves: number;
  /** Exit code and stderr of the process that ended by itself. */
  code: number | null;
  stderr: string;
}

export interface Child {
  process: ChildProcess;
  ended: Promise<{ code: number | null; stderr: string }>;
}

/** Writes the config where `train` can read it. */
export function configFile(config: RunConfig, folder: string): string {
  const path = join(folder, 'config.yaml');
  writeFileSync(path, formatConfig(config));
  return path;
}

export function trainProcess(configPath: string, args: readonly string[] = [], shell?: string): Child {
  const argv = [process.execPath, 'dist/src/cli/main.js', 'train', configPath, ...args];
  const child =
    shell === undefined
      ? spawn(argv[0] as string, argv.slice(1))
      : spawn('bash', ['-c', `${shell}; exec "$@"`, 'bash', ...argv]);
  let stderr = '';
  child.stderr?.on('data', (text: Buffer) => {
    stderr += text;
  });
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stderr }));
  });
  return { process: child, ended };
}

/** Kills `count` processes by SIGKILL, then lets one go to the end. */
export async function trainThroughKills(
  configPath: string,
  outputDir: string,
  count: number,
  seed: number,
): Promise<Kills> {
  const random = createRandom({ seed });
  let [kills, inSaves] = [0, 0];
  while (kills < count) {
    const child = trainProcess(configPath, ['--resume']);
    const isOver = await Promise.race([child.ended, untilKillTime(outputDir, random)]);
    if (isOver) return { kills, inSaves, ...isOver };
    child.process.kill('SIGKILL');
    await child.ended;
    kills++;
    if (readdirSync(outputDir).some((name) => /^\.checkpoint-.*\.tmp$/.test(name))) inSaves++;
  }
  return { kills, inSaves, ...(await trainProcess(configPath, ['--resume']).ended) };
}

/** One in five at any moment of the start; the others within 60 ms after the first or second new checkpoint. */
async function untilKillTime(outputDir: string, random: Random): Promise<undefined> {
  if (random.below(5) === 0 && existsSync(outputDir)) await sleep(random.below(1500));
  else {
    for (let saves = 1 + random.below(2); saves > 0; saves--) await nextCheckpoint(outputDir);
    await sleep(random.below(60));
  }
}

async function nextCheckpoint(outputDir: string): Promise<void> {
  while (!existsSync(outputDir)) await sleep(5);
  const watcher = watch(outputDir);
  try {
    await new Promise<void>((resolve) => {
      watcher.on('change', (_, name) => {
        if (CHECKPOINT_FOLDER.test(String(name))) resolve();
      });
    });
  } finally {
    watcher.close();
  }
}
