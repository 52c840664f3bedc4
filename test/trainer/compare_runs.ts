// SPDX-License-Identifier: Apache-2.0
/** Whether two run folders hold the same run, bit for bit, but for what was measured. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { readMetrics, readNorms, readSamples } from './tiny_project.ts';

const MEASURED = ['tokens_per_second', 'eval_seconds', 'peak_memory_bytes'];
const FILES = ['adapter/adapter_model.safetensors', 'adapter/adapter_config.json', 'coverage.json'];

export function expectSameRun(folder: string, expected: string): void {
  const lines = (of: string) =>
    readMetrics(of).map((line) => Object.entries(line).filter(([key]) => !MEASURED.includes(key)));
  expect(lines(folder)).toEqual(lines(expected));
  expect(readNorms(folder)).toEqual(readNorms(expected));
  expect(readSamples(folder)).toEqual(readSamples(expected));
  for (const file of FILES) {
    expect(readFileSync(join(folder, file)).equals(readFileSync(join(expected, file))), file).toBe(true);
  }
}
