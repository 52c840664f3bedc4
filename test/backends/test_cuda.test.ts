// SPDX-License-Identifier: Apache-2.0
/** What `npm run test:cuda` does where there is no GPU. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { packageRoot } from '../../src/backends/addon.ts';

it('without a GPU it says that it ran nothing, and why, and fails', () => {
  const vitest = join(packageRoot(), 'node_modules', 'vitest', 'vitest.mjs');
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [vitest, 'run', '--config', 'test/cuda/vitest.config.ts', 'test/cuda'],
    { cwd: packageRoot(), encoding: 'utf8', env: { ...process.env, CUDA_VISIBLE_DEVICES: '' } },
  );
  expect(stderr).toMatch(/\*\*\* test:cuda ran NOTHING: the cuda backend is not usable here: \S+/);
  expect(stdout).not.toMatch(/passed/);
  expect(status).toBe(1);
});
