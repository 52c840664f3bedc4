// SPDX-License-Identifier: Apache-2.0
import { probeBackend } from '../../src/backends/select.ts';

/** Ends the run, with what is missing, where there is no GPU to test. */
export async function setup(): Promise<void> {
  const reason = await probeBackend('cuda');
  if (reason === undefined) return;
  console.error(`\n*** test:cuda ran NOTHING: the cuda backend is not usable here: ${reason}\n`);
  process.exit(1);
}
