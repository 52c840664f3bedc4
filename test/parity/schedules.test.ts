// SPDX-License-Identifier: Apache-2.0
/** Learning rates against those of the transformers and torch that are installed. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, inject, it } from 'vitest';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { expectSchedules } from '../trainer/schedule_golden.ts';

const python = inject('python');

it.runIf(python)('every schedule, step by step', () => {
  const path = join(temporaryFolder(), 'schedules.json');
  execFileSync(python as string, ['test/golden/schedules/make_schedules.py', path], { stdio: 'pipe' });
  expect(expectSchedules(path).size).toBeGreaterThan(10);
});
