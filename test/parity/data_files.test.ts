// SPDX-License-Identifier: Apache-2.0
/** Data files as this machine's pyarrow and pandas write them. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, inject } from 'vitest';
import { testForeignFiles } from '../datasets/foreign_files.ts';

const python = inject('python');

describe.runIf(python !== null)('files written by pyarrow and pandas', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'mambatune-parity-'));
    execFileSync(python as string, [new URL('data_files.py', import.meta.url).pathname, folder], { stdio: 'inherit' });
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  testForeignFiles(() => folder);
});
