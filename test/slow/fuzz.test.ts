// SPDX-License-Identifier: Apache-2.0
/**
 * Damaged files through the readers of the commands: each is read, or refused with a UserError, within 5 s and 1 GB. A case that is
 * not stays in build/fuzz. MAMBATUNE_FUZZ_CASES changes how many cases there are, MAMBATUNE_FUZZ_SEED which.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { TARGETS } from './fuzz/targets.mjs';

const CASES = Number(process.env.MAMBATUNE_FUZZ_CASES ?? 10_000);
const SEED = Number(process.env.MAMBATUNE_FUZZ_SEED ?? 1);
/** A reader that stays at one file for longer hangs. */
const MAX_SECONDS = 5;

describe('damaged files', () => {
  it.each(Object.keys(TARGETS))(`%s: ${CASES} of them are read or refused, in time and in memory`, async (name) => {
    const folder = temporaryFolder();
    const script = new URL('fuzz/child.mjs', import.meta.url).pathname;
    const child = spawn(process.execPath, [
      '--max-old-space-size=900',
      script,
      name,
      String(SEED),
      String(CASES),
      folder,
      '0',
    ]);
    const output = collect(child);
    const hang = watchForHang(child, join(folder, 'case'));
    await once(child, 'close');
    clearInterval(hang.timer);
    const last = output.stdout.trim().split('\n').at(-1) ?? '';
    const report = last.startsWith('{') ? (JSON.parse(last) as Record<string, unknown>) : {};
    if (report.done !== CASES) {
      const kept = join('build', 'fuzz', `${name}-${SEED}-${caseNumber(join(folder, 'case'))}`);
      mkdirSync(kept, { recursive: true });
      cpSync(join(folder, 'input'), kept, { recursive: true });
      const fault = hang.found ? `no answer within ${MAX_SECONDS} s` : (report.fault ?? output.stderr);
      expect.fail(`${name}: the files in ${kept}: ${fault}`);
    }
    process.stderr.write(`fuzz ${name}: ${JSON.stringify(report)}\n`);
    expect(report.accepted, 'some are harmless').toBeGreaterThan(0);
    expect(report.refused, 'most are not').toBeGreaterThan(CASES / 10);
  });
});

function collect(child: ChildProcess): { stdout: string; stderr: string } {
  const output = { stdout: '', stderr: '' };
  child.stdout?.on('data', (chunk) => {
    output.stdout += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output.stderr += chunk;
  });
  return output;
}

/** Kills a child that stays at one case. */
function watchForHang(child: ChildProcess, path: string): { found: boolean; timer: NodeJS.Timeout } {
  let [current, since] = [-1, performance.now()];
  const hang = {
    found: false,
    timer: setInterval(() => {
      const number = caseNumber(path);
      if (number !== current) [current, since] = [number, performance.now()];
      else if (number >= 0 && performance.now() - since > MAX_SECONDS * 1000) {
        hang.found = true;
        child.kill('SIGKILL');
      }
    }, 500),
  };
  return hang;
}

/** The case that the child is at; -1 before the first. */
function caseNumber(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch {
    return -1;
  }
}
