// SPDX-License-Identifier: Apache-2.0
/**
 * Reads damaged files, one after another: `child.mjs TARGET SEED COUNT FOLDER FROM`. The file FOLDER/case says which one it is at;
 * its last line on stdout is a JSON object, either {done} or what went wrong.
 */
import { mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../../dist/src/errors.js';
import { createRandom } from './mutate.mjs';
import { TARGETS } from './targets.mjs';

const [name, seed, count, folder, from] = process.argv.slice(2);
const MAX_BYTES = 2 ** 30;
const target = TARGETS[name];
const input = join(folder, 'input');
mkdirSync(input, { recursive: true });
await target.prepare?.(input);
const seeds = target.seeds(input);
const status = openSync(join(folder, 'case'), 'w');
const tally = { done: 0, accepted: 0, refused: 0, slowest_ms: 0 };

for (let number = Number(from); number < Number(count); number++) {
  const random = createRandom(Number(seed) * 1_000_003 + number);
  const bytes = target.mutate(random.pick(seeds), random, random.pick(seeds));
  writeFileSync(join(input, target.file), bytes);
  writeSync(status, String(number).padEnd(12), 0);
  const start = performance.now();
  const fault = await read();
  tally.slowest_ms = Math.max(tally.slowest_ms, performance.now() - start);
  tally.done += 1;
  const { maxRSS } = process.resourceUsage();
  if (fault === undefined && maxRSS * 1024 <= MAX_BYTES) continue;
  end({ number, fault: fault ?? `${maxRSS} KiB of memory` });
}
end({ ...tally, max_rss_mib: Math.round(process.resourceUsage().maxRSS / 1024) });

/** What is no fault: the file is accepted, or refused in words for a person. */
async function read() {
  try {
    await target.read(input);
    tally.accepted += 1;
  } catch (error) {
    if (!(error instanceof UserError)) return error instanceof Error ? error.stack : String(error);
    tally.refused += 1;
  }
}

function end(report) {
  process.stdout.write(`${JSON.stringify(report)}\n`);
  process.exit(0);
}
